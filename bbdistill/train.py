"""The loop: how a student learns from a teacher it can only ask.

`Trainer.step` is the method: sample rollouts; ask the teacher about them; reward them with the discriminator as it was
before the step; update the student on the rewards and on the answers worth imitating; update the discriminator on what
was learned. A warm-up is the same step with the policy term off. What is asked and optimised in which stage is
`objectives.py`; the objects are made in `setup.py`.
"""

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from bbdistill import data
from bbdistill.errors import RunError, RunStopped
from bbdistill.evaluate import judge, mean
from bbdistill.lessons import Gathered, choose, from_candidates, from_corrections, own_candidates, taught
from bbdistill.metrics import MetricsFile, StepDone
from bbdistill.objectives import (
    TOO_LONG,
    Lessons,
    Pair,
    Sifted,
    Spot,
    as_lessons,
    choose_corrections,
    choose_pairs,
    policy_batch,
    ranked_pairs,
    sft_batch,
    sift,
)
from bbdistill.rewards import Rewards, reward, reward_metrics
from bbdistill.setup import Run
from bbdistill.stages import Stage, demonstrated, prompts_used, step_prompts
from bbdistill.state import TrainState
from bbdistill.task import verify_each
from bbdistill.teacher.ask import Feedback, Questions, ask
from bbdistill.teacher.ask import demonstrations as ask_demonstrations
from bbdistill.teacher.batch import fetch as fetch_by_batch
from bbdistill.types import Abstain, Demonstration, Prompt, Purpose, Rollout, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Rollouts of a step, (P, G), what the verifier says of them, and the teacher's answers, perhaps on their way."""

    prompts: list[Prompt]
    rollouts: list[list[Rollout]]
    verdicts: list[list[Verdict | Abstain]]
    answers: Future[Feedback]


class Trainer:
    """Takes a run from where its state stands to the end of its last stage."""

    def __init__(self, run: Run, state: TrainState, demonstrations: dict[str, Demonstration]) -> None:
        self.run, self.state, self.demonstrations = run, state, demonstrations
        self._demonstrated = as_lessons(demonstrations.values())
        self._metrics_file = MetricsFile(run.directory.metrics, after_step=state.step)
        self._ahead: dict[int, Sampled] = {}
        self._ledger = run.teacher.ledger.state()

    def train(self) -> None:
        """Every remaining step; a validation and a checkpoint where the stage asks for one, and when told to stop."""
        try:
            self._train()
        except RunStopped:
            # Raised before a step or while it waits for the teacher: its updates are still to come. Its calls, which
            # the ledger may have counted, are counted when the step is done again, from the record.
            self.state.save(self.run, ledger=self._ledger)
            raise

    def _train(self) -> None:
        for stage in self.run.stages[self.state.stage :]:
            while not self.state.stage_over(stage):
                self._ledger = self.run.teacher.ledger.state()
                self.run.check_stop()
                started = time.monotonic()
                metrics = self.step(stage)
                seconds = time.monotonic() - started
                self.state.advance(metrics, seconds=seconds)
                self._tell(stage, metrics | {"time/step_s": seconds})
                if stage.validates(self.state.stage_step):
                    self._validate(stage)
                if self.state.step % self.run.config.train.checkpoint_every == 0:
                    self.state.save(self.run)
            self.state.close(stage, self.run)

    def step(self, stage: Stage) -> dict[str, float]:
        """One step of the method; returns its metrics."""
        run, rate = self.run, stage.rate(self.state.stage_step)
        sampled = self._sampled(stage)
        feedback = run.wait(sampled.answers, f"step {self.state.step + 1}: asking the teacher")
        rewards = self._rewards(sampled)
        metrics = run.student.update(
            policy_batch(sampled.rollouts, rewards, stage.policy_weight),
            sft_batch(sampled.prompts, self._lessons(stage), feedback.accepted, stage),
            learning_rate=rate,
        )
        metrics |= run.discriminator.update(
            ranked_pairs(sampled.rollouts, self.demonstrations, feedback.preferences, feedback.accepted)
        )
        metrics |= self._gather(stage, sampled, feedback)
        self._keep(sampled, feedback)
        return metrics | reward_metrics(rewards)

    def _lessons(self, stage: Stage) -> Lessons:
        """What the stage imitates."""
        match stage.lessons:
            case "demonstrations":
                return self._demonstrated
            case "gathered":
                return self.state.gathered
            case None:
                return {}

    def _sampled(self, stage: Stage) -> Sampled:
        """This step's rollouts; with a lag, those of the next steps are drawn and asked about before it."""
        first = self.state.stage_step
        lag = self.run.config.train.lag if stage.group_size else 0  # what is only imitated is not worth a wait
        for ahead in range(first, min(first + lag, stage.steps - 1) + 1):
            if ahead not in self._ahead:
                self._ahead[ahead] = self._sample(stage, self.state.step + ahead - first, ahead)
        return self._ahead.pop(first)

    def _sample(self, stage: Stage, step: int, stage_step: int) -> Sampled:
        """Prompts, rollouts and questions of one step, each committed before it is acted on."""
        run, gathered = self.run, self.state.gathered
        seed = run.config.train.seed
        chosen = run.plan.decide(
            step,
            "prompts",
            lambda: {
                "stage": stage.name,
                "prompts": step_prompts(stage, gathered, step=step, stage_step=stage_step, seed=seed),
            },
        )
        prompts = [run.task.prompt(prompt_id) for prompt_id in chosen["prompts"]]
        rollouts = run.plan.rollouts(
            step, prompts, stage.group_size, lambda: run.student.sample(prompts, group_size=stage.group_size, step=step)
        )
        verdicts = verify_each(rollouts, run.task.verify)
        asked = run.plan.decide(
            step,
            "questions",
            lambda: {
                "pairs": choose_pairs(rollouts, verdicts, stage.preferences),
                "corrections": choose_corrections(
                    rollouts, verdicts, run.discriminator.scores(rollouts), stage.corrections
                ),
            },
        )
        pairs: list[Pair] = asked["pairs"]
        spots: list[Spot] = asked["corrections"]
        questions = Questions(
            pairs=tuple((rollouts[p][i], rollouts[p][j]) for p, i, j in pairs),
            corrections=tuple((rollouts[p][i], verdicts[p][i]) for p, i in spots),
            revising=stage.revising,
            candidates=tuple(prompts) if stage.candidates else (),
            per_prompt=stage.candidates,
        )
        answers = run.submit(ask(run.teacher, run.judge, questions, run.task.verify))
        return Sampled(prompts=prompts, rollouts=rollouts, verdicts=verdicts, answers=answers)

    def _rewards(self, sampled: Sampled) -> Rewards:
        weights = self.run.config.discriminator
        return reward(
            self.run.discriminator.scores(sampled.rollouts),
            sampled.verdicts,
            discriminator_version=self.run.discriminator.version,
            discriminator_weight=weights.reward_weight,
            verifier_weight=weights.verifier_weight,
        )

    def _gather(self, stage: Stage, sampled: Sampled, feedback: Feedback) -> dict[str, float]:
        """Keeps what the step found worth imitating for the stage after it; its metrics."""
        run = self.run
        match stage.gathers:
            case None:
                return {}
            case "corrections":
                found = from_corrections(
                    sampled.rollouts, sampled.verdicts, feedback, fits=run.student.fits, nll=run.student.nll
                )
            case "candidates":
                found = self._best_candidates(sampled, feedback)
        self.state.gather(found)
        step = self.state.step + 1
        data.write_lessons(run.directory.evidence("lessons", step), itertools.chain(*found.lessons.values()))
        data.write_set_aside(run.directory.evidence("set_aside", step), found.set_aside)
        return found.tally.metrics()

    def _best_candidates(self, sampled: Sampled, feedback: Feedback) -> Gathered:
        run = self.run
        seen = sum(map(len, (*sampled.rollouts, *feedback.candidates)))
        sound_P = [*own_candidates(sampled.rollouts, sampled.verdicts), *taught(feedback.candidates, run.task.verify)]
        candidates_P = [[each for each in sound if run.student.fits(each.prompt, each.text)] for sound in sound_P]
        decided = run.plan.decide(self.state.step, "kept", lambda: {"kept": choose(candidates_P, run.student.nll)})
        return from_candidates(candidates_P, decided["kept"], seen=seen)

    def _keep(self, sampled: Sampled, feedback: Feedback) -> None:
        """Evidence of the step for people, and its counts."""
        directory, step = self.run.directory, self.state.step + 1
        if sampled.rollouts:
            data.write_rollouts(directory.evidence("rollouts", step), itertools.chain(*sampled.rollouts))
        if feedback.judgements:
            data.write_preferences(directory.evidence("preferences", step), feedback.preferences)
        if feedback.corrections:
            data.write_corrections(directory.evidence("corrections", step), feedback.corrections)
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
        self.run.check_abstentions("demonstrations")
        self.run.check_abstentions("preferences", "corrections")

    def _validate(self, stage: Stage) -> None:
        """Scores the student on the validation prompts; a recorded score is taken as it was decided."""
        decided = self.run.plan.decide(self.state.step, "validation", lambda: {"score": self._validation_score()})
        self.state.validated(decided["score"], self.run.student)
        self.run.note(f"{stage.name} step {self.state.stage_step}: validation score {decided['score']:.3f}")

    def _validation_score(self) -> float:
        """Mean score of the greedy answers; where nothing can judge them, minus the NLL of the demonstrations."""
        run, prompts = self.run, self.run.task.validation
        judged = judge("student", prompts, run.student.answer(prompts), run.task.verify)
        found = mean([value for value in judged.scores if value is not None])
        if found is not None:
            return found
        replies = run.wait(run.submit(ask_demonstrations(run.teacher, prompts, purpose="evaluation")), "validation")
        given = [(reply.prompt, reply.completion) for reply in replies if isinstance(reply, Demonstration)]
        taught = [pair for pair in given if run.student.holds(*pair)]
        return -(mean(run.student.nll(taught)) or 0.0)


def train(run: Run) -> TrainState:
    """Collects the demonstrations a run needs, then trains to the end, from its newest checkpoint if it has one."""
    sifted = collect_demonstrations(run)
    state = TrainState.load(run)  # after collecting: the checkpoint's ledger already counts those calls
    state.demonstrations_used, state.demonstrations_left_out = len(sifted.kept), sifted.left_out
    Trainer(run, state, sifted.kept).train()
    return state


def collect_demonstrations(run: Run) -> Sifted:
    """The teacher's answer to every prompt whose demonstration the run will imitate, less those not worth it."""
    shown = demonstrated(run.config, [prompt.id for prompt in run.task.train], run.task.demonstrations)
    used = prompts_used(run.stages, run.config.train.seed, shown)
    chosen = run.plan.decide(0, "demonstrations", lambda: {"prompts": used})
    if run.plan.replaying:
        # A prompt that was changed: asking for it fails with the nearest recorded request and the difference.
        changed = [
            run.task.prompt(prompt_id)
            for prompt_id in used
            if prompt_id not in {*chosen["prompts"], *run.task.demonstrations}
        ]
        run.wait(run.submit(ask_demonstrations(run.teacher, changed)), "looking for changed prompts")
    given = run.task.demonstrations
    missing = [run.task.prompt(prompt_id) for prompt_id in chosen["prompts"] if prompt_id not in given]
    if run.batch:
        # The evaluation's questions are known by now, and a batch may take a day: both at once.
        wanted: dict[Purpose, Sequence[Prompt]] = {"demonstrations": missing, "evaluation": run.task.test}
        run.wait(run.submit(fetch_by_batch(run.teacher, wanted, tell=run.on_event)), "waiting for batches")
    answers = run.wait(run.submit(ask_demonstrations(run.teacher, missing)), "asking for demonstrations")
    run.check_abstentions("demonstrations")
    asked = [answer for answer in answers if isinstance(answer, Demonstration)]
    found = [*(given[prompt_id] for prompt_id in chosen["prompts"] if prompt_id in given), *asked]
    data.write_demonstrations(run.directory.demonstrations, found)
    sifted = sift(found, run.task.verify, run.student.fits)
    without = ", ".join(f"{count} {reason}" for reason, count in sifted.left_out.items())
    if used and not sifted.kept:
        look = run.directory.command("verify", str(run.directory.demonstrations))
        longer = "; raise `student.max_new_tokens` if longer answers are right" if TOO_LONG in sifted.left_out else ""
        raise RunError(
            f"none of the {len(found)} demonstrations may be imitated ({without}); see why with: {look}{longer}"
        )
    if used:
        run.note(f"{len(found)} demonstrations{f', left out: {without}' if without else ''}")
    return sifted
