"""What each verifier can be told in its table of the config, beside `use`."""

from typing import Annotated

from pydantic import Field

from bbdistill.config.section import Section
from bbdistill.verify.sandbox import Mode


class Options(Section):
    """Of every verifier."""

    use: str
    """`name`, `name:FILE`, `regex:PATTERN` or `module:function`."""
    weight: float | None = Field(None, gt=0)
    """Share in the mean score; None = 1, and for a gate 0."""
    gate: bool = False
    """Whether it decides when it fails: the score is 0, and the others are not asked."""


class ContainsOptions(Options):
    strings: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(None, min_length=1)
    """What must stand in every answer; None = the strings of the prompt's reference."""


class MathOptions(Options):
    limit_s: int = Field(5, ge=1)
    """Wall time for one answer."""


class PythonTestsOptions(Options):
    sandbox: Mode = "bwrap"
    """`rlimits` where bubblewrap does not work: no namespaces, but every other limit."""
    wall_s: float = Field(10.0, gt=0)
    """For loading the program and all of its tests."""
    cpu_s: int = Field(5, ge=1)
    memory_mb: int = Field(512, ge=64)


class RetrievalOptions(Options):
    k: int = Field(5, ge=1, le=10)
    """The right document must be among the first `k`."""
