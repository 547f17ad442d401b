"""Whether a verifier may be trusted, from what it did to right, damaged and misplaced answers. Pure."""

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from bbdistill.advisor.findings import Figure, Findings

STEADY = 0.95
"""Below this share of equal verdicts, a verifier that is asked twice contradicts itself."""
ACCEPTS_ALL = 0.05
"""Rejecting no more of the damaged answers than this is accepting everything."""
REJECTS = 0.8
"""Share of empty answers, and of answers to other prompts, that a verifier of content rejects; some may be right."""
REJECTS_DAMAGED = 0.5
"""Of shuffled and cut ones: less, since what is judged may have survived (the last line of a calculation)."""
FEWEST_VERDICTS = 5
"""Nothing is said against a verifier from fewer."""

Trust: TypeAlias = Literal["none", "broken", "weak", "trusted"]
"""`weak`: what it refutes is wrong, but what it passes may be wrong all the same."""

_EMPTY, _OTHER, _SHUFFLED, _CUT = "empty answers", "answers to another prompt", "shuffled answers", "cut answers"


def trust_in(found: Findings) -> tuple[Trust, str]:
    """How far the verifier may be trusted, and in words which check says so; the first that fails decides."""
    if not found.has_verifier:
        return "none", "there is no verifier"
    wrong = _measured(
        {
            _EMPTY: found.rejects_empty,
            _OTHER: found.rejects_other,
            _SHUFFLED: found.rejects_shuffled,
            _CUT: found.rejects_truncated,
        }
    )
    right = _measured({"given demonstrations": found.given_pass, "answers of the teacher": found.teacher_pass})
    if not wrong:
        return "none", f"the verifier judges nothing ({found.rejects_empty.why})"
    if fault := _broken(found, wrong, right):
        return "broken", f"the verifier {fault}"
    if fault := _weak(found, wrong):
        return "weak", f"the verifier {fault}"
    rejected, tried = _sum(wrong.values())
    accepts = " and ".join(f"{figure.hits} of {figure.n} {name}" for name, figure in right.items())
    also = f", and accepts {accepts}" if accepts else ""
    return "trusted", f"the verifier rejects {rejected} of {tried} empty, misplaced or damaged answers{also}"


def _broken(found: Findings, wrong: Mapping[str, Figure], right: Mapping[str, Figure]) -> str:
    """What makes its verdicts worthless; empty where nothing does."""
    steady = found.steady
    if steady.value is not None and steady.value < STEADY:
        return f"contradicts itself: asked twice, it changes {steady.n - steady.hits} of {steady.n} verdicts"
    rejected, tried = _sum(wrong.values())
    if tried >= FEWEST_VERDICTS and rejected <= ACCEPTS_ALL * tried:
        return f"accepts everything: it passes {', '.join(_passed(name, wrong[name]) for name in wrong)}"
    if _sum(right.values())[1] >= FEWEST_VERDICTS and not _accepts(found):
        refused = " and ".join(f"{figure.n} {name}" for name, figure in right.items())
        return f"rejects everything: all {refused}, some of which should be right"
    return ""


def _weak(found: Findings, wrong: Mapping[str, Figure]) -> str:
    """What keeps it from being trusted with content; empty where nothing does."""
    for name in (_EMPTY, _OTHER):
        if name in wrong and (wrong[name].value or 0.0) < REJECTS:
            return f"passes {_passed(name, wrong[name])}: it checks form, not content{_unlabelled(found)}"
    hurt = {name: wrong[name] for name in (_SHUFFLED, _CUT) if name in wrong}
    rejected, tried = _sum(hurt.values())
    if rejected < REJECTS_DAMAGED * tried:
        return f"passes {' and '.join(_passed(name, hurt[name]) for name in hurt)}"
    if _OTHER not in wrong:
        return f"is not proven ({found.rejects_other.why})"
    if not _accepts(found):
        return "is not proven: it has accepted nothing yet"
    return ""


def _unlabelled(found: Findings) -> str:
    """That there are prompts without a reference, which may be why; empty where all have one."""
    judged, tried = found.accepts_reference.n, found.rejects_empty.n
    return f", and {tried - judged} of {tried} prompts have no `reference`" if judged < tried else ""


def _accepts(found: Findings) -> bool:
    """Whether it has passed anything at all; of a reference nobody knows whether it is meant to be an answer."""
    return any(
        figure.value for figure in (found.given_pass, found.teacher_pass, found.accepts_reference, found.pass_at_1)
    )


def _measured(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    return {name: figure for name, figure in figures.items() if figure.value is not None}


def _sum(figures: Iterable[Figure]) -> tuple[int, int]:
    """(hits, cases)."""
    both = [(figure.hits, figure.n) for figure in figures]
    return sum(hits for hits, _ in both), sum(n for _, n in both)


def _passed(name: str, figure: Figure) -> str:
    return f"{figure.n - figure.hits} of {figure.n} {name}"
