"""What a verifier makes of answers that are right, damaged or misplaced: figures of how far it can be trusted."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from bbdistill.advisor.checked import Case, Checked
from bbdistill.advisor.findings import Figure, marks, mean
from bbdistill.types import Prompt, Verdict
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


def probe(prompts: Sequence[Prompt], answers: Mapping[str, Sequence[str]], check: Checked) -> Probed:
    """`answers` by prompt id, the best known first; the first one that passes is damaged, else the first.

    What `check` was asked before counts for `steady` and `feedback` as well.
    """
    references = [(prompt, text) for prompt in prompts if (text := as_answer(prompt.reference))]
    accepted = marks(check.judge(references, "references as answers"), "no prompt has a `reference` that is judged")
    held = [(prompt, text) for prompt in prompts if (text := _best(prompt, answers.get(prompt.id, ()), check))]
    nothing = "" if held else "there is no answer to damage"
    return Probed(
        accepts_reference=accepted.passed,
        rejects_empty=_rejects(check, [(prompt, "") for prompt in prompts], "empty answers", "nothing was asked"),
        rejects_other=_rejects(check, _misplaced(held), "answers to other prompts", nothing or "no two answers differ"),
        rejects_shuffled=_rejects(
            check, _damaged(held, shuffled), "shuffled answers", nothing or "no answer has an order"
        ),
        rejects_truncated=_rejects(
            check, _damaged(held, truncated), "cut answers", nothing or "no answer is long enough"
        ),
        steady=check.steady(),
        feedback=check.telling(),
    )


def unprobed(why: str) -> Probed:
    """Of a verifier that there is not."""
    return Probed(**{each.name: Figure(why=why) for each in fields(Probed)})


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


def _best(prompt: Prompt, known: Sequence[str], check: Checked) -> str:
    """The first text that passes, the reference after all others; without one, the first. Empty where there is none."""
    texts = [text for text in (*known, as_answer(prompt.reference)) if text]
    return next((text for text in texts if _passes(check, prompt, text)), texts[0] if texts else "")


def _passes(check: Checked, prompt: Prompt, text: str) -> bool:
    verdict = check(prompt, text)
    return isinstance(verdict, Verdict) and verdict.passed


def _rejects(check: Checked, cases: Sequence[Case], what: str, nothing: str) -> Figure:
    verdicts = check.judge(cases, what)
    return mean((not v.passed for v in verdicts if isinstance(v, Verdict)), check.abstained if cases else nothing)


def _misplaced(held: Sequence[Case]) -> list[Case]:
    """Each prompt with the answer to the next one that says something else."""
    found: list[Case] = []
    for index, (prompt, own) in enumerate(held):
        around = (*held[index + 1 :], *held[:index])
        others = (text for _, text in around if not same(_value(text), _value(own)))
        found += [(prompt, text) for text in list(others)[:1]]
    return found


def _damaged(held: Sequence[Case], how: Callable[[str, str], str | None]) -> list[Case]:
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
