"""An advice as text for a terminal: what to do, why, what would change that, and the figures it rests on."""

import textwrap
from collections.abc import Iterator

from bbdistill.advisor.decide import Advice
from bbdistill.advisor.findings import Cost, Figure, Findings
from bbdistill.advisor.trust import trust_in

WIDTH = 79
_FIGURES = {
    "given_pass": ("given demonstrations that pass", "{:.2f}"),
    "given_score": ("their mean score", "{:.2f}"),
    "teacher_answers": ("usable replies of the teacher", "{:.2f}"),
    "teacher_pass": ("answers of the teacher that pass", "{:.2f}"),
    "teacher_score": ("their mean score", "{:.2f}"),
    "steady": ("same verdict twice", "{:.2f}"),
    "accepts_reference": ("references accepted as answers", "{:.2f}"),
    "rejects_empty": ("empty answers rejected", "{:.2f}"),
    "rejects_other": ("answers to other prompts rejected", "{:.2f}"),
    "rejects_shuffled": ("shuffled answers rejected", "{:.2f}"),
    "rejects_truncated": ("cut answers rejected", "{:.2f}"),
    "feedback": ("rejections with words of their own", "{:.2f}"),
    "pass_at_1": ("student: pass@1", "{:.2f}"),
    "pass_at_k": ("student: pass@{k}", "{:.2f}"),
    "bits": ("bits per rollout of a reward", "{:.2f}"),
    "pass_bits": ("of them in rollouts that pass", "{:.2f}"),
    "zero_variance": ("groups that score alike", "{:.2f}"),
    "student_tokens": ("tokens of a rollout", "{:.0f}"),
    "cut": ("rollouts cut at max_new_tokens", "{:.2f}"),
    "answer_tokens": ("tokens of an answer", "{:.0f}"),
    "nll": ("nats per token of the answers", "{:.2f}"),
    "sample_s": ("seconds per token sampled", "{:.5f}"),
    "train_s": ("seconds per token trained", "{:.5f}"),
}
"""Of each figure, what it is called and how it is written."""


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
    """A line for each figure that was measured; the others by why they were not."""
    absent: dict[str, list[str]] = {}
    for name, (label, form) in _FIGURES.items():
        figure: Figure = getattr(found, name)
        label = label.format(k=found.k)
        if figure.value is None:
            absent.setdefault(figure.why, []).append(label)
        else:
            yield f"  {label:<36}{form.format(figure.value):>7}  n {figure.n}"
    for why, labels in absent.items():
        yield from _wrapped(f"not measured ({why}): {', '.join(labels)}")


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
