"""Whether a verifier may be trusted, from what it did to right, damaged and misplaced answers. Pure."""

from collections.abc import Mapping
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
    """How far the verifier may be trusted, and a sentence that says which probe says so."""
    if not found.has_verifier:
        return "none", "there is no verifier"
    probes = {
        _EMPTY: found.rejects_empty,
        _OTHER: found.rejects_other,
        _SHUFFLED: found.rejects_shuffled,
        _CUT: found.rejects_truncated,
    }
    probes = {name: figure for name, figure in probes.items() if figure.value is not None}
    if not probes:
        return "none", f"the verifier judges nothing ({found.rejects_empty.why})"
    if fault := _broken(found, probes):
        return "broken", f"the verifier {fault}"
    if fault := _weak(found, probes):
        return "weak", f"the verifier {fault}"
    rejected, tried = _rejected(probes)
    return "trusted", f"the verifier rejects {rejected} of {tried} damaged or misplaced answers"


def _broken(found: Findings, probes: Mapping[str, Figure]) -> str:
    """What makes its verdicts worthless; empty where nothing does."""
    steady = found.steady
    if steady.value is not None and steady.value < STEADY:
        return f"contradicts itself: asked twice, it changes {steady.n - steady.hits} of {steady.n} verdicts"
    rejected, tried = _rejected(probes)
    if tried >= FEWEST_VERDICTS and rejected <= ACCEPTS_ALL * tried:
        return f"accepts everything: it passes {', '.join(_passed(name, probes[name]) for name in probes)}"
    right = _held_right(found)
    if sum(figure.n for figure in right.values()) >= FEWEST_VERDICTS and not any(f.value for f in right.values()):
        refused = ", ".join(f"all {figure.n} {name}" for name, figure in right.items())
        return f"rejects everything: {refused}; an answer that you know to be right must pass"
    return ""


def _weak(found: Findings, probes: Mapping[str, Figure]) -> str:
    """What keeps it from being trusted with content; empty where nothing does."""
    for name in (_EMPTY, _OTHER):
        if name in probes and (probes[name].value or 0.0) < REJECTS:
            return f"passes {_passed(name, probes[name])}: it checks form, not content"
    hurt = {name: probes[name] for name in (_SHUFFLED, _CUT) if name in probes}
    rejected, tried = _rejected(hurt)
    if rejected < REJECTS_DAMAGED * tried:
        return f"passes {' and '.join(_passed(name, hurt[name]) for name in hurt)}"
    if _OTHER not in probes:
        return f"is not proven ({found.rejects_other.why})"
    if not any(figure.value for figure in _held_right(found).values()):
        return "is not proven: it has accepted nothing yet"
    return ""


def _held_right(found: Findings) -> dict[str, Figure]:
    """Answers of which some should pass."""
    figures = {
        "given demonstrations": found.given_pass,
        "answers of the teacher": found.teacher_pass,
        "references as answers": found.accepts_reference,
        "groups of the student": found.pass_at_1,
    }
    return {name: figure for name, figure in figures.items() if figure.value is not None}


def _rejected(probes: Mapping[str, Figure]) -> tuple[int, int]:
    return sum(figure.hits for figure in probes.values()), sum(figure.n for figure in probes.values())


def _passed(name: str, figure: Figure) -> str:
    return f"{figure.n - figure.hits} of {figure.n} {name}"
