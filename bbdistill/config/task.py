"""What is to be learned: prompts, and what says whether an answer is good. Table `[task]`."""

from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, field_validator

from bbdistill.config.section import Section

VERIFIERS_WITH_A_FILE = ("json_schema", "retrieval", "rubric")
VERIFIERS = ("json_schema", "fields", "exact", "contains", "regex", "math", "python_tests", "retrieval", "rubric")


class TaskConfig(Section):
    prompts: Path
    test: Path | None = None
    validation: Path | None = None
    """None = carved from `prompts`."""
    validation_size: int = Field(24, ge=1)
    """At most this many prompts, and at most a fifth of them, are carved off."""
    win_rate_size: int = Field(0, ge=0)
    """Test prompts on which the judge compares the student with the base, with imitation alone and with the teacher:
    six calls each. The first ones; 0 = none."""
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
