"""What a run is told: one frozen tree, every key with its unit and default. `configfile.py` reads it from a file."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bbdistill.errors import ConfigError
from bbdistill.keylike import address_secret

Recipe = Literal["sft", "best_of_n", "isft", "rgt", "process", "dpo", "gad", "grpo", "rubric", "coach", "kd", "opd"]
REWARDED: tuple[Recipe, ...] = ("gad", "grpo", "rubric", "coach")
"""Recipes whose own loop is a policy gradient on rewards, mixed as `[reward]` says."""
CacheMode = Literal["auto", "record", "replay", "off"]
VERIFIERS_WITH_A_FILE = ("json_schema", "retrieval", "rubric")
VERIFIERS = ("json_schema", "fields", "exact", "contains", "regex", "math", "python_tests", "retrieval", "rubric")


class Section(BaseModel):
    # Inputs stay out of pydantic's own messages: what stands where a key's name should be may be the key.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class StudentConfig(Section):
    model: str
    """Hub id or local directory; `bundled` is the small model of the demo."""
    adapter: Path | None = None
    """Adapter of an earlier run that training goes on from; it must have the same rank and alpha. None = a new one."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the frozen base; adapters are always float32."""
    lora_rank: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    max_new_tokens: int = Field(512, ge=1)
    temperature: float = Field(1.0, gt=0)
    """Of training rollouts; evaluation is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)


class PurposeCaps(Section):
    """Dollars; None = no cap of its own."""

    demonstrations: float | None = Field(None, gt=0)
    preferences: float | None = Field(None, gt=0)
    corrections: float | None = Field(None, gt=0)
    rubric: float | None = Field(None, gt=0)
    coaching: float | None = Field(None, gt=0)
    scores: float | None = Field(None, gt=0)
    evaluation: float | None = Field(None, gt=0)


class ModelConfig(Section):
    """A hosted model and how it is asked: `[judge]`, and the greater part of `[teacher]`."""

    model: str
    """`provider:model`; providers are `openai` (and any compatible server) and `anthropic`.

    Of `[teacher]` also `local:PATH`: a model in this process, a hub id, a directory, or an adapter of an earlier run.
    """
    base_url: str | None = None
    """None = the provider's own address."""
    api_key_env: str | None = None
    """Name of the environment variable with the key; None = the provider's usual one, if it is set."""
    api_key_cmd: str | None = None
    """Command that prints the key, such as a password manager's; run without a shell, for 10 seconds at most."""
    id: str | None = None
    """Name of this teacher inside request keys; None = the provider, or host:port of another server."""
    concurrency: int = Field(64, ge=1)
    """Calls at once, at most; from 32 up, as many as the server takes without throttling are found by trying."""
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    input_tokens_per_minute: int | None = Field(None, ge=1)
    output_tokens_per_minute: int | None = Field(None, ge=1)
    """Your rate limits, where the server does not tell them, or you want to stay below; what it tells is learned."""
    timeout_s: float = Field(600, gt=0)
    max_tokens: int = Field(1024, ge=1)
    """Output limit of one call."""
    temperature: float | None = None
    """None = not sent; current Claude models refuse it. A local teacher is then greedy."""
    input_usd_per_mtok: float | None = Field(None, ge=0)
    output_usd_per_mtok: float | None = Field(None, ge=0)
    """Your own prices in dollars per million tokens, where the price table is wrong or does not know the model."""
    terms: str | None = None
    """What permits you to train on this model's answers, in your words; it goes into the report and the model card."""

    @property
    def prices(self) -> tuple[float, float] | None:
        """The user's own prices, if any: dollars per million tokens in and out. A model in this process is free."""
        if self.is_local:
            return 0.0, 0.0
        if self.input_usd_per_mtok is None or self.output_usd_per_mtok is None:
            return None
        return self.input_usd_per_mtok, self.output_usd_per_mtok

    @property
    def model_name(self) -> str:
        """Without the provider."""
        return self.model.partition(":")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is a model in this process."""
        return self.model.startswith("local:")

    @field_validator("model")
    @classmethod
    def _provider_known(cls, model: str) -> str:
        provider, colon, name = model.partition(":")
        if not colon or not name or provider not in ("openai", "anthropic", "local"):
            raise ValueError("expected `openai:MODEL`, `anthropic:MODEL` or `local:PATH`")
        return model

    @field_validator("api_key_env")
    @classmethod
    def _name_not_key(cls, name: str | None) -> str | None:
        if name is not None and not name.replace("_", "").isalnum():
            raise ValueError("expected the name of an environment variable, not the key itself")
        return name

    @field_validator("base_url")
    @classmethod
    def _no_secret_in_address(cls, address: str | None) -> str | None:
        if address is not None and not address.startswith(("http://", "https://")):
            raise ValueError("expected an address that begins with http:// or https://")
        if address is not None and address_secret(address):
            raise ValueError("expected an address without user, password or key; name the key in `api_key_env`")
        return address

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.input_usd_per_mtok is None) != (self.output_usd_per_mtok is None):
            raise ValueError("set `input_usd_per_mtok` and `output_usd_per_mtok` together, or neither")
        return self

    @model_validator(mode="after")
    def _one_source_of_the_key(self) -> Self:
        if self.api_key_env is not None and self.api_key_cmd is not None:
            raise ValueError("set `api_key_env` or `api_key_cmd`, not both")
        return self


class TeacherConfig(ModelConfig):
    cache: Path = Path("cache/teacher.db")
    """The store: every paid reply, plan and rollout."""
    max_usd: float | None = Field(None, ge=0)
    """Hard cap for one run, the judge's calls included; None = no cap, 0 = only what is stored or free."""
    max_usd_by: PurposeCaps = PurposeCaps()  # pyright: ignore[reportCallIssue]
    """Hard caps on one purpose each, beside that: `max_usd_by = { preferences = 2.0 }`."""


class TaskConfig(Section):
    prompts: Path
    test: Path | None = None
    validation: Path | None = None
    """None = carved from `prompts`."""
    validation_size: int = Field(24, ge=1)
    """At most this many prompts, and at most a fifth of them, are carved off."""
    verifier: tuple[str | dict[str, Any], ...] | None = None
    """`name` or `name:FILE`, a table with `use = "name"`, `weight`, `gate` and its options, or a list of these."""
    reveal: bool = False
    """Whether feedback may name the expected value; off, the teacher is told only which part is wrong and why."""
    near_duplicates: Literal["remove", "report"] = "remove"
    """What is done with training prompts that say almost the same as another one, unless their references differ.

    Equal ones are always removed.
    """
    allow_contamination: bool = False
    """Whether a test prompt may also stand in the training prompts."""
    templates: Path | None = None
    """Directory whose `*.md` replace the shipped teacher prompts of the same name."""

    @field_validator("verifier", mode="before")
    @classmethod
    def _as_list(cls, given: Any) -> Any:
        match given:
            case str() | dict():
                return (cast(Any, given),)
            case list() if not given:
                raise ValueError("expected at least one verifier; leave the key out where there is none")
            case list() if not all(isinstance(one, str | dict) for one in cast(list[Any], given)):
                raise ValueError("expected each verifier as text or as a table")
            case _:
                return given


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
    clip_high: float = Field(0.28, gt=0)
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


class RunConfig(Section):
    recipe: Recipe
    student: StudentConfig | None = None
    teacher: TeacherConfig
    judge: ModelConfig | None = None
    """Who compares answers; None = the teacher. Its replies go into the teacher's store, under the teacher's cap."""
    task: TaskConfig
    train: TrainConfig = TrainConfig()  # pyright: ignore[reportCallIssue]
    reward: RewardConfig = RewardConfig()  # pyright: ignore[reportCallIssue]
    policy: PolicyConfig = PolicyConfig()  # pyright: ignore[reportCallIssue]
    rubric: RubricConfig = RubricConfig()  # pyright: ignore[reportCallIssue]
    coach: CoachConfig = CoachConfig()  # pyright: ignore[reportCallIssue]
    dpo: DPOConfig = DPOConfig()  # pyright: ignore[reportCallIssue]
    distill: DistillConfig = DistillConfig()  # pyright: ignore[reportCallIssue]
    discriminator: DiscriminatorConfig = DiscriminatorConfig()  # pyright: ignore[reportCallIssue]
    feedback: FeedbackConfig = FeedbackConfig()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _candidates_differ(self) -> Self:
        if self.recipe != "best_of_n" or self.feedback.candidates_from != "teacher":
            return self
        if self.teacher.temperature == 0 or (self.teacher.is_local and self.teacher.temperature is None):
            change = "set it, such as to 1" if self.teacher.is_local else "raise it, or leave it out"
            raise ValueError(f"`teacher.temperature = 0` makes all candidates alike; {change}")
        return self

    @model_validator(mode="after")
    def _something_is_rewarded(self) -> Self:
        if not self.rewarded:
            return self
        if self.reward.verifier_alone and not self.reward.verifier:
            raise ValueError("all weights in `[reward]` are 0, so there is nothing to reward; raise one")
        if self.reward.verifier_alone and self.task.verifier is None:
            raise ValueError(
                f"`{self.recipe}` rewards what the verifier says, and there is none; set `task.verifier`, or raise "
                "another weight in `[reward]`"
            )
        if self.recipe == "gad" and not self.reward.discriminator:
            raise ValueError("`gad` without a discriminator is `grpo`; set `recipe`, or raise `reward.discriminator`")
        if self.recipe == "rubric" and not self.reward.rubric:
            raise ValueError("`rubric` without a rubric is `grpo`; set `recipe`, or raise `reward.rubric`")
        if self.reward.preference and not self.feedback.preferences:
            raise ValueError("`reward.preference` needs comparisons; raise `feedback.preferences`")
        if self.train.group_size < 2:
            raise ValueError("advantages are differences within a group; set `train.group_size` to 2 or more")
        return self

    @property
    def rewarded(self) -> bool:
        """Whether the recipe has a policy term."""
        return self.recipe in REWARDED

    @model_validator(mode="after")
    def _somebody_scores(self) -> Self:
        provider = self.teacher.model.partition(":")[0]
        if self.judge is not None and self.judge.is_local:
            raise ValueError("`judge.model`: a model in this process can be the teacher, not the judge")
        if self.recipe in ("kd", "opd") and provider == "anthropic":
            raise ValueError(f"`{self.recipe}` needs log-probs, which this API never gives; use `coach` or `isft`")
        given = self.recipe in ("kd", "opd") and self.distill.scores == "given"
        if given and provider == "openai" and self.teacher.base_url is None:
            raise ValueError(
                f"`{self.recipe}` has given texts scored (vLLM's `prompt_logprobs`), which api.openai.com does not do; "
                "set `teacher.base_url` to a server that does, or, of `kd`, `distill.scores` to `own`"
            )
        if self.recipe == "opd" and self.distill.scores == "own":
            raise ValueError("`opd` needs a teacher that scores the student's texts: `distill.scores` must be `given`")
        return self

    def require_student(self) -> StudentConfig:
        """The `[student]` table, which collecting needs not and training does."""
        if self.student is None:
            raise ConfigError('the config has no `[student]` table; add one with `model = "<hub id or directory>"`')
        return self.student

    @property
    def judge_config(self) -> TeacherConfig:
        """Who compares answers, with the store and the cap of the teacher."""
        if self.judge is None:
            return self.teacher
        shared = {"cache": self.teacher.cache, "max_usd": self.teacher.max_usd}
        return TeacherConfig.model_validate(self.judge.model_dump() | shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is made, apart from what its config says."""

    overrides: tuple[str, ...] = ()
    """`a.b=value`, as `--set`."""
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    mode: CacheMode = "auto"
    replay: str | None = None
    """FILE or FILE#RUN."""
    max_usd: float | None = None
    skip_bad: bool = False
    batch: bool = False
    """Demonstrations and the teacher's evaluation through the provider's batch API."""

    def __post_init__(self) -> None:
        if self.max_usd is not None and not 0 <= self.max_usd < math.inf:
            raise ConfigError(f"--max-usd: expected a finite number, 0 or more, got {self.max_usd}")
        if self.batch and self.mode in ("record", "off"):
            raise ConfigError(f"--batch answers through the record, so it needs `--cache auto`, got `{self.mode}`")
