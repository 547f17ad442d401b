"""How the student learns: the steps of a run, what is asked in each, and the terms of its loss, a table each."""

from typing import Literal

from pydantic import Field

from bbdistill.config.section import Section


class TrainConfig(Section):
    steps: int = Field(20, ge=1)
    """Steps of the recipe's own loop, after its warm-up; of a recipe with rounds, updates in each round, at most."""
    rounds: int = Field(2, ge=1)
    """Of `best_of_n`, `isft`, `rgt`, `process`: gather answers worth imitating, imitate them, and again."""
    prompts_per_round: int | None = Field(None, ge=1)
    """Prompts that a round gathers answers to, each round the next ones; None = all."""
    prompts_per_step: int = Field(8, ge=1)
    group_size: int = Field(4, ge=1)
    """Rollouts per prompt; advantages are centred within the group. Of `best_of_n`: candidates per prompt."""
    lag: int = Field(0, ge=0, le=4)
    """Rollouts of step t come from the policy of step max(0, t - lag); 0 is strictly on-policy."""
    learning_rate: float = Field(5e-4, gt=0)
    """Of supervised steps: all but those with a policy or preference term."""
    policy_learning_rate: float = Field(5e-5, gt=0)
    """Of steps with a policy or preference term: those of a recipe with rewards, and of `dpo`, after the warm-up."""
    sft_weight: float = Field(1.0, ge=0)
    """Weight of the supervised term beside the policy or preference term."""
    max_grad_norm: float = Field(1.0, gt=0)
    warmup_max: int = Field(50, ge=0)
    """Supervised warm-up steps, at most; the warm-up ends earlier once validation stops improving."""
    validate_every: int = Field(10, ge=1)
    """Warm-up steps between validations."""
    validate_policy_every: int = Field(2, ge=1)
    """Policy steps between validations."""
    checkpoint_every: int = Field(5, ge=1)
    on_collapse: Literal["stop", "warn"] = "stop"
    """What is done where a monitor finds a collapse: the run ends and keeps its best student, or only says so."""
    seed: int = 0


class FeedbackConfig(Section):
    demonstrations: bool = True
    """Whether the teacher is asked for the demonstrations that did not come with the data; off, those must do."""
    candidates_from: Literal["teacher", "student"] = "teacher"
    """Who writes the candidates of `best_of_n`."""
    revisions: int = Field(3, ge=1, le=10)
    """Of `isft`, `rgt`, `process`: how often the teacher edits one answer before it is set aside."""
    preferences: int = Field(8, ge=0)
    """Pairs of rollouts asked per step with rewards; each costs two calls, one per order."""
    corrections: int = Field(8, ge=0)
    """Rollouts corrected per step with rewards, the worst first."""
    max_abstain_rate: float = Field(0.5, gt=0, le=1)
    """A run stops when more than this share of at least 20 feedback calls gave nothing usable."""


class RewardConfig(Section):
    """Weights of the mix that `gad`, `grpo`, `rubric` and `coach` reward a rollout with; 0 = off.

    A verifier or a rubric alone keeps its own scale; otherwise every term is brought to the same one before it is
    weighted.
    """

    discriminator: float = Field(0.0, ge=0)
    """The discriminator's score; off, a run has no discriminator."""
    verifier: float = Field(1.0, ge=0)
    preference: float = Field(0.0, ge=0)
    """How often the judge prefers a rollout to another of its group, in both orders; see `feedback.preferences`."""
    rubric: float = Field(0.0, ge=0)
    """The share of the points that a rollout gets by a rubric written for its group; see `[rubric]`."""

    @property
    def verifier_alone(self) -> bool:
        """Whether all there is to a reward is known before anybody is asked."""
        return not (self.discriminator or self.preference or self.rubric)


class PolicyConfig(Section):
    """The policy term of the recipes with rewards."""

    loss: Literal["dapo", "dr_grpo"] = "dapo"
    """What the sum over tokens is divided by: tokens of the step (dapo), or rollouts times the longest (dr_grpo)."""
    scale_rewards: Literal["none", "group"] = "none"
    """Whether advantages are divided by their group's standard deviation."""
    updates: int = Field(1, ge=1, le=16)
    """Optimiser steps on the same rollouts; the clip range matters from the second on."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0, le=10)
    """How far a token's probability may move before its gradient ends: down to 1 - clip_low, up to 1 + clip_high."""
    kl: Literal["k1_reward", "k2_loss"] = "k2_loss"
    """How moving away from the base is held against it: in the reward, nats per rollout, or in the loss, per token."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of that; 0 = off."""
    off_policy_limit: float = Field(0.5, ge=0)
    """Rollouts worse than their group that were drawn by this many nats per token likelier are left out; 0 = none."""
    refills: int = Field(2, ge=0)
    """Rounds in which others replace prompts whose rollouts score alike; with a verifier as the only reward."""
    token_credit: bool = False
    """Whether only what a correction changes in a rollout carries its advantage, instead of all of its tokens.

    Of `process`: whether what was wrong in a draft is also made less likely, at the ratio of the two learning rates.
    """
    credit_clip: float = Field(1.0, gt=0, le=1)
    """How far from 1 the credit of a token may be, before it is scaled so that its rollout's stays what it was.

    1 leaves `token_credit` as it is; what `coach` finds is a ratio, of which one token could have all there is.
    """


class RubricConfig(Section):
    """What `reward.rubric` asks for: in each step one rubric for each prompt, and one call that marks its answers."""

    answers: int = Field(4, ge=1)
    """Answers of the teacher to each prompt, beside which the rollouts are marked; the first is its demonstration."""


class CoachConfig(Section):
    """Of the recipe `coach`: the teacher says what is wrong with a rollout, and the student's own view, so advised,
    says which tokens that concerns."""

    rollouts: int = Field(16, ge=1)
    """Rollouts that the teacher is asked about per step, at most: the worst that the verifier does not pass."""
    self: Literal["ema", "base"] = "ema"
    """Whose view: that of an adapter that follows the student (a twentieth of the way each update), or the base's."""


class DPOConfig(Section):
    beta: float = Field(0.1, gt=0)
    """How much a preference counts against staying near the student as it was before the first preference step."""
    negatives: Literal["on_policy", "snapshot"] = "on_policy"
    """Rejected answers: the student's as it is, or, drawn once, as it was before the first preference step."""


class DistillConfig(Section):
    """The distillation term of `kd` and `opd`."""

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """Between the teacher's next tokens and the student's."""
    beta: float = Field(0.5, gt=0, lt=1)
    """Of `jsd`: towards 0 it is the forward, towards 1 the reverse divergence."""
    top_k: int = Field(20, ge=1)
    """The teacher's likeliest tokens that are compared one by one; all others together are one more outcome."""
    scores: Literal["given", "own"] = "given"
    """Of `kd` with a server: whether it scores given texts (`prompt_logprobs`), or only what it writes (`logprobs`)."""


class DiscriminatorConfig(Section):
    warmup_steps: int = Field(4, ge=0)
    """Steps that train the discriminator alone, on the warmed-up student, before its score is used as a reward."""
    learning_rate: float = Field(5e-4, gt=0)
    teacher_weight: float = Field(1.0, ge=0)
    preference_weight: float = Field(1.0, ge=0)
    correction_weight: float = Field(1.0, ge=0)
    """How much a pair counts: teacher over student, preferred over other, correction over original."""
    pool_fraction: float = Field(0.25, ge=0, lt=1)
    """Share of earlier pairs, teacher over student, in what the discriminator is trained on; no policy sees them."""
    pool_size: int = Field(512, ge=0)
    """Earlier pairs that are kept, the newest."""
    length_control: bool = True
    """Whether the part of its score that a straight line through length explains is taken off the reward."""
