"""What teacher and judge were asked and what it cost, counted as it happens, by purpose and by model."""

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from bbdistill.types import FEEDBACK, TeacherReply

ENOUGH = 20
"""Below this many calls of a kind, a rate says nothing."""


@dataclass(slots=True)
class Line:
    """Sums over the calls of one purpose, or of one model; `abstained` is part of `calls`."""

    calls: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    recorded_cost_usd: float = 0.0
    unpriced: int = 0
    """Calls that cost something now, nobody knows what; they are in no sum of `cost_usd`."""
    recorded_unpriced: int = 0
    """The same of `recorded_cost_usd`."""
    abstained: int = 0
    cached_tokens: int = 0
    """Input tokens that the provider's prompt cache had, when bought; part of `input_tokens`."""
    cache_write_tokens: int = 0
    """Input tokens newly put there."""
    saved_usd: float | None = 0.0
    """What the prompt cache saved, when bought; None as soon as one price is unknown."""


@dataclass(slots=True)
class Judging:
    """How one model judged."""

    comparisons: int = 0
    """Pairs with a readable answer in both orders."""
    flips: int = 0
    """Of those, the ones whose two answers disagreed."""
    checked: int = 0
    """Of the others, the ones whose answers the verifier tells apart."""
    agreed: int = 0
    """Of those, the ones with the verifier's winner."""

    def summary(self) -> dict[str, Any]:
        return {
            "comparisons": self.comparisons,
            "order_flip_rate": _share(self.flips, self.comparisons),
            "verifier_comparisons": self.checked,
            "verifier_agreement": _share(self.agreed, self.checked),
        }


@dataclass(slots=True)
class Ledger:
    """Counts of one run; survives a restart through `state` and `restore`."""

    lines: dict[str, Line] = field(default_factory=dict[str, Line])
    """By purpose."""
    models: dict[str, Line] = field(default_factory=dict[str, Line])
    """The same calls by model."""
    judging: dict[str, Judging] = field(default_factory=dict[str, Judging])
    """By model."""
    abstain_reasons: Counter[str] = field(default_factory=Counter[str])
    in_flight: int = 0
    """Calls asked and not answered yet, whether they are sent or wait."""

    def line(self, purpose: str) -> Line:
        return self.lines.setdefault(purpose, Line())

    @contextmanager
    def asking(self, model: str, purpose: str) -> Generator[None]:
        """Around one call: counts it, whatever comes of it."""
        for line in self._lines(model, purpose):
            line.calls += 1
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def answered(self, model: str, purpose: str, reply: TeacherReply) -> None:
        for line in self._lines(model, purpose):
            line.cached += reply.cached
            line.input_tokens += reply.usage.input_tokens
            line.output_tokens += reply.usage.output_tokens
            line.cost_usd += reply.cost_usd or 0.0
            line.recorded_cost_usd += reply.recorded_cost_usd or 0.0
            line.unpriced += reply.cost_usd is None
            line.recorded_unpriced += reply.recorded_cost_usd is None
            line.cached_tokens += reply.usage.cached_tokens
            line.cache_write_tokens += reply.usage.cache_write_tokens
            line.saved_usd = _sum(line.saved_usd, reply.saved_usd)

    def abstained(self, model: str, purpose: str, reason: str) -> None:
        for line in self._lines(model, purpose):
            line.abstained += 1
        self.abstain_reasons[reason] += 1

    def compared(self, model: str, *, flipped: bool) -> None:
        judging = self.judging.setdefault(model, Judging())
        judging.comparisons += 1
        judging.flips += flipped

    def checked(self, model: str, *, agreed: bool) -> None:
        """A model's winner between two answers that the verifier tells apart."""
        judging = self.judging.setdefault(model, Judging())
        judging.checked += 1
        judging.agreed += agreed

    def summary(self) -> dict[str, Any]:
        """The `teacher` table of the report. A cost is None as soon as one call has no known price."""
        lines = self.lines.values()
        priced = not any(line.unpriced for line in lines)
        recorded_priced = not any(line.recorded_unpriced for line in lines)
        return {
            "calls": self.calls,
            "cached": self.cached,
            "cost_usd": sum(line.cost_usd for line in lines) if priced else None,
            "recorded_cost_usd": sum(line.recorded_cost_usd for line in lines) if recorded_priced else None,
            "saved_usd": _sum(*(line.saved_usd for line in lines)),
            "abstain_rate": self.abstain_rate(*self.lines),
            "order_flip_rate": _share(self.flips, self.comparisons),
            "comparisons": self.comparisons,
            "abstain_reasons": dict(self.abstain_reasons),
            "by_purpose": {name: asdict(line) for name, line in sorted(self.lines.items())},
            "by_model": {name: self._by_model(name) for name in sorted(self.models)},
        }

    def _by_model(self, model: str) -> dict[str, Any]:
        line = self.models[model]
        return {
            "calls": line.calls,
            "cached": line.cached,
            "cost_usd": None if line.unpriced else line.cost_usd,
            "recorded_cost_usd": None if line.recorded_unpriced else line.recorded_cost_usd,
            "abstain_rate": _share(line.abstained, line.calls),
            **self.judging.get(model, Judging()).summary(),
        }

    @property
    def comparisons(self) -> int:
        return sum(judging.comparisons for judging in self.judging.values())

    @property
    def flips(self) -> int:
        return sum(judging.flips for judging in self.judging.values())

    @property
    def cached(self) -> int:
        return sum(line.cached for line in self.lines.values())

    @property
    def calls(self) -> int:
        return sum(line.calls for line in self.lines.values())

    def abstain_rate(self, *purposes: str) -> float:
        """Share of these purposes' calls that gave nothing usable; 0 where none was made."""
        calls = self.calls_for(*purposes)
        abstained = sum(self.lines[purpose].abstained for purpose in purposes if purpose in self.lines)
        return abstained / calls if calls else 0.0

    def rates(self) -> dict[str, float]:
        """How usable the feedback has been so far, by the names in `metrics.jsonl`; none while there is too little."""
        found = dict[str, float]()
        if self.calls_for(*FEEDBACK) >= ENOUGH:
            found["teacher/abstain_rate"] = self.abstain_rate(*FEEDBACK)
        if self.comparisons >= ENOUGH:
            found["teacher/order_flip_rate"] = self.flips / self.comparisons
        return found

    def calls_for(self, *purposes: str) -> int:
        return sum(self.lines[purpose].calls for purpose in purposes if purpose in self.lines)

    def state(self) -> dict[str, Any]:
        # `asdict` would make a Counter anew from its items, and count those.
        return {**asdict(self), "abstain_reasons": dict(self.abstain_reasons), "in_flight": 0}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.lines = {name: Line(**line) for name, line in state["lines"].items()}
        self.models = {name: Line(**line) for name, line in state["models"].items()}
        self.judging = {name: Judging(**judging) for name, judging in state["judging"].items()}
        self.abstain_reasons = Counter(state["abstain_reasons"])

    def _lines(self, model: str, purpose: str) -> tuple[Line, Line]:
        return self.line(purpose), self.models.setdefault(model, Line())


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _sum(*dollars: float | None) -> float | None:
    """None where one of them is unknown."""
    known = [value for value in dollars if value is not None]
    return sum(known, 0.0) if len(known) == len(dollars) else None
