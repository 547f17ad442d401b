"""Where a run stands: position, best student so far, counts. What a checkpoint holds, and how it comes back."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from bbdistill.objectives import Stage
from bbdistill.setup import Run
from bbdistill.student import checkpoint
from bbdistill.teacher.ask import Feedback

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
    best_score: float | None = None
    best_step: int = 0
    sft_step: int = 0
    demonstrations_used: int = 0
    counts: Counts = field(default_factory=Counts)
    best: AdapterState = field(default_factory=dict[str, Tensor])
    sft: AdapterState = field(default_factory=dict[str, Tensor])

    def advance(self, metrics: Mapping[str, float], *, seconds: float) -> None:
        """One step further."""
        self.step += 1
        self.stage_step += 1
        self.counts.seconds += seconds
        self.counts.tokens += int(metrics.get("optim/tokens", 0))

    def count(self, feedback: Feedback) -> None:
        self.counts.preferences += len(feedback.preferences)
        self.counts.corrections += len(feedback.corrections)
        self.counts.corrections_accepted += len(feedback.accepted)

    def validated(self, score: float, adapter: AdapterState) -> None:
        """Remembers the best student; of equals the later, which has seen more."""
        self.validations.append(score)
        if self.best_score is None or score >= self.best_score:
            self.best_score, self.best_step, self.best = score, self.step, adapter

    def stage_over(self, stage: Stage) -> bool:
        """All steps done, or no new best in the last `patience` validations."""
        if self.stage_step >= stage.steps:
            return True
        scores = self.validations
        return bool(stage.patience and len(scores) > stage.patience and max(scores) > max(scores[-stage.patience :]))

    def close(self, stage: Stage, run: Run) -> None:
        """Ends a stage. A supervised one leaves the state that later stages must beat."""
        if stage.policy_weight == 0:
            self.sft, self.sft_step = run.student.adapter_state(), self.step
            if run.stages[-1] is not stage:
                self.best_score, self.best_step, self.best = self.validations[-1], self.step, self.sft
        self.stage, self.stage_step, self.validations = self.stage + 1, 0, []
        self.save(run)

    def save(self, run: Run, *, ledger: Mapping[str, Any] | None = None) -> None:
        """A checkpoint of everything that a resume needs; older ones go once the new one is whole.

        `ledger` is what it held after the last whole step, where it has gone on since.
        """
        position = asdict(replace(self, best={}, sft={}))
        del position["best"], position["sft"]
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
        """The newest checkpoint, put back into the run's objects; a fresh state where there is none."""
        found = run.directory.checkpoints()
        if not found:
            return cls()
        tensors, facts = checkpoint.load(found[-1])
        run.student.load_state(tensors["student"])
        run.discriminator.load_state(tensors["discriminator"])
        run.teacher.ledger.restore(facts["ledger"])
        position: dict[str, Any] = facts["state"]
        counts = Counts(**position.pop("counts"))
        return cls(**position, counts=counts, best=tensors["best"], sft=tensors["sft"])
