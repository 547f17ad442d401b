"""What a verifier makes of answers that are right, damaged or misplaced: figures of how far it can be trusted."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from bbdistill.advisor.findings import Figure, mean
from bbdistill.task import Verify
from bbdistill.types import Abstain, Prompt, Verdict
from bbdistill.verify.fields import same

_TRIES = 8
"""Orders drawn, at most, until one differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Fields of `Findings` with the same names."""

    steady: Figure
    accepts_reference: Figure
    rejects_empty: Figure
    rejects_other: Figure
    rejects_shuffled: Figure
    rejects_truncated: Figure
    feedback: Figure


def probe(prompts: Sequence[Prompt], answers: Mapping[str, Sequence[str]], verify: Verify) -> Probed:
    """`answers` by prompt id, the best known first; the first one that passes is damaged, else the first."""
    checked = _Checked(verify)
    references = [(prompt, text) for prompt in prompts if (text := as_answer(prompt.reference))]
    bases: dict[str, tuple[Prompt, str]] = {}
    for prompt in prompts:
        known = [*answers.get(prompt.id, ()), *(text for one, text in references if one is prompt)]
        right = [text for text in known if checked.passes(prompt, text)]
        if known:
            bases[prompt.id] = prompt, (right or known)[0]
    held = list(bases.values())
    nothing = "there is no answer to damage"
    return Probed(
        accepts_reference=mean(_passed(checked, references), "no prompt has a `reference` that is judged"),
        rejects_empty=_rejects(checked, [(prompt, "") for prompt in prompts], checked.abstained or "nothing to ask"),
        rejects_other=_rejects(checked, _misplaced(held), "no two answers differ" if held else nothing),
        rejects_shuffled=_rejects(checked, _damaged(held, shuffled), "no answer has an order" if held else nothing),
        rejects_truncated=_rejects(checked, _damaged(held, truncated), "no answer is long enough" if held else nothing),
        steady=mean(checked.steady, "there is nothing to ask twice"),
        feedback=checked.telling(),
    )


def as_answer(reference: Any) -> str:
    """The reference as one would answer it; empty where there is none."""
    if reference is None:
        return ""
    return reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)


def shuffled(text: str, seed: str) -> str | None:
    """The same parts in another order: values of a JSON object, lines, or words; None where no order differs."""
    value = _value(text)
    if isinstance(value, dict) and len(cast(dict[str, Any], value)) > 1:
        table = cast(dict[str, Any], value)
        order = _other_order(list(table.values()), seed)
        return None if order is None else json.dumps(dict(zip(table, order, strict=True)), ensure_ascii=False)
    for separator in ("\n", " "):
        parts = text.split(separator)
        if len(parts) > 1:
            order = _other_order(parts, seed)
            return None if order is None else separator.join(order)
    return None


def truncated(text: str, seed: str = "") -> str | None:
    """Its first half; None where that is nothing."""
    return text[: len(text) // 2].rstrip() or None


class _Checked:
    """The verifier, asked twice about every text: the figures say whether it said the same."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._known: dict[tuple[str, str], Verdict | Abstain] = {}
        self.steady: list[bool] = []
        self.abstained = ""
        """Why it had nothing to say, the last time."""

    def __call__(self, prompt: Prompt, text: str) -> Verdict | Abstain:
        place = prompt.id, text
        if place not in self._known:
            first, second = self._verify(prompt, text), self._verify(prompt, text)
            self._known[place] = first
            self.steady.append(_said(first) == _said(second))
            if isinstance(first, Abstain):
                self.abstained = f"it abstains: {first.reason}"
        return self._known[place]

    def passes(self, prompt: Prompt, text: str) -> bool:
        verdict = self(prompt, text)
        return isinstance(verdict, Verdict) and verdict.passed

    def telling(self) -> Figure:
        """Different feedback for each rejection of an answer that is not empty."""
        said = [
            verdict.feedback
            for (_, text), verdict in self._known.items()
            if text and isinstance(verdict, Verdict) and not verdict.passed
        ]
        if not said:
            return Figure(why="nothing was rejected")
        return Figure(value=len({text for text in said if text}) / len(said), n=len(said), why="")


def _rejects(checked: _Checked, cases: Sequence[tuple[Prompt, str]], why: str) -> Figure:
    verdicts = [checked(prompt, text) for prompt, text in cases]
    return mean((not v.passed for v in verdicts if isinstance(v, Verdict)), checked.abstained if cases else why)


def _passed(checked: _Checked, cases: Sequence[tuple[Prompt, str]]) -> Iterator[bool]:
    verdicts = [checked(prompt, text) for prompt, text in cases]
    return (verdict.passed for verdict in verdicts if isinstance(verdict, Verdict))


def _misplaced(held: Sequence[tuple[Prompt, str]]) -> list[tuple[Prompt, str]]:
    """Each prompt with the answer to the next one that says something else."""
    found: list[tuple[Prompt, str]] = []
    for index, (prompt, own) in enumerate(held):
        around = (*held[index + 1 :], *held[:index])
        others = (text for _, text in around if not same(_value(text), _value(own)))
        found += [(prompt, text) for text in list(others)[:1]]
    return found


def _damaged(held: Sequence[tuple[Prompt, str]], how: Callable[[str, str], str | None]) -> list[tuple[Prompt, str]]:
    hurt = [(prompt, how(text, prompt.id)) for prompt, text in held]
    return [(prompt, text) for prompt, text in hurt if text is not None]


def _value(text: str) -> Any:
    """What a JSON text says; any other text is itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _other_order(parts: list[Any], seed: str) -> list[Any] | None:
    draw, order = random.Random(seed), list(parts)
    for _ in range(_TRIES):
        draw.shuffle(order)
        if order != parts:
            return order
    return None


def _said(verdict: Verdict | Abstain) -> tuple[bool, float] | None:
    """What counts of a verdict; its words may differ."""
    return (verdict.passed, verdict.score) if isinstance(verdict, Verdict) else None
