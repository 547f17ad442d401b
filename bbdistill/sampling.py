"""What a step draws and asks: prompts, rollouts, questions, each committed to the plan before it is acted on."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from bbdistill.objectives import Pair, Spot, choose_coached, choose_corrections, choose_pairs, distinct
from bbdistill.rewards import told_apart
from bbdistill.setup import Run
from bbdistill.stages import Stage, refill_prompts, step_prompts
from bbdistill.state import TrainState
from bbdistill.task import verify_each
from bbdistill.teacher.ask import Feedback, Questions, ask
from bbdistill.types import Abstain, Demonstration, Prompt, Rollout, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Prompts, their rollouts (P, G), and what the verifier says of each."""

    prompts: list[Prompt]
    rollouts: list[list[Rollout]]
    verdicts: list[list[Verdict | Abstain]]

    def with_others(self, others: "Drawn") -> "Drawn":
        return Drawn(
            prompts=[*self.prompts, *others.prompts],
            rollouts=[*self.rollouts, *others.rollouts],
            verdicts=[*self.verdicts, *others.verdicts],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Drawn):
    """What a step has drawn, and the teacher's answers about it, perhaps on their way."""

    answers: Future[Feedback]


class Sampler:
    """Draws for the steps of a run, from where its state stands."""

    def __init__(self, run: Run, state: TrainState, demonstrations: Mapping[str, Demonstration]) -> None:
        self.run, self.state, self.demonstrations = run, state, demonstrations
        self._ahead: dict[int, Sampled] = {}
        self._snapshot: dict[str, list[Rollout]] = {}

    def sampled(self, stage: Stage) -> Sampled:
        """This step's rollouts; with a lag, those of the next steps are drawn and asked about before it."""
        first = self.state.stage_step
        lag = self.run.config.train.lag if stage.group_size else 0  # what is only imitated is not worth a wait
        for ahead in range(first, min(first + lag, stage.steps - 1) + 1):
            if ahead not in self._ahead:
                self._ahead[ahead] = self._sample(stage, self.state.step + ahead - first, ahead)
        return self._ahead.pop(first)

    def _sample(self, stage: Stage, step: int, stage_step: int) -> Sampled:
        """Prompts, rollouts and questions of one step, each committed before it is acted on."""
        run, drawn = self.run, self._draw(stage, step, stage_step)
        rollouts, verdicts = drawn.rollouts, drawn.verdicts

        def chosen() -> dict[str, Any]:
            scores = run.discriminator.scores(rollouts)
            return {
                "pairs": choose_pairs(rollouts, verdicts, scores, stage.preferences),
                "corrections": choose_corrections(rollouts, verdicts, scores, stage.corrections),
            }

        asked = run.plan.decide(step, "questions", chosen)
        pairs: list[Pair] = asked["pairs"]
        spots: list[Spot] = asked["corrections"]
        questions = Questions(
            pairs=tuple((rollouts[p][i], rollouts[p][j]) for p, i, j in pairs),
            corrections=tuple((rollouts[p][i], verdicts[p][i]) for p, i in spots),
            revising=stage.revising,
            candidates=tuple(drawn.prompts) if stage.candidates else (),
            per_prompt=stage.candidates,
            groups=tuple(tuple(group) for group in rollouts if stage.references and distinct(group)),
            references=stage.references,
            shuffle=f"{run.config.train.seed}:{step}",
            coached=tuple((rollouts[p][i], verdicts[p][i]) for p, i in self._coached(stage, step, drawn)),
            texts=self._scored(stage, drawn),
        )
        answers = run.submit(ask(run.teacher, run.judge, run.scorer, questions, run.task.verify))
        return Sampled(prompts=drawn.prompts, rollouts=rollouts, verdicts=verdicts, answers=answers)

    def _coached(self, stage: Stage, step: int, drawn: Drawn) -> list[Spot]:
        """The rollouts to give advice on."""
        if not stage.coached:
            return []
        level = not self.run.config.reward.verifier_alone
        chosen = self.run.plan.decide(
            step,
            "coached",
            lambda: {"rollouts": choose_coached(drawn.rollouts, drawn.verdicts, stage.coached, level=level)},
        )
        return chosen["rollouts"]

    def _scored(self, stage: Stage, drawn: Drawn) -> tuple[tuple[Prompt, str], ...]:
        """Answers whose tokens the teacher is asked to score, in the order in which `distill_batch` takes them."""
        match stage.distils:
            case "demonstrations":
                known = self.demonstrations
                return tuple((prompt, known[prompt.id].completion) for prompt in drawn.prompts if prompt.id in known)
            case "rollouts":
                return tuple((r.prompt, self.run.student.spelt(r)) for r in itertools.chain(*drawn.rollouts))
            case None:
                return ()

    def _draw(self, stage: Stage, step: int, stage_step: int) -> Drawn:
        """The step's prompts with their rollouts; others beside them for those that the verifier cannot tell apart."""
        run, seed, gathered = self.run, self.run.config.train.seed, self.state.gathered
        names = step_prompts(stage, gathered, step=step, stage_step=stage_step, seed=seed)
        chosen = run.plan.decide(step, "prompts", lambda: {"stage": stage.name, "prompts": names})
        drawn = self._rollouts(stage, step, stage_step, chosen["prompts"])
        for turn in range(1, stage.refills + 1):
            missing = len(names) - sum(map(told_apart, drawn.verdicts))
            taken = [prompt.id for prompt in drawn.prompts]
            others = refill_prompts(stage, taken, missing, step=step, turn=turn, seed=seed)
            decided = run.plan.decide(step, f"refill-{turn}", lambda others=others: {"prompts": others})
            drawn = drawn.with_others(self._rollouts(stage, step, stage_step, decided["prompts"]))
        return drawn

    def _rollouts(self, stage: Stage, step: int, stage_step: int, names: Sequence[str]) -> Drawn:
        run, size = self.run, stage.group_size
        prompts = [run.task.prompt(name) for name in names]
        if stage.frozen:
            snapshot = self._snapshot_rollouts(stage, step - stage_step)
            rollouts = [snapshot[name] for name in names]
        else:
            rollouts = run.plan.rollouts(
                step, prompts, size, lambda: run.student.sample(prompts, group_size=size, step=step)
            )
        return Drawn(prompts=prompts, rollouts=rollouts, verdicts=verify_each(rollouts, run.task.verify))

    def _snapshot_rollouts(self, stage: Stage, first: int) -> dict[str, list[Rollout]]:
        """All that a stage compares with the student as it was before it, drawn at its `first` step, by prompt id."""
        run, seed = self.run, self.run.config.train.seed
        if not self._snapshot:
            steps = (step_prompts(stage, (), step=first + n, stage_step=n, seed=seed) for n in range(stage.steps))
            prompts = [run.task.prompt(name) for name in dict.fromkeys(itertools.chain(*steps))]
            size = stage.group_size
            rollouts = run.plan.rollouts(
                first, prompts, size, lambda: run.student.sample(prompts, group_size=size, step=first, frozen=True)
            )
            self._snapshot = {prompt.id: group for prompt, group in zip(prompts, rollouts, strict=True)}
        return self._snapshot
