"""The loop: how a student learns from a teacher it can only ask.

`Trainer.step` is the method: sample rollouts; ask the teacher about them; reward them with the discriminator as it was
before the step; update the student on the rewards and on the answers worth imitating; update the discriminator on what
was learned. A warm-up is the same step with the policy term off. What is drawn and asked in a step is
`sampling.py`, what is optimised in which stage `objectives.py`; the objects are made in `setup.py`.
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import replace

from bbdistill import evidence
from bbdistill.collapse import collapse
from bbdistill.demonstrations import collect_demonstrations
from bbdistill.errors import RunStopped
from bbdistill.evaluate import judge, mean
from bbdistill.lessons import Gathered, choose, from_candidates, from_corrections, own_candidates, taught
from bbdistill.measures import leak_metrics, rollout_metrics, rubric_metrics, runs, scored_metrics, verdict_metrics
from bbdistill.metrics import MetricsFile, StepDone
from bbdistill.objectives import (
    Lessons,
    as_lessons,
    blame_batch,
    distill_batch,
    edited,
    policy_batch,
    preference_batch,
    ranked_pairs,
    sft_batch,
    within,
)
from bbdistill.rewards import Rewards, checks, graded, reward, reward_metrics, wins, without_length
from bbdistill.sampling import Sampled, Sampler
from bbdistill.setup import Run
from bbdistill.stages import Stage
from bbdistill.state import TrainState
from bbdistill.teacher.ask import Feedback
from bbdistill.teacher.ask import demonstrations as ask_demonstrations
from bbdistill.types import FEEDBACK, Demonstration, PolicyExample

PROBED = 8
"""Demonstrations, always the same ones, that show from step to step whether what was taught is forgotten."""


class Trainer:
    """Takes a run from where its state stands to the end of its last stage."""

    def __init__(self, run: Run, state: TrainState, demonstrations: dict[str, Demonstration]) -> None:
        self.run, self.state, self.demonstrations = run, state, demonstrations
        self._demonstrated = as_lessons(demonstrations.values())
        self._taught = [(each.prompt, each.completion) for each in demonstrations.values()][:PROBED]
        self._metrics_file = MetricsFile(run.directory.metrics, after_step=state.step)
        self._sampler = Sampler(run, state, demonstrations)
        self._lengths = {d.prompt.id: run.student.length(d.prompt, d.completion) for d in demonstrations.values()}
        self._told = {words for text in state.advice for words in runs(text)}
        self._ledger = run.teacher.ledger.state()

    def train(self) -> None:
        """Every remaining step; a validation and a checkpoint where the stage asks for one, and when told to stop."""
        try:
            self._train()
        except RunStopped:
            # Raised before a step or a validation, or while it waits for the teacher: it is still to come. Its calls,
            # which the ledger may have counted, are counted when it is done again, from the record.
            self.state.save(self.run, ledger=self._ledger)
            raise

    def _train(self) -> None:
        self._end_if_collapsed()  # what was resumed may have collapsed in its last step
        for stage in self.run.stages[self.state.stage :]:
            if stage.rewarded and not self.state.best:
                self._validate(stage)  # so that a student which only gets worse ends as it began
            self._validate_if_due(stage)  # what was resumed may have been stopped before that
            while not self.state.stage_over(stage):
                self._ledger = self.run.teacher.ledger.state()
                self.run.check_stop()
                started = time.monotonic()
                metrics = self.step(stage)
                seconds = time.monotonic() - started
                self.state.advance(metrics, seconds=seconds)
                self._tell(stage, metrics | {"time/step_s": seconds})
                self._validate_if_due(stage)
                if self.state.step % self.run.config.train.checkpoint_every == 0:
                    self.state.save(self.run)
            self.state.close(stage, self.run)

    def step(self, stage: Stage) -> dict[str, float]:
        """One step of the method; returns its metrics."""
        run, rate = self.run, stage.rate(self.state.stage_step)
        sampled = self._sampler.sampled(stage)
        feedback = run.wait(sampled.answers, f"step {self.state.step + 1}: asking the teacher")
        feedback = replace(feedback, corrections=within(feedback.corrections, run.student.fits))
        rewards = self._rewards(sampled, feedback)
        credit = run.credit(sampled.rollouts, rewards, feedback)
        pairs = ranked_pairs(sampled.rollouts, self.demonstrations, feedback.preferences, feedback.accepted)
        metrics = self._measured(stage, sampled, feedback)
        metrics |= run.student.update(
            [
                *policy_batch(sampled.rollouts, rewards, credit.magnitudes, stage),
                *blame_batch(sampled.prompts, self.state.blamed, stage),
            ],
            sft_batch(sampled.prompts, self._lessons(stage), feedback.accepted, stage),
            preference_batch(pairs, sampled.rollouts, stage),
            distill_batch(sampled.prompts, sampled.rollouts, self.demonstrations, feedback.scores, stage),
            learning_rate=rate,
        )
        metrics |= run.discriminator.update(pairs)
        metrics |= self._gather(stage, sampled, feedback)
        self._keep(sampled, feedback)
        return metrics | credit.metrics | reward_metrics(rewards, learned=stage.policy)

    def _lessons(self, stage: Stage) -> Lessons:
        """What the stage imitates."""
        match stage.lessons:
            case "demonstrations":
                return self._demonstrated
            case "gathered":
                return self.state.gathered
            case None:
                return {}

    def _rewards(self, sampled: Sampled, feedback: Feedback) -> Rewards:
        run, config = self.run, self.run.config
        scores = run.discriminator.scores(sampled.rollouts)
        if config.discriminator.length_control:
            scores = without_length(scores, sampled.rollouts)
        terms = {
            "discriminator": scores,
            "verifier": checks(sampled.verdicts),
            "preference": wins(sampled.rollouts, feedback.preferences),
            "rubric": graded(sampled.rollouts, feedback.marked),
        }
        held_back = config.policy.kl == "k1_reward" and config.policy.kl_coef > 0
        return reward(
            terms,
            config.reward,
            config.policy,
            trust=run.discriminator.trust,
            drift_P_G=run.student.drift(sampled.rollouts) if held_back else (),
            discriminator_version=run.discriminator.version,
        )

    def _measured(self, stage: Stage, sampled: Sampled, feedback: Feedback) -> dict[str, float]:
        """What the monitors look at besides the losses."""
        run = self.run
        rollouts, verdicts = sampled.rollouts, sampled.verdicts
        if stage.frozen:  # a snapshot's say nothing of the student as it is now
            rollouts, verdicts = [], []
        ages = [run.student.version - rollout.policy_version for rollout in itertools.chain(*rollouts)]
        known = mean(run.student.nll(self._taught)) if stage.rewarded else None
        cap, spent = run.config.teacher.max_usd, run.teacher.spent_usd
        return {
            **rollout_metrics(rollouts, self._lengths),
            **verdict_metrics(verdicts),
            **rubric_metrics(feedback.marked),
            **scored_metrics(feedback.scores),
            **leak_metrics(rollouts, self._told),
            **run.discriminator.tripwire(rollouts, self.demonstrations),
            **run.teacher.ledger.rates(),
            **({"policy/staleness": sum(ages) / len(ages)} if ages else {}),
            **({} if known is None else {"demonstrations/nll": known}),
            **({"teacher/spent_share": spent / cap} if cap and spent is not None else {}),
        }

    def _gather(self, stage: Stage, sampled: Sampled, feedback: Feedback) -> dict[str, float]:
        """Keeps what the step found worth imitating for the stage after it; its metrics."""
        run = self.run
        match stage.gathers:
            case None:
                return {}
            case "corrections":
                found = from_corrections(sampled.rollouts, sampled.verdicts, feedback, nll=run.student.nll)
                self.state.blamed |= self._blamed(feedback)
            case "candidates":
                found = self._best_candidates(sampled, feedback)
        self.state.gather(found)
        step = self.state.step + 1
        evidence.write_lessons(run.directory.evidence("lessons", step), itertools.chain(*found.lessons.values()))
        evidence.write_set_aside(run.directory.evidence("set_aside", step), found.set_aside)
        return found.tally.metrics()

    def _blamed(self, feedback: Feedback) -> dict[str, PolicyExample]:
        """Drafts of which the teacher marked a part as wrong, with the blame on that part; by prompt id."""
        run, train = self.run, self.run.config.train
        if not run.config.policy.token_credit:
            return {}
        weight = train.policy_learning_rate / train.learning_rate  # the stage that learns from it takes the latter
        return {
            c.rollout.prompt.id: PolicyExample(
                rollout=c.rollout,
                advantage=-weight,
                magnitude=run.student.touched(c.rollout, edited(c.rollout.completion, c.text)),
            )
            for c in feedback.accepted
            if c.region is not None
        }

    def _best_candidates(self, sampled: Sampled, feedback: Feedback) -> Gathered:
        run = self.run
        seen = sum(map(len, (*sampled.rollouts, *feedback.candidates)))
        judged = run.config.task.verifier is not None
        own = own_candidates(sampled.rollouts, sampled.verdicts, judged=judged)
        sound_P = [*own, *taught(feedback.candidates, run.task.verify)]
        candidates_P = [[each for each in sound if run.student.fits(each.prompt, each.text)] for sound in sound_P]
        decided = run.plan.decide(self.state.step, "kept", lambda: {"kept": choose(candidates_P, run.student.nll)})
        return from_candidates(candidates_P, decided["kept"], seen=seen)

    def _keep(self, sampled: Sampled, feedback: Feedback) -> None:
        """Evidence of the step for people, and its counts."""
        directory, step = self.run.directory, self.state.step + 1
        if sampled.rollouts:
            evidence.write_rollouts(directory.evidence("rollouts", step), itertools.chain(*sampled.rollouts))
        if feedback.judgements:
            evidence.write_preferences(directory.evidence("preferences", step), feedback.preferences)
        if feedback.corrections:
            evidence.write_corrections(directory.evidence("corrections", step), feedback.corrections)
        if feedback.marked:
            evidence.write_rubrics(directory.evidence("rubrics", step), feedback.marked)
        if feedback.coachings:
            evidence.write_coachings(directory.evidence("coachings", step), feedback.coachings)
        self._told.update(*(runs(coaching.advice) for coaching in feedback.coachings))
        self.state.count(feedback)

    def _tell(self, stage: Stage, metrics: dict[str, float]) -> None:
        """Metrics to the file and to whoever watches; stops a run whose teacher mostly says nothing usable."""
        self._metrics_file.log(self.state.step, stage.name, metrics)
        self.run.on_event(
            StepDone(
                step=self.state.step,
                stage=stage.name,
                step_in_stage=self.state.stage_step,
                steps_in_stage=stage.steps,
                metrics=metrics,
            )
        )
        self._watch(stage, metrics)
        self._end_if_collapsed()
        self.run.check_abstentions("demonstrations")
        self.run.check_abstentions(*FEEDBACK)

    def _watch(self, stage: Stage, metrics: Mapping[str, float]) -> None:
        """Tells what the monitors find."""
        for alarm in self.state.monitors.look(self.state.step, metrics, rewarded=stage.rewarded):
            self.run.on_event(alarm)

    def _end_if_collapsed(self) -> None:
        """Ends a run that has gone wrong in its last step, unless it is replayed or told to go on."""
        alarm = self.state.monitors.stop_at(self.state.step)
        if alarm and self.run.config.train.on_collapse == "stop" and not self.run.plan.replaying:
            raise collapse(self.run, self.state, alarm)

    def _validate_if_due(self, stage: Stage) -> None:
        if stage.validates(self.state.stage_step) and self.state.validated_step != self.state.step:
            self._ledger = self.run.teacher.ledger.state()
            self._validate(stage)

    def _validate(self, stage: Stage) -> None:
        """Scores the student on the validation prompts; a recorded score is taken as it was decided."""
        decided = self.run.plan.decide(self.state.step, "validation", lambda: {"score": self._validation_score(stage)})
        score: float | None = decided["score"]
        self.state.validated(score, self.run.student)
        says = "nothing to judge it by: the newest counts" if score is None else f"validation score {score:.3f}"
        self.run.note(f"{stage.name} step {self.state.stage_step}: {says}")

    def _validation_score(self, stage: Stage) -> float | None:
        """Mean score of the greedy answers; where nothing can judge them, minus the NLL of the demonstrations.

        That says nothing of rewards and preferences, which lead away from imitation whether they make the student
        better or worse: then it is None, and the newest student counts as the best.
        """
        run, prompts = self.run, self.run.task.validation
        judged = judge("student", prompts, run.student.answer(prompts), run.task.verify)
        found = mean([value for value in judged.scores if value is not None])
        if found is not None:
            return found
        if stage.policy or stage.preference:
            return None
        replies = run.wait(run.submit(ask_demonstrations(run.teacher, prompts, purpose="evaluation")), "validation")
        given = [(reply.prompt, reply.completion) for reply in replies if isinstance(reply, Demonstration)]
        taught = [pair for pair in given if run.student.holds(*pair)]
        nll = mean(run.student.nll(taught))
        return None if nll is None else -nll


def train(run: Run) -> TrainState:
    """Collects the demonstrations a run needs, then trains to the end, from its newest checkpoint if it has one."""
    sifted = collect_demonstrations(run)
    state = TrainState.load(run)  # after collecting: the checkpoint's ledger already counts those calls
    state.demonstrations_used, state.demonstrations_left_out = len(sifted.kept), sifted.left_out
    Trainer(run, state, sifted.kept).train()
    return state
