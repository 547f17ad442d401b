"""An advice as text for a terminal: what to do, why, what would change that, and the figures it rests on."""

import textwrap
from collections.abc import Iterator, Mapping

from bbdistill.advisor.decide import Advice
from bbdistill.advisor.findings import Cost, Figure, Findings
from bbdistill.advisor.trust import trust_in
from bbdistill.metrics import money

WIDTH = 79
_RATE, _COUNT, _SECONDS = "{:.2f}", "{:.0f}", "{:.5f}"
_GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "demonstrations": {
        "given_pass": ("that pass", _RATE),
        "given_score": ("their mean score", _RATE),
    },
    "teacher": {
        "teacher_answers": ("usable replies", _RATE),
        "teacher_pass": ("answers that pass", _RATE),
        "teacher_score": ("their mean score", _RATE),
    },
    "verifier": {
        "steady": ("same verdict when asked twice", _RATE),
        "accepts_reference": ("references accepted as answers", _RATE),
        "rejects_empty": ("empty answers rejected", _RATE),
        "rejects_other": ("answers to other prompts rejected", _RATE),
        "rejects_shuffled": ("shuffled answers rejected", _RATE),
        "rejects_truncated": ("cut answers rejected", _RATE),
        "feedback": ("rejections with words of their own", _RATE),
    },
    "student before training": {
        "pass_at_1": ("pass@1, a mean over prompts", _RATE),
        "pass_at_k": ("pass@{k}", _RATE),
        "bits": ("bits per rollout of a reward", _RATE),
        "pass_bits": ("of these in rollouts that pass", _RATE),
        "zero_variance": ("groups of {k} that score alike", _RATE),
        "student_tokens": ("tokens of a rollout", _COUNT),
        "cut": ("rollouts cut at max_new_tokens", _RATE),
        "answer_tokens": ("tokens of an answer to imitate", _COUNT),
        "nll": ("its nats per token of that", _RATE),
        "sample_s": ("seconds per token sampled", _SECONDS),
        "train_s": ("seconds per token trained on", _SECONDS),
    },
}
"""Of each figure, what it is called and how it is written."""
_KNOWN = {True: "yes", False: "no", None: "not known"}


def render(advice: Advice) -> str:
    """Lines of at most 79 characters."""
    found, second = advice.findings, advice.runner_up
    lines = [f"recommended: {advice.recommends}", *_wrapped(advice.reason), *_settings(advice.settings)]
    if second is not None:
        lines += ["", f"runner-up: {second.recipe}", *_wrapped(second.why), *_settings(second.settings)]
    lines += ["", "what would change this:"]
    for change in advice.changes:
        lines += _wrapped(change, first="- ")
    lines += ["", f"measured, for {money(found.spent_usd)}:"]
    for name in _GROUPS:
        lines += _group(name, advice)
    # Where something else comes first, nobody is about to run a recipe.
    return "\n".join([*lines, *(_costs(found) if advice.is_recipe else ())])


def _settings(settings: tuple[str, ...]) -> list[str]:
    return [f"  with {line}" if index == 0 else f"       {line}" for index, line in enumerate(settings)]


def _group(name: str, advice: Advice) -> Iterator[str]:
    """A heading, and a line for each figure; those that were not measured by why they were not."""
    found = advice.findings
    said = _said(name, found)
    yield from _wrapped(f"{name}: {said}" if said and said not in advice.reason else name)
    absent: dict[str, list[str]] = {}
    for key, (label, form) in _GROUPS[name].items():
        figure: Figure = getattr(found, key)
        label = label.format(k=found.k)
        if figure.value is None:
            absent.setdefault(figure.why, []).append(label)
        else:
            yield f"    {label:<36}{form.format(figure.value):>7}  n {figure.n}"
    for why, labels in absent.items():
        which = f"{', '.join(labels)}: " if len(labels) < len(_GROUPS[name]) else ""
        yield from _wrapped(f"{which}not measured ({why})", first="    ")
    if name == "teacher":
        yield f"    {'log-probs of given texts':<36}{_KNOWN[found.gives_log_probs]:>7}"


def _said(name: str, found: Findings) -> str:
    """What there is to say of a group before its figures."""
    match name:
        case "demonstrations":
            return f"with {found.given} of the {found.prompts} prompts to train on"
        case "teacher" if found.teacher_answers.n:
            return found.teacher_fault
        case "verifier":
            return trust_in(found)[1].removeprefix("the verifier ")
        case _:
            return ""


def _costs(found: Findings) -> Iterator[str]:
    yield from ("", "a whole run would take, by an estimate:")
    for cost in found.costs:
        yield from _wrapped(_cost(cost), first=f"  {cost.recipe:<10}")
    if any(cost.hours is not None for cost in found.costs):
        yield from textwrap.wrap(
            "times are at most, of sampling and training on this machine; the teacher is not waited for", WIDTH
        )


def _cost(cost: Cost) -> str:
    if cost.why:
        return cost.why
    usd = "dollars unknown" if cost.usd is None else f"${cost.usd[0]:.4f} - ${cost.usd[1]:.4f}"
    return f"{usd}, {_time(cost.hours)}"


def _time(hours: float | None) -> str:
    if hours is None:
        return "time not measured"
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _wrapped(text: str, first: str = "  ") -> list[str]:
    indent = " " * max(2, len(first) - len(first.lstrip()))
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent)
