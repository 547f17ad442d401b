"""An advice as text for a terminal: what to do, why, what would change that, and the figures it rests on."""

import textwrap
from collections.abc import Iterator

from bbdistill.advisor.decide import Advice
from bbdistill.advisor.findings import Cost, Figure, Findings
from bbdistill.advisor.trust import trust_in

WIDTH = 79
_RATES = {
    "given_pass": "given demonstrations that pass",
    "teacher_answers": "usable replies of the teacher",
    "teacher_pass": "answers of the teacher that pass",
    "steady": "same verdict twice",
    "accepts_reference": "references accepted as answers",
    "rejects_empty": "empty answers rejected",
    "rejects_other": "answers to other prompts rejected",
    "rejects_shuffled": "shuffled answers rejected",
    "rejects_truncated": "cut answers rejected",
    "feedback": "rejections with words of their own",
    "pass_at_1": "student: pass@1",
    "pass_at_k": "student: pass@{k}",
    "zero_variance": "student: groups that score alike",
    "cut": "student: cut at max_new_tokens",
}
_NUMBERS = {
    "given_score": ("given demonstrations, mean score", "{:.2f}"),
    "teacher_score": ("answers of the teacher, mean score", "{:.2f}"),
    "bits": ("bits per rollout of a reward", "{:.2f}"),
    "pass_bits": ("  of them in rollouts that pass", "{:.2f}"),
    "student_tokens": ("tokens of a rollout", "{:.0f}"),
    "answer_tokens": ("tokens of an answer", "{:.0f}"),
    "nll": ("nats per token of the answers", "{:.2f}"),
}


def render(advice: Advice) -> str:
    """Lines of at most 79 characters."""
    found = advice.findings
    lines = [f"recommended: {advice.recommends}", *_wrapped(advice.reason)]
    if advice.settings:
        lines += _wrapped(f"with {', '.join(advice.settings)}")
    if advice.runner_up is not None:
        lines += ["", f"runner-up: {advice.runner_up.recipe}", *_wrapped(advice.runner_up.why)]
    lines += ["", "what would change this:"]
    for change in advice.changes:
        lines += _wrapped(change, first="- ")
    given = f"{found.given} of them with a demonstration" if found.given else "none with a demonstration"
    lines += [
        "",
        *textwrap.wrap(f"measured: {found.prompts} prompts to train on; {given}; {trust_in(found)[1]}", WIDTH),
    ]
    lines += _table(found)
    lines += ["", *_costs(found)]
    return "\n".join(lines)


def _table(found: Findings) -> Iterator[str]:
    for name in Findings.__dataclass_fields__:
        figure = getattr(found, name)
        if name in _RATES:
            yield from _row(_RATES[name].format(k=found.k), figure, "{:.2f}")
        elif name in _NUMBERS:
            label, form = _NUMBERS[name]
            yield from _row(label, figure, form)


def _row(label: str, figure: Figure, form: str) -> Iterator[str]:
    if figure.value is not None:
        yield f"  {label:<36}{form.format(figure.value):>7}  n {figure.n}"
    else:
        yield textwrap.shorten(f"  {label:<36}{'-':>7}  {figure.why}".replace("  ", "\u00a0\u00a0"), WIDTH).replace(
            "\u00a0", " "
        )


def _costs(found: Findings) -> Iterator[str]:
    spent = "an unknown sum" if found.spent_usd is None else f"${found.spent_usd:.4f}"
    yield f"measuring this cost {spent}; a whole run would take, by an estimate:"
    for cost in found.costs:
        yield f"  {cost.recipe:<10}{_dollars(cost):<28}{_hours(cost)}".rstrip()
    yield from textwrap.wrap("hours are of sampling and training on this machine, the teacher not waited for", WIDTH)


def _dollars(cost: Cost) -> str:
    if cost.why:
        return textwrap.shorten(cost.why, 60)
    return "dollars unknown" if cost.usd is None else f"${cost.usd[0]:.4f} - ${cost.usd[1]:.4f}"


def _hours(cost: Cost) -> str:
    if cost.why:
        return ""
    if cost.hours is None:
        return "hours not measured"
    return f"{cost.hours:.1f} hours" if cost.hours >= 1 else f"{60 * cost.hours:.1f} minutes"


def _wrapped(text: str, first: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent="  ")
