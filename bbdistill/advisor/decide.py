"""The rule: which recipe fits what was measured, and why. Pure; `decide` reads from top to bottom.

Thresholds marked (estimate) are judgement, not measurement; where a figure's interval spans one, the advice says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from bbdistill.advisor.findings import Figure, Findings, wilson
from bbdistill.config import Recipe

RECIPES: tuple[str, ...] = get_args(Recipe)

GOOD_ANSWERS = 0.7
"""Pass rate from which on answers are worth imitating as they are: filtering them costs less than a third (estimate)."""
SOME_ANSWERS = 0.1
"""Pass rate from which on a teacher is of use at all: feedback rarely mends what nobody gets right (estimate)."""
USABLE_REPLIES = 0.5
"""Share of calls with a usable reply; what a run demands of its teacher, too (`feedback.max_abstain_rate`)."""
FEWEST_ANSWERS = 10
"""Fewer demonstrations than this teach a model those answers and nothing else (estimate)."""
FEW_ANSWERS = 50
"""Up to here every answer must teach as much as it can; rationales claim 3-5 times fewer (Parsed, 2025)."""
TELLING_FEEDBACK = 0.5
"""Different feedback for at least every second rejection: it says what is wrong with this answer (estimate)."""
ENOUGH_BITS = 0.15
"""Bits per rollout that selection or reward must carry; about a pass rate of 5 %, 20 draws for each answer kept."""
LONG_ANSWER = 200
"""Tokens from which on one verdict for a whole rollout says little of where it went wrong (estimate)."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Something to do: a recipe, with what it needs set beside its name, and why."""

    name: str
    why: str
    settings: tuple[str, ...] = ()
    """`a.b=value`, as `--set`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One recommendation, its reason, and what would change it."""

    recommends: str
    """A recipe of this build, or `data problem`, `fix the verifier`, `measure the student`."""
    reason: str
    runner_up: Option | None
    changes: tuple[str, ...]
    """What would change its mind."""
    settings: tuple[str, ...] = ()
    """What the recipe needs set beside its name, as `--set`."""
    verifier: str = ""
    """What was found of the verifier, a sentence."""
    findings: Findings = field(repr=False)

    @property
    def is_recipe(self) -> bool:
        return self.recommends in RECIPES

    def as_json(self) -> dict[str, Any]:
        other = self.runner_up
        return {
            "recommends": self.recommends,
            "reason": self.reason,
            "runner_up": {"recipe": other.name, "why": other.why} if other else None,
            "changes": self.changes,
            "settings": self.settings,
            "verifier": self.verifier,
            "findings": self.findings.as_json(),
        }


def decide(found: Findings, recipes: Sequence[str] = RECIPES) -> Advice:
    """The advice for these findings; it names only recipes of this build (`recipes`)."""
    trust, verifier = trust_in(found)
    answers = _good_answers(found)
    asked = found.teacher_answers.value is not None
    helps = _passes(found.teacher_pass, SOME_ANSWERS) and not _beats(found.pass_at_1, found.teacher_pass)
    bits, passing = found.bits.value, found.pass_bits.value or 0.0

    if trust == "broken":
        return _advice(found, verifier, "fix the verifier", verifier + _FIX, changes=("a verifier that works",))
    if answers:  # What can be demonstrated is imitated.
        return _choose(found, verifier, recipes, answers, _after_sft(found, trust, asked), _sft_changes(trust))
    if trust != "trusted":  # Neither answers nor a check of them.
        return _advice(found, verifier, "data problem", _missing(found) + _COLLECT, changes=_DATA_CHANGES)

    # From here on answers can be told apart, but not simply be shown.
    if helps:  # Feedback turns the teacher's drafts, and the student's, into answers that pass.
        why = f"the teacher passes {_rate(found.teacher_pass)}: too few to imitate as they come, enough to correct"
        return _choose(found, verifier, recipes, why, [_ISFT, _BEST_OF_TEACHER, _gad(found)], _CORRECT_CHANGES)
    if bits is None and not asked:
        return _advice(found, verifier, "measure the student", _UNMEASURED_STUDENT, changes=_DATA_CHANGES)
    if bits is not None and bits >= ENOUGH_BITS:  # It passes sometimes: that can be selected, or rewarded.
        why = f"no teacher's answer to build on ({_teacher(found)}), but the student passes {_rate(found.pass_at_1)}"
        imitate = passing >= bits / 2  # Most of what a verdict tells is in the rollouts that pass.
        ranked = [_best_of_student(found), _gad(found)] if imitate else [_gad(found), _best_of_student(found)]
        options = [*ranked, _PROCESS] if asked else [_best_of_student(found)]
        return _choose(found, verifier, recipes, why, options, _SELECT_CHANGES)
    if asked:  # It never passes: a reward would be silent, corrections are not.
        why = f"{_student(found)}, and the teacher does not demonstrate it either ({_teacher(found)})"
        return _choose(found, verifier, recipes, why, [_ISFT, _RGT, _gad(found)], _CORRECT_CHANGES)
    return _advice(found, verifier, "data problem", _missing(found) + _COLLECT, changes=_DATA_CHANGES)


def trust_in(found: Findings) -> tuple[Trust, str]:
    """How far the verifier may be trusted, and a sentence that says which probe says so."""
    judged, tried = found.judged, [found.given_pass, found.teacher_pass, found.accepts_reference, found.pass_at_1]
    damaged = {
        "empty answers": found.rejects_empty,
        "answers to another prompt": found.rejects_other,
        "shuffled answers": found.rejects_shuffled,
        "answers cut in the middle": found.rejects_truncated,
    }
    measured = {name: figure for name, figure in damaged.items() if figure.value is not None}
    if not found.has_verifier:
        return "none", "there is no verifier"
    if judged.value == 0 or not measured:
        return "none", f"the verifier judges nothing here ({judged.why or found.rejects_empty.why})"
    if found.steady.value is not None and found.steady.value < STEADY:
        odd = found.steady.n - found.steady.hits
        return "broken", f"the verifier contradicts itself: asked twice, {odd} of {found.steady.n} verdicts differ"
    cases = sum(figure.n for figure in measured.values())
    rejected = sum(figure.hits for figure in measured.values())
    if cases >= FEWEST_VERDICTS and rejected <= ACCEPTS_ALL * cases:
        kept = ", ".join(f"{figure.n - figure.hits} of {figure.n} {name}" for name, figure in measured.items())
        return "broken", f"the verifier accepts everything: it passed {kept}"
    known = [figure for figure in tried if figure.value is not None]
    if sum(figure.n for figure in known) >= FEWEST_VERDICTS and not any(figure.value for figure in known):
        return "broken", f"the verifier rejects everything: {_nothing_passed(found)}"
    for name in ("empty answers", "answers to another prompt"):
        if (figure := measured.get(name)) and (figure.value or 0.0) < REJECTS:
            says = f"the verifier accepts {figure.n - figure.hits} of {figure.n} {name}: it checks form, not content"
            return "weak", says
    hurt = [figure for name in ("shuffled answers", "answers cut in the middle") if (figure := measured.get(name))]
    if hurt and sum(figure.hits for figure in hurt) < REJECTS_DAMAGED * sum(figure.n for figure in hurt):
        says = " and ".join(f"{figure.n - figure.hits} of {figure.n}" for figure in hurt)
        return "weak", f"the verifier accepts damaged answers: {says} shuffled or cut ones"
    if "answers to another prompt" not in measured or not any(figure.value for figure in known):
        return "weak", f"the verifier is not proven: {found.rejects_other.why or 'nothing was there for it to accept'}"
    return "trusted", f"the verifier can be trusted: it rejects {rejected} of {cases} damaged or misplaced answers"


def _good_answers(found: Findings) -> str:
    """Why there is something good to imitate; empty where there is not."""
    given, teacher = found.given_pass, found.teacher_pass
    if found.given >= FEWEST_ANSWERS and _good(given):
        checked = "and no verifier to doubt them" if given.value is None else f"of which {_rate(given)} pass"
        return f"{found.given} demonstrations came with the data, {checked}"
    replies = found.teacher_answers
    if replies.value is None or replies.value < USABLE_REPLIES or found.prompts < FEWEST_ANSWERS or not _good(teacher):
        return ""
    if teacher.value is None:
        return f"the teacher answers {_rate(replies)}, and no verifier says otherwise: read some before you train"
    return f"the teacher's answers pass {_rate(teacher)}"


def _after_sft(found: Findings, trust: Trust, asked: bool) -> list[Option]:
    """`sft`, and the next step up."""
    few = (found.prompts if asked else found.given) <= FEW_ANSWERS
    telling = _passes(found.feedback, TELLING_FEEDBACK)
    options = [_SFT]
    if asked and trust == "trusted":
        options += [_RGT, _ISFT] if few and telling else [_ISFT]
    return [*options, _gad(found)] if asked else options


def _choose(
    found: Findings, verifier: str, recipes: Sequence[str], why: str, options: Sequence[Option], changes: tuple[str, ...]
) -> Advice:
    """The first option that this build has, with the next one as the runner-up."""
    known = [option for option in options if option.name in recipes]
    if not known:
        return _advice(found, verifier, "data problem", _missing(found) + _COLLECT, changes=_DATA_CHANGES)
    first, second = known[0], known[1] if len(known) > 1 else None
    return _advice(found, verifier, first.name, f"{why}; {first.why}", second, changes, first.settings)


def _advice(
    found: Findings,
    verifier: str,
    recommends: str,
    reason: str,
    runner_up: Option | None = None,
    changes: tuple[str, ...] = (),
    settings: tuple[str, ...] = (),
) -> Advice:
    return Advice(
        recommends=recommends,
        reason=reason,
        runner_up=runner_up,
        changes=(*changes, *_close_calls(found)),
        settings=settings,
        verifier=verifier,
        findings=found,
    )


_FIX = (
    "; filtering by it, correcting until it passes or rewarding what it passes would teach its mistakes; "
    "mend it first, and hold answers you know against it with `bbdistill verify`"
)
_COLLECT = (
    "; collect first: 20 to 50 answers you would sign as `completion`, or `reference` values with a verifier that "
    "compares with them"
)
_UNMEASURED_STUDENT = (
    "only a verifier is left to learn from, and what that is worth depends on how often the student passes, "
    "which was not measured"
)
_SFT = Option(name="sft", why="imitating them tells the student every token, where a reward tells it a bit per answer")
_ISFT = Option(
    name="isft",
    why="drafts are corrected by the verifier's feedback until they pass, and those corrections are imitated",
)
_RGT = Option(
    name="rgt",
    why="what the feedback taught is imitated as a strategy beside each answer, which is for few answers",
)
_PROCESS = Option(name="process", why="the teacher marks the first wrong part, and only what follows it is corrected")
_BEST_OF_TEACHER = Option(
    name="best_of_n", why="several answers of the teacher for each prompt, and one that passes is imitated"
)
_DATA_CHANGES = (
    f"at least {FEWEST_ANSWERS} demonstrations, or a teacher that answers: `sft`",
    "a verifier that rejects what is wrong: corrections or selection",
)
_CORRECT_CHANGES = (
    f"answers that pass {GOOD_ANSWERS:.0%} or more (another teacher, a better prompt, your own): `sft`",
    f"a student that passes sometimes ({ENOUGH_BITS} bits per rollout) where the teacher does not: selection",
)
_SELECT_CHANGES = (
    f"answers that pass {GOOD_ANSWERS:.0%} or more (another teacher, a better prompt, your own): `sft`",
    f"a teacher that passes more often than the student, and at least {SOME_ANSWERS:.0%}: corrections",
)


def _sft_changes(trust: Trust) -> tuple[str, ...]:
    if trust == "trusted":
        return (f"answers that pass less than {GOOD_ANSWERS:.0%}: corrections until they pass",)
    return (f"a verifier of content that passes less than {GOOD_ANSWERS:.0%} of them: corrections until they pass",)


def _best_of_student(found: Findings) -> Option:
    bits, passing = found.bits.value or 0.0, found.pass_bits.value or 0.0
    return Option(
        name="best_of_n",
        why=f"imitating its answers that pass uses {passing:.2f} of the {bits:.2f} bits that a verdict carries, "
        "without the noise of a policy gradient",
        settings=('feedback.candidates_from="student"',),
    )


def _gad(found: Findings) -> Option:
    if found.bits.value is None:
        return Option(name="gad", why="corrections of its own answers are imitated, and rewards tell better from worse")
    flat = f", none in the {_rate(found.zero_variance)} groups that score alike" if found.zero_variance.value else ""
    return Option(
        name="gad",
        why=f"a reward carries {found.bits.value:.2f} bits per rollout here (at most 1){flat}; its corrections are "
        "imitated beside it",
    )


def _missing(found: Findings) -> str:
    """What there is to learn from, and that it is not enough."""
    given = f"{found.given} demonstrations came with the data" if found.given else "no demonstrations came with the data"
    if found.given_pass.value is not None:
        given += f" ({_rate(found.given_pass)} pass)"
    return f"{given}, {_teacher(found)}, and {trust_in(found)[1]}"


def _teacher(found: Findings) -> str:
    replies, passed = found.teacher_answers, found.teacher_pass
    if replies.value is None:
        return f"the teacher cannot be used ({replies.why})"
    if replies.value < USABLE_REPLIES or passed.value is None:
        return f"the teacher gives a usable reply to {_rate(replies)}"
    return f"the teacher passes {_rate(passed)}"


def _student(found: Findings) -> str:
    if found.bits.value is None:
        return f"the student was not measured ({found.bits.why})"
    return f"the student passes {_rate(found.pass_at_1, of='prompts')}, where a reward carries {found.bits.value:.2f} bits"


def _nothing_passed(found: Findings) -> str:
    named = {
        "given demonstrations": found.given_pass,
        "answers of the teacher": found.teacher_pass,
        "references given as answers": found.accepts_reference,
    }
    said = [f"all {figure.n} {name}" for name, figure in named.items() if figure.value is not None]
    said += [f"all rollouts on {found.pass_at_1.n} prompts"] if found.pass_at_1.value is not None else []
    return f"{', '.join(said)}; an answer that you know to be right must pass"


def _close_calls(found: Findings) -> tuple[str, ...]:
    """Rates whose interval spans the threshold that they were held against."""
    held = {"given demonstrations": found.given_pass, "the teacher's answers": found.teacher_pass}
    close = [
        f"{name} pass {_rate(figure)}, 95 % interval {low:.0%} to {high:.0%}: a larger --sample settles on which "
        f"side of {GOOD_ANSWERS:.0%} that is"
        for name, figure in held.items()
        if figure.value is not None and (low := wilson(figure)[0]) < GOOD_ANSWERS <= (high := wilson(figure)[1])
    ]
    return tuple(close)


def _passes(figure: Figure, threshold: float) -> bool:
    return figure.value is not None and figure.value >= threshold


def _good(figure: Figure) -> bool:
    """Where nothing judged the answers, they are taken as they are."""
    return figure.value is None or figure.value >= GOOD_ANSWERS


def _beats(student: Figure, teacher: Figure) -> bool:
    return student.value is not None and teacher.value is not None and student.value >= teacher.value


def _rate(figure: Figure, of: str = "") -> str:
    """A share as one reads it: 71 % (17 of 24)."""
    value = figure.value or 0.0
    return f"{value:.0%} ({f'on {figure.n} {of}' if of else f'{figure.hits} of {figure.n}'})"
