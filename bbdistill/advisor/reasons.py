"""What an advice says: each recipe's case in a sentence, and the findings in words. Pure."""

from dataclasses import dataclass

from bbdistill.advisor.findings import Findings, mean_rate, percent, rate, wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A recipe, what it needs set beside its name (`a.b=value`), and why."""

    recipe: str
    why: str
    settings: tuple[str, ...] = ()


# The cases for the recipes

ISFT = Option(
    recipe="isft", why="drafts are corrected by the verifier's feedback until they pass, and the corrections imitated"
)
PROCESS = Option(
    recipe="process",
    why="as `isft`, but the teacher marks the first wrong part, and only what follows is corrected: for long answers",
)
BEST_OF_TEACHER = Option(
    recipe="best_of_n",
    why="several answers of the teacher to each prompt, of which one that passes is imitated",
    settings=('feedback.candidates_from="teacher"',),
)
OPD = Option(
    recipe="opd",
    why="after imitation the student follows the teacher's distributions on what it writes itself, and so learns to go "
    "on from its own mistakes, which no answer of the teacher shows",
)
RUBRIC = Option(
    recipe="rubric",
    why="after imitation rewards by a rubric that the teacher writes for each prompt: its criteria say what an answer "
    "lacks, where the discriminator of `gad` says how like the teacher's it is, which imitation has taught and no "
    "verifier corrects; it takes four answers to each prompt, and two calls each time a prompt comes up, for the "
    "rubric and the marks",
)
COACH = Option(
    recipe="coach",
    why="as `grpo`, and the teacher says what kind of mistake an answer makes, never the right one: the tokens that "
    "the student would then say less get more of the blame; it takes a call for each of `coach.rollouts` a step",
)


def sft(found: Findings, *, asks: bool) -> Option:
    """`asks`: whether the teacher writes the demonstrations that did not come with the data."""
    return Option(
        recipe="sft",
        why="imitating them tells the student about every token, a reward at most one bit per answer",
        settings=_demonstrations(found, asks=asks),
    )


def kd(found: Findings) -> Option:
    return Option(
        recipe="kd",
        why="the teacher gives log-probs: of every token the student learns all that the teacher might have said and "
        "how likely, where imitation (`sft`) tells it one choice, and a reward at most one bit per answer",
        settings=_demonstrations(found, asks=True),
    )


def _demonstrations(found: Findings, *, asks: bool) -> tuple[str, ...]:
    return () if found.given == found.prompts else (f"feedback.demonstrations={str(asks).lower()}",)


def best_of_student(found: Findings) -> Option:
    bits, passing = found.bits.value or 0.0, found.pass_bits.value or 0.0
    return Option(
        recipe="best_of_n",
        why=f"imitating those of its own answers that pass uses {passing:.2f} of the {bits:.2f} bits that a verdict on "
        "a rollout carries",
        settings=('feedback.candidates_from="student"',),
    )


def gad(found: Findings) -> Option:
    bits = found.bits.value
    before = "" if bits is None else f"; by the verifier a reward carries {bits:.2f} bits per rollout before that"
    return Option(
        recipe="gad",
        why="the demonstrations as a warm-up, then a discriminator and the verifier reward the student's own "
        f"answers, and accepted corrections are imitated{before}",
    )


def grpo(found: Findings) -> Option:
    bits, flat = found.bits.value, found.zero_variance
    silent = f", none in the {rate(flat)} groups that score alike" if flat.value else ""
    carries = "" if bits is None else f": {bits:.2f} bits per rollout (1 at most){silent}"
    return Option(
        recipe="grpo", why=f"the verifier rewards the student's own answers, and no teacher is asked{carries}"
    )


# What else there is to say

AT_ITS_END = (
    "; at its end a run has the teacher answer the test prompts, so the teacher has to work by then, though nothing is "
    "learned from it"
)
FIX = (
    "filtering by it, correcting until it passes or rewarding what it passes would teach its mistakes: mend it first, "
    "and hold answers that you know against it with `bbdistill verify`"
)
FIXED = ("a verifier that accepts right answers and rejects others: measure again",)
COLLECT = (
    "collect first: 20 to 50 answers that you would sign, as `completion`, or `reference` values and a verifier that "
    "compares with them"
)
MORE = ("10 prompts or more: measure again",)
PROMPTS = "collect first: prompts as your users write them, some hundreds, and some more to test on"
DATA = (
    "good demonstrations, or a teacher that answers: `sft`",
    "a verifier that accepts right answers and rejects others: corrections or selection",
)
_OWN = (
    "answers that pass 70 % or more, or 40 % and more often than the student's (another teacher, a better prompt, your "
    "own): `sft`",
    "a teacher that passes more often than the student: corrections until they pass (`isft`)",
)
_WRONG = "a trustworthy verifier that passes less than 40 % of the answers: corrections until they pass (`isft`)"
CHANGES = {
    "sft": (
        _WRONG,
        "log-probs with a teacher's answers (`local:PATH`, a server that scores texts, or one that gives the likeliest "
        "tokens of what it writes): `kd`",
        "open answers that no verifier can judge, and imitation at its end: rewards by a rubric (`rubric`)",
    ),
    "kd": (
        _WRONG,
        "demonstrations that come with the data, and are as good: `sft`",
        "a student that does well after the teacher's words and badly after its own: `opd`",
    ),
    "isft": (
        "answers that pass 40 % or more (another teacher, a better prompt, your own): `sft`",
        "a student that passes sometimes, and as often as the teacher: selection among its answers (`best_of_n`)",
    ),
    "best_of_n": (
        *_OWN,
        "a student that passes more than half of the time: rewards (`grpo`), since its failures then tell more",
    ),
    "grpo": (
        *_OWN,
        "a student that passes less than half of the time: selection among its answers (`best_of_n`)",
        "mistakes in a few tokens of long answers, and a teacher that sees them: blame where it belongs (`coach`)",
    ),
}
"""What would turn a recommendation into another one."""


def missing(found: Findings, verdict: str) -> str:
    """What there is to learn from, that it is not enough, and what to collect."""
    given = f"{found.given} demonstrations came" if found.given else "no demonstrations came"
    judged = f" ({rate(found.given_pass)} pass)" if found.given_pass.value is not None else ""
    return f"{given} with the data{judged}, {teacher(found)}, and {verdict}; {COLLECT}"


def unmeasured(found: Findings) -> str:
    return (
        f"{teacher(found)}, so that only the verifier is left to learn from; what it is worth depends on how often the "
        f"student passes, which was not measured ({found.bits.why})"
    )


def teacher(found: Findings) -> str:
    replies, passed = found.teacher_answers, found.teacher_pass
    if replies.value is None:
        return f"the teacher cannot be used ({replies.why})"
    if passed.value is None or not replies.value:
        return f"the teacher gives a usable reply to {rate(replies)} prompts"
    return f"the teacher passes {rate(passed)}"


def student(found: Findings) -> str:
    bits = found.bits
    if bits.value is None:
        return f"the student was not measured ({bits.why})"
    return f"the student passes {mean_rate(found.pass_at_1)}, where a reward carries {bits.value:.2f} bits per rollout"


def close_calls(found: Findings, bar: float) -> tuple[str, ...]:
    """Rates whose 95 % interval spans the bar that they were held against."""
    held = {"the given demonstrations": found.given_pass, "the teacher's answers": found.teacher_pass}
    close: list[str] = []
    for name, figure in held.items():
        low, high = wilson(figure)
        if figure.value is not None and low < bar <= high:
            close.append(
                f"{name} pass {rate(figure)}, which may be {percent(low)} to {percent(high)}: a larger --sample tells "
                f"on which side of {percent(bar)}"
            )
    return tuple(close)


def cut_short(found: Findings) -> tuple[str, ...]:
    return (
        f"answers that come to their end: {rate(found.cut)} of the rollouts are cut at `student.max_new_tokens`, and "
        "nothing is learned from those; raise it, or ask for less, and measure again",
    )
