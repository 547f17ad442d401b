"""The rule: which recipe fits what was measured, and why. Pure; `decide` reads from top to bottom.

Thresholds marked (estimate) are judgement, not measurement; where a figure's interval spans one, the advice says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from bbdistill.advisor import reasons
from bbdistill.advisor.findings import Figure, Findings, mean_rate, rate
from bbdistill.advisor.reasons import Option
from bbdistill.advisor.trust import trust_in
from bbdistill.config import Recipe

RECIPES: tuple[str, ...] = get_args(Recipe)

GOOD_ANSWERS = 0.7
"""Pass rate from which on answers are worth imitating as they are; filtering costs less than a third (estimate)."""
SOME_ANSWERS = 0.1
"""Pass rate from which on a teacher can be expected to mend what a verifier finds wrong (estimate)."""
USABLE_REPLIES = 0.5
"""Share of calls with a usable reply; a run demands the same (`feedback.max_abstain_rate`)."""
FEWEST_ANSWERS = 10
"""Fewer demonstrations than this teach a model those answers and nothing else (estimate)."""
FEW_ANSWERS = 50
"""Up to here every answer must teach as much as it can: rationales claim to need 3-5 times fewer (Parsed, 2025)."""
TELLING_FEEDBACK = 0.5
"""A feedback of its own for at least every second rejection: it says what is wrong with this answer (estimate)."""
ENOUGH_BITS = 0.15
"""Bits per rollout, at least, to select or reward by: about a pass rate of 5 %, 20 draws for each answer kept."""
LONG_ANSWERS = 200
"""Tokens from which on one verdict for a whole rollout says little of where it went wrong (estimate)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One recommendation, its reason, and what would change it."""

    recommends: str
    """A recipe of this build, or `data problem`, `fix the verifier`, `measure the student`."""
    reason: str
    runner_up: Option | None = None
    changes: tuple[str, ...]
    """What would change its mind."""
    settings: tuple[str, ...] = ()
    """What the recipe needs set beside its name: `a.b=value`, as `--set`."""
    findings: Findings = field(repr=False)

    @property
    def is_recipe(self) -> bool:
        return self.recommends in RECIPES

    def as_json(self) -> dict[str, Any]:
        second = self.runner_up
        return {
            "recommends": self.recommends,
            "reason": self.reason,
            "runner_up": second and {"recipe": second.recipe, "why": second.why},
            "changes": list(self.changes),
            "settings": list(self.settings),
            "findings": self.findings.as_json(),
        }


def decide(found: Findings, recipes: Sequence[str] = RECIPES) -> Advice:
    """The advice for these findings; it names only recipes of this build (`recipes`)."""
    trust, verdict = trust_in(found)
    replies = _reaches(found.teacher_answers, USABLE_REPLIES)
    # The first reason that holds decides.
    if trust == "broken":
        return _stop(found, "fix the verifier", f"{verdict}; {reasons.FIX}", reasons.FIXED)
    if answers := _good_answers(found, replies=replies):  # What can be demonstrated is imitated.
        return _choose(found, recipes, answers, _imitating(found, replies and trust == "trusted", replies), "sft")
    if trust != "trusted":  # Neither answers nor a check of them.
        return _stop(found, "data problem", reasons.missing(found, verdict), reasons.DATA)

    # From here on answers can be told apart, but not simply be shown.
    bits, passing = found.bits.value, found.pass_bits.value or 0.0
    if replies and _reaches(found.teacher_pass, SOME_ANSWERS) and _leads(found):  # Drafts can be corrected.
        why = f"the teacher passes {rate(found.teacher_pass)}: too few to imitate as they come, enough to correct"
        return _choose(found, recipes, why, _correcting(found), "isft")
    if bits is not None and bits >= ENOUGH_BITS:  # The student passes sometimes: that can be selected, or rewarded.
        why = f"{reasons.teacher(found)}, but the student passes {mean_rate(found.pass_at_1)}"
        selecting, rewarding = reasons.best_of_student(found), reasons.gad(found)
        options = [selecting, rewarding] if passing >= bits / 2 else [rewarding, selecting]
        return _choose(found, recipes, why, options if replies else [selecting], "best_of_n")
    if replies:  # It never passes: a reward would be silent, corrections are not.
        why = f"{reasons.student(found)}; {reasons.teacher(found)}"
        return _choose(found, recipes, why, _correcting(found), "isft")
    if bits is None:
        return _stop(found, "measure the student", reasons.unmeasured(found), reasons.DATA)
    return _stop(found, "data problem", f"{reasons.student(found)}; {reasons.missing(found, verdict)}", reasons.DATA)


def _good_answers(found: Findings, *, replies: bool) -> str:
    """Why there is something good to imitate; empty where there is not. What nothing judged is taken as it is."""
    given, teacher = found.given_pass, found.teacher_pass
    if found.given >= FEWEST_ANSWERS and (given.value is None or given.value >= GOOD_ANSWERS):
        checked = "and no verifier to doubt them" if given.value is None else f"and {rate(given)} of them pass"
        return f"{found.given} demonstrations came with the data, {checked}"
    if not replies or found.prompts < FEWEST_ANSWERS:
        return ""
    if teacher.value is None:
        return f"the teacher answers {rate(found.teacher_answers)}, and no verifier says how well: read some of them"
    return f"the teacher's answers pass {rate(teacher)}" if teacher.value >= GOOD_ANSWERS else ""


def _imitating(found: Findings, correctable: bool, replies: bool) -> list[Option]:
    """`sft`, and the next step up where the teacher can be asked for it."""
    few = (found.prompts if replies else found.given) <= FEW_ANSWERS
    telling = _reaches(found.feedback, TELLING_FEEDBACK)
    rationales = [reasons.RGT] if correctable and few and telling else []
    corrections = [reasons.ISFT] if correctable else []
    return [reasons.SFT, *rationales, *corrections, *([reasons.gad(found)] if replies else [])]


def _correcting(found: Findings) -> list[Option]:
    """`isft`, and what refines it: by the place of the mistake in long answers, by strategies for few prompts."""
    long = [reasons.PROCESS] if _reaches(found.student_tokens, LONG_ANSWERS) else []
    telling = _reaches(found.feedback, TELLING_FEEDBACK) and found.prompts <= FEW_ANSWERS
    candidates = [reasons.BEST_OF_TEACHER] if _reaches(found.teacher_pass, SOME_ANSWERS) else []
    return [reasons.ISFT, *long, *([reasons.RGT] if telling else []), *candidates, reasons.gad(found)]


def _choose(found: Findings, recipes: Sequence[str], why: str, options: Sequence[Option], branch: str) -> Advice:
    """The first option that this build has, with the next one as the runner-up."""
    known = [option for option in options if option.recipe in recipes]
    changes = (*reasons.changes(branch), *reasons.close_calls(found, GOOD_ANSWERS))
    if not known:
        return _stop(found, "data problem", f"{why}; no recipe of this build can use that", changes)
    first, second = known[0], known[1] if len(known) > 1 else None
    return Advice(
        recommends=first.recipe,
        reason=f"{why}; {first.why}",
        runner_up=second,
        changes=changes,
        settings=first.settings,
        findings=found,
    )


def _stop(found: Findings, says: str, reason: str, changes: tuple[str, ...]) -> Advice:
    """No recipe: something else comes first."""
    return Advice(recommends=says, reason=reason, changes=changes, findings=found)


def _reaches(figure: Figure, threshold: float) -> bool:
    return figure.value is not None and figure.value >= threshold


def _leads(found: Findings) -> bool:
    """Whether the teacher passes more often than the student; so it is taken to, where the student is not known."""
    student = found.pass_at_1.value
    return student is None or (found.teacher_pass.value or 0.0) > student
