"""The rule: which recipe fits what was measured, and why. Pure; `decide` reads from top to bottom.

Thresholds marked (estimate) are judgement, not measurement; where a figure's interval spans one, the advice says so.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from bbdistill.advisor import reasons
from bbdistill.advisor.findings import Figure, Findings, mean_rate, rate
from bbdistill.advisor.reasons import Option
from bbdistill.advisor.trust import Trust, trust_in
from bbdistill.config import Recipe

RECIPES: tuple[str, ...] = get_args(Recipe)

GOOD_ANSWERS = 0.7
"""Pass rate from which on answers are worth imitating as they are; filtering costs less than a third (estimate)."""
ENOUGH_ANSWERS = 0.4
"""The same of a teacher that passes more often than the student: for as many calls, the answers that pass teach as
much as corrections do, and cost less (measured at 42 %: `sft` beside `isft` on the demo's e-mails, README)."""
SOME_ANSWERS = 0.1
"""Pass rate from which on a teacher can be expected to mend what a verifier finds wrong (estimate)."""
USABLE_REPLIES = 0.5
"""Share of calls with a usable reply; a run demands the same (`feedback.max_abstain_rate`)."""
FEWEST_ANSWERS = 10
"""Fewer answers than this teach a model those answers and nothing else (estimate)."""
TELLING_FEEDBACK = 0.5
"""A feedback of its own for at least every second rejection: it says what is wrong with this answer (estimate)."""
ENOUGH_BITS = 0.15
"""Bits per rollout, at least, to select or reward by: about a pass rate of 5 %, 20 draws for each answer kept."""
MANY_CUT = 0.2
"""Share of rollouts that are cut off from which on the limit, not the student, is what was measured (estimate)."""
LONG_ANSWERS = 200
"""Tokens from which on one verdict for a whole rollout says little of where it went wrong (estimate)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One recommendation, its reason, and what would change it."""

    recommends: str
    """A recipe, or what comes before any: `data problem`, `fix the verifier`, `measure the student`."""
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
        trust, verdict = trust_in(self.findings)
        return {
            "recommends": self.recommends,
            "reason": self.reason,
            "settings": list(self.settings),
            "runner_up": self.runner_up and asdict(self.runner_up),
            "changes": list(self.changes),
            "verifier": {"trust": trust, "why": verdict},
            "findings": self.findings.as_json(),
        }


def decide(found: Findings) -> Advice:
    """The advice for these findings: the first case that holds."""
    trust, verdict = trust_in(found)
    replies = _reaches(found.teacher_answers, USABLE_REPLIES)
    # What a verifier of form refutes is no usable reply; what it passes is no better than what nobody judged.
    enough = ENOUGH_ANSWERS if _leads(found) else GOOD_ANSWERS
    bar = enough if trust == "trusted" else USABLE_REPLIES

    if found.prompts < FEWEST_ANSWERS:
        return _stop(
            found, "data problem", f"there are {found.prompts} prompts to train on; {reasons.PROMPTS}", reasons.MORE
        )
    if trust == "broken":
        return _stop(found, "fix the verifier", f"{verdict}; {reasons.FIX}", reasons.FIXED)
    given, taught = _good_given(found, bar), _good_teacher(found, bar) if replies else ""
    if why := given or taught:  # What can be shown is imitated.
        doubt = f", though {verdict}; read some of the answers" if trust == "weak" else ""
        options = _imitating(found, trust, replies=replies)
        if taught and found.gives_log_probs:  # And what else it might have said; what others wrote comes first.
            options = [options[0], reasons.kd(found)] if given else [reasons.kd(found), reasons.OPD]
        return _choose(found, why + doubt, options, bar)
    if trust != "trusted":  # Neither answers nor a check of them.
        changes = (*reasons.DATA, *reasons.close_calls(found, bar))
        return _stop(found, "data problem", reasons.missing(found, verdict), changes)

    # From here on right answers can be told from wrong ones, but there are too few right ones to show.
    if replies and _reaches(found.teacher_pass, SOME_ANSWERS) and _leads(found):  # Drafts can be corrected.
        why = f"the teacher passes {rate(found.teacher_pass)}: too few to imitate as they come, enough to correct; "
        why += reasons.student(found)
        return _choose(found, why, _correcting(found), bar)
    if _reaches(found.bits, ENOUGH_BITS):  # The student passes sometimes: that can be selected, or rewarded.
        why = f"{reasons.teacher(found)}, but the student passes {mean_rate(found.pass_at_1)}"
        return _choose(found, why, _from_its_own(found, replies=replies), bar)
    if replies:  # The student never passes, or nobody knows: a reward may be silent, corrections are not.
        return _choose(found, f"{reasons.student(found)}; {reasons.teacher(found)}", _correcting(found), bar)
    if found.bits.value is None:
        return _stop(found, "measure the student", reasons.unmeasured(found), reasons.DATA)
    return _stop(found, "data problem", f"{reasons.student(found)}; {reasons.missing(found, verdict)}", reasons.DATA)


def _good_given(found: Findings, bar: float) -> str:
    """Why the demonstrations that came with the data are good: `bar` pass, or nothing judges them. Else empty."""
    given = found.given_pass
    if found.given < FEWEST_ANSWERS or (given.value is not None and given.value < bar):
        return ""
    checked = "and no verifier to doubt them" if given.value is None else f"and {rate(given)} of them pass"
    return f"{found.given} demonstrations came with the data, {checked}"


def _good_teacher(found: Findings, bar: float) -> str:
    """The same of the answers of a teacher that replies."""
    if found.teacher_pass.value is None:
        return f"the teacher answers {rate(found.teacher_answers)}, and no verifier says how well: read some of them"
    return f"the teacher's answers pass {rate(found.teacher_pass)}" if _reaches(found.teacher_pass, bar) else ""


def _imitating(found: Findings, trust: Trust, *, replies: bool) -> list[Option]:
    """`sft`, and the next step up where the teacher can be asked for it: by what there is to check an answer with."""
    asks = replies and _may_demonstrate(found)
    options = [reasons.sft(found, asks=asks)]
    if not replies:
        return options
    match trust:
        case "none":
            return [*options, reasons.RUBRIC]
        case "trusted":
            return [*options, reasons.ISFT]
        case _:
            return [*options, reasons.gad(found)] if asks or found.given else options


def _correcting(found: Findings) -> list[Option]:
    """`isft`, and by the place of the mistake in long answers.

    `rgt` is not among them: from the same corrections a student learned less by it than by imitation (README).
    """
    options = [reasons.ISFT]
    options += [reasons.PROCESS] if _reaches(found.student_tokens, LONG_ANSWERS) else []
    options += [reasons.BEST_OF_TEACHER] if _reaches(found.teacher_pass, SOME_ANSWERS) else []
    return [*options, reasons.gad(found)] if _may_demonstrate(found) else options


def _from_its_own(found: Findings, *, replies: bool) -> list[Option]:
    """Selection among the student's answers, or a reward for them: first what uses more of the verdicts.

    Advice refines a reward where feedback tells the teacher what is wrong, or answers are long.
    """
    selecting, rewarding = reasons.best_of_student(found), reasons.grpo(found)
    if (found.pass_bits.value or 0.0) >= (found.bits.value or 0.0) / 2:
        return [selecting, rewarding]
    refines = _reaches(found.feedback, TELLING_FEEDBACK) or _reaches(found.student_tokens, LONG_ANSWERS)
    return [rewarding, reasons.COACH if replies and refines else selecting]


def _choose(found: Findings, why: str, options: list[Option], bar: float) -> Advice:
    """The first option, with the next one as the runner-up."""
    first, second = options[0], options[1] if len(options) > 1 else None
    return Advice(
        recommends=first.recipe,
        reason=f"{why}; {first.why}{reasons.AT_ITS_END if found.teacher_answers.value is None else ''}",
        runner_up=second,
        changes=(
            *reasons.CHANGES[first.recipe],
            *reasons.close_calls(found, bar),
            *(reasons.cut_short(found) if _reaches(found.cut, MANY_CUT) else ()),
        ),
        settings=first.settings,
        findings=found,
    )


def _stop(found: Findings, says: str, reason: str, changes: tuple[str, ...]) -> Advice:
    """No recipe: something else comes first."""
    return Advice(recommends=says, reason=reason, changes=changes, findings=found)


def _may_demonstrate(found: Findings) -> bool:
    """Whether the teacher is worth asking for demonstrations: of one that never passes, a run could keep none."""
    return found.teacher_pass.value is None or found.teacher_pass.value >= SOME_ANSWERS


def _leads(found: Findings) -> bool:
    """Whether the teacher passes more often than the student; so it is taken to, where the student is not known."""
    student = found.pass_at_1.value
    return student is None or (found.teacher_pass.value or 0.0) > student


def _reaches(figure: Figure, threshold: float) -> bool:
    return figure.value is not None and figure.value >= threshold
