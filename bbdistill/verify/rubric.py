"""`rubric:FILE`: weighted yes/no criteria, judged by a hosted model that knows neither weights nor whose answer it is.

    [[criteria]]
    text = "Names the order number"
    weight = 2            # 1 if left out

The same as JSON is a list of {"text", "weight"}, or {"criteria": [...]}.
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from pydantic import Field

from bbdistill.config.section import Section
from bbdistill.configfile import checked
from bbdistill.errors import ConfigError
from bbdistill.types import Abstain, Mark, Prompt, Span, Verdict

Ask: TypeAlias = Callable[[Prompt, str, Sequence[str]], Sequence[Mark] | Abstain]
"""Has an answer judged by each of the criteria, and waits for it; see `Teacher.rubric`."""


class Criterion(Section):
    text: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0)


class Criteria(Section):
    criteria: tuple[Criterion, ...] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> "Criteria":
        """ConfigError says what is wrong with the file."""
        try:
            text = path.read_text(encoding="utf-8-sig")
            given: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as fault:
            raise ConfigError(f"the rubric `{path}` cannot be read: {fault}") from None
        match given:
            case dict():
                return checked(cls, cast(dict[str, Any], given), where=f"`{path}`")
            case list():
                return checked(cls, {"criteria": given}, where=f"`{path}`")
            case _:
                raise ConfigError(f"the rubric `{path}` should be a list of criteria, each with `text` and `weight`")


class Rubric:
    """Score: the weight of the criteria that are met, of all; passed if all are. Abstains with the judge."""

    def __init__(self, criteria: Criteria, ask: Ask) -> None:
        self._criteria = criteria.criteria
        self._ask = ask

    def __call__(self, prompt: Prompt, answer: str, /) -> Verdict | Abstain:
        marks = self._ask(prompt, answer, [criterion.text for criterion in self._criteria])
        if isinstance(marks, Abstain):
            return marks
        marked = list(zip(self._criteria, marks, strict=True))
        met = sum(criterion.weight for criterion, mark in marked if mark.met)
        spans = tuple(
            Span(where=criterion.text, why=f"Not met: {criterion.text}" + (f" ({mark.reason})" if mark.reason else ""))
            for criterion, mark in marked
            if not mark.met
        )
        return Verdict(
            score=met / sum(criterion.weight for criterion in self._criteria),
            passed=not spans,
            feedback="\n".join(span.why for span in spans),
            spans=spans,
        )
