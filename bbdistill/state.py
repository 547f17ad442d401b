"""Where a run stands: position, best student so far, counts. What a checkpoint holds, and how it comes back."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from bbdistill.lessons import Gathered, Tally
from bbdistill.monitors import Monitors
from bbdistill.setup import Run
from bbdistill.stages import Stage
from bbdistill.student import checkpoint
from bbdistill.student.student import Student
from bbdistill.teacher.ask import Feedback
from bbdistill.types import PolicyExample, Prompt, Rollout, SFTExample

AdapterState = Mapping[str, Tensor]
KEPT = 2
"""Checkpoints on disk: the newest, and one more in case the newest turns out to be unreadable."""


@dataclass(slots=True)
class Counts:
    """Sums over the run, for the report."""

    seconds: float = 0.0
    tokens: int = 0
    """Completion tokens in student updates."""
    preferences: int = 0
    corrections: int = 0
    corrections_accepted: int = 0


@dataclass(slots=True)
class TrainState:
    """Position and memory of a run. `sft` is the adapter after the last stage without a policy term."""

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    validations: list[float] = field(default_factory=list[float])
    """Scores of the stage so far."""
    curve: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    """Step and score of every validation of the run."""
    validated_step: int = 0
    """Of the newest validation."""
    best_score: float | None = None
    """Of the best student; None where nothing can judge it, or there is none yet."""
    best_step: int = 0
    sft_step: int = 0
    demonstrations_used: int = 0
    counts: Counts = field(default_factory=Counts)
    demonstrations_left_out: dict[str, int] = field(default_factory=dict[str, int])
    """By the reason."""
    tally: Tally = field(default_factory=Tally)
    monitors: Monitors = field(default_factory=Monitors)
    gathered: dict[str, tuple[SFTExample, ...]] = field(default_factory=dict[str, tuple[SFTExample, ...]])
    """What the stage that gathers has found for the next one, by prompt id."""
    blamed: dict[str, PolicyExample] = field(default_factory=dict[str, PolicyExample])
    """Drafts of these prompts with the blame on what was wrong in them, by prompt id."""
    advice: list[str] = field(default_factory=list[str])
    """What the coach said so far, each text once: what the student must not come to quote."""
    best_tags: bool = False
    """Whether the best student answers behind empty strategy tags."""
    sft_tags: bool = False
    """The same of the student that is "SFT-only"."""
    best: AdapterState = field(default_factory=dict[str, Tensor])
    sft: AdapterState = field(default_factory=dict[str, Tensor])

    def advance(self, metrics: Mapping[str, float], *, seconds: float) -> None:
        """One step further."""
        self.step += 1
        self.stage_step += 1
        self.counts.seconds += seconds
        self.counts.tokens += int(metrics.get("optim/tokens", 0))

    def count(self, feedback: Feedback) -> None:
        """Remembers a step's feedback, as far as later steps and the report need it."""
        self.counts.preferences += len(feedback.preferences)
        self.counts.corrections += len(feedback.corrections)
        self.counts.corrections_accepted += len(feedback.accepted)
        self.advice = list(dict.fromkeys([*self.advice, *(coaching.advice for coaching in feedback.coachings)]))

    def gather(self, found: Gathered) -> None:
        """Keeps what is to be imitated in the next stage."""
        self.tally.add(found.tally)
        self.gathered |= found.lessons

    def validated(self, score: float | None, student: Student) -> None:
        """Remembers the best student; of equals, and where there is no score, the later, which has seen more."""
        self.validated_step = self.step
        if score is not None:
            self.validations.append(score)
            self.curve.append((self.step, score))
        if score is None or self.best_score is None or score >= self.best_score:
            self.best_score, self.best_step = score, self.step
            self.best, self.best_tags = student.adapter_state(), student.tags

    def stage_over(self, stage: Stage) -> bool:
        """All steps done, nothing to imitate, or no new best in the last `patience` validations."""
        if self.stage_step >= stage.steps or (stage.lessons == "gathered" and not self.gathered):
            return True
        scores = self.validations
        return bool(stage.patience and len(scores) > stage.patience and max(scores) > max(scores[-stage.patience :]))

    def close(self, stage: Stage, run: Run) -> None:
        """Ends a stage. A supervised one leaves the state that later stages must beat."""
        if stage.supervised:
            self.sft, self.sft_step, self.sft_tags = run.student.adapter_state(), self.step, run.student.tags
            if run.stages[-1] is not stage:
                newest = self.validations[-1] if self.validations else None
                self.best_score, self.best_step, self.best = newest, self.step, self.sft
                self.best_tags = self.sft_tags
        if stage.gathers and not self.gathered:
            run.note(f"{stage.name} found nothing worth imitating; see `{run.directory.path / 'set_aside'}`")
        if stage.lessons == "gathered":
            self.gathered, self.blamed = {}, {}  # the next round learns from the student as it then is
        self.stage, self.stage_step, self.validations = self.stage + 1, 0, []
        self.save(run)

    def save(self, run: Run, *, ledger: Mapping[str, Any] | None = None) -> None:
        """A checkpoint of everything that a resume needs; older ones go once the new one is whole.

        `ledger` is what it held after the last whole step, where it has gone on since.
        """
        position = asdict(replace(self, gathered={}, blamed={}, best={}, sft={}))
        del position["best"], position["sft"]
        position["blamed"] = {name: _facts(example) for name, example in self.blamed.items()}
        position["gathered"] = {
            name: [{"text": e.text, "region": e.region, "strategy": e.strategy} for e in examples]
            for name, examples in self.gathered.items()
        }
        tensors = {
            "student": run.student.state(),
            "discriminator": run.discriminator.state(),
            "best": dict(self.best),
            "sft": dict(self.sft),
        }
        facts = {"state": position, "ledger": ledger or run.teacher.ledger.state()}
        checkpoint.save(run.directory.checkpoint(self.step), tensors, facts)
        for old in run.directory.checkpoints()[:-KEPT]:
            shutil.rmtree(old)

    @classmethod
    def load(cls, run: Run) -> "TrainState":
        """The newest checkpoint, put back into the run's objects; a fresh state where there is none.

        Without a supervised stage, what "SFT-only" means is the student as it starts.
        """
        found = run.directory.checkpoints()
        if not found:
            return cls(sft=run.student.adapter_state(), sft_tags=run.student.tags)
        tensors, facts = checkpoint.load(found[-1])
        run.student.load_state(tensors["student"])
        run.discriminator.load_state(tensors["discriminator"])
        run.teacher.ledger.restore(facts["ledger"])
        position: dict[str, Any] = facts["state"]
        counts, tally = Counts(**position.pop("counts")), Tally(**position.pop("tally"))
        monitors = Monitors.restored(position.pop("monitors"))
        gathered = {
            name: tuple(_example(run.task.prompt(name), row) for row in rows)
            for name, rows in position.pop("gathered").items()
        }
        curve = [(step, score) for step, score in position.pop("curve", ())]
        blamed = {name: _blamed(run.task.prompt(name), row) for name, row in position.pop("blamed").items()}
        return cls(
            **position,
            blamed=blamed,
            curve=curve,
            counts=counts,
            tally=tally,
            monitors=monitors,
            gathered=gathered,
            best=tensors["best"],
            sft=tensors["sft"],
        )


def _facts(example: PolicyExample) -> dict[str, Any]:
    """As JSON; the prompt is found again by its id."""
    rollout = {name: value for name, value in asdict(example.rollout).items() if name != "prompt"}
    return {"rollout": rollout, "advantage": example.advantage, "magnitude": example.magnitude}


def _blamed(prompt: Prompt, row: Mapping[str, Any]) -> PolicyExample:
    drawn: dict[str, Any] = {
        **row["rollout"],
        "token_ids": tuple(row["rollout"]["token_ids"]),
        "logprobs": tuple(row["rollout"]["logprobs"]),
    }
    rollout = Rollout(prompt=prompt, **drawn)
    return PolicyExample(rollout=rollout, advantage=row["advantage"], magnitude=tuple(row["magnitude"]))


def _example(prompt: Prompt, row: Mapping[str, Any]) -> SFTExample:
    region = None if row["region"] is None else (row["region"][0], row["region"][1])
    return SFTExample(prompt=prompt, text=row["text"], region=region, strategy=row["strategy"])
