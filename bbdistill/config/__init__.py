"""What a run is told: one frozen tree, every key with its unit and default. `configfile.py` reads it from a file.

The tables are in `models.py`, `task.py` and `training.py`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from bbdistill.config.models import ModelConfig, StudentConfig, TeacherConfig
from bbdistill.config.section import Section
from bbdistill.config.task import TaskConfig
from bbdistill.config.training import (
    CoachConfig,
    DiscriminatorConfig,
    DistillConfig,
    DPOConfig,
    FeedbackConfig,
    PolicyConfig,
    RewardConfig,
    RubricConfig,
    TrainConfig,
)
from bbdistill.errors import ConfigError

Recipe = Literal["sft", "best_of_n", "isft", "rgt", "process", "dpo", "gad", "grpo", "rubric", "coach", "kd", "opd"]
REWARDED: tuple[Recipe, ...] = ("gad", "grpo", "rubric", "coach")
"""Recipes whose own loop is a policy gradient on rewards, mixed as `[reward]` says."""
CacheMode = Literal["auto", "record", "replay", "off"]


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
        if self.judge is not None and self.judge.is_local:
            raise ValueError("`judge.model`: a model in this process can be the teacher, not the judge")
        if self.recipe in ("kd", "opd") and self.teacher.gives_log_probs is False:
            raise ValueError(f"`{self.recipe}` needs log-probs, which this API never gives; use `coach` or `isft`")
        if self.recipe == "opd" and self.distill.scores == "own":
            raise ValueError("`opd` needs a teacher that scores the student's texts: `distill.scores` must be `given`")
        return self

    def require_student(self) -> StudentConfig:
        """The `[student]` table, which collecting needs not and training does."""
        if self.student is None:
            raise ConfigError('the config has no `[student]` table; add one with `model = "<hub id or directory>"`')
        return self.student

    @property
    def answer_options(self) -> dict[str, Any]:
        """What goes into the body of a request for an answer: with `distill.scores = "own"`, a wish for log-probs."""
        if self.recipe != "kd" or self.distill.scores != "own" or self.teacher.is_local:
            return {}
        return {"logprobs": True, "top_logprobs": min(self.distill.top_k, 20)}

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
