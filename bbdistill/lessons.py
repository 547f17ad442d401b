"""What a step that gathers finds worth imitating, and what becomes of the rest. No torch."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, TypeAlias

from bbdistill.objectives import Rollouts, declines, passed
from bbdistill.teacher.ask import Feedback
from bbdistill.types import Abstain, Correction, Demonstration, Prompt, SetAside, SFTExample, Verdict, Verify

Nll: TypeAlias = Callable[[Sequence[tuple[Prompt, str]]], list[float]]
"""Mean nats per token of texts under the student as it is."""

_OF_DRAFTS = (
    "drafted",
    "passed",
    "accepted",
    "set_aside",
    "strategies",
    "kept_share",
    "nll_draft",
    "nll_correction",
)
_OF_CANDIDATES = ("candidates", "survivors", "with_survivor", "without_survivor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An answer that may be imitated: nothing speaks against it."""

    prompt: Prompt
    text: str
    verdict: Verdict | Abstain


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of what was gathered: drafted = passed + accepted + set aside. Sums are over the accepted corrections."""

    drafted: int = 0
    passed: int = 0
    """Drafts that the verifier passed at once."""
    accepted: dict[str, int] = field(default_factory=dict[str, int])
    """Corrections by the number of revisions they took."""
    set_aside: dict[str, int] = field(default_factory=dict[str, int])
    """Drafts by the reason."""
    strategies: int = 0
    kept_shares: float = 0.0
    nll_drafts: float = 0.0
    """Nats per token of the drafts that were corrected."""
    nll_corrections: float = 0.0
    candidates: int = 0
    survivors: int = 0
    """Candidates that nothing speaks against."""
    with_survivor: int = 0
    """Prompts."""
    without_survivor: int = 0

    def add(self, other: "Tally") -> None:
        for name in self.__slots__:
            mine, more = getattr(self, name), getattr(other, name)
            setattr(self, name, _sum(mine, more) if name in ("accepted", "set_aside") else mine + more)

    def summary(self) -> dict[str, Any]:
        """The `lessons` table of the report."""
        corrected = sum(self.accepted.values())
        return {
            "drafted": self.drafted,
            "passed": self.passed,
            "accepted": corrected,
            "accepted_after": dict(sorted(self.accepted.items())),
            "set_aside": sum(self.set_aside.values()),
            "set_aside_because": dict(sorted(self.set_aside.items())),
            "strategies": self.strategies,
            "kept_share": _mean(self.kept_shares, corrected),
            "nll_draft": _mean(self.nll_drafts, corrected),
            "nll_correction": _mean(self.nll_corrections, corrected),
            "candidates": self.candidates,
            "survivors": self.survivors,
            "with_survivor": self.with_survivor,
            "without_survivor": self.without_survivor,
        }

    def metrics(self) -> dict[str, float]:
        """Of one step, by the names in `metrics.jsonl`; what could not be measured is left out."""
        found = self.summary()
        names = _OF_CANDIDATES if self.candidates or self.without_survivor else _OF_DRAFTS
        return {f"gather/{name}": float(found[name]) for name in names if found[name] is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Of one step."""

    lessons: Mapping[str, tuple[SFTExample, ...]]
    """By prompt id."""
    tally: Tally
    set_aside: tuple[SetAside, ...] = ()


def from_corrections(
    rollouts_P_G: Rollouts,
    verdicts_P_G: Sequence[Sequence[Verdict | Abstain]],
    feedback: Feedback,
    *,
    nll: Nll,
) -> Gathered:
    """Drafts that passed and corrections that were accepted; all else is set aside.

    A draft that passes is imitated as well: rounds of corrections alone would show the student only what it gets wrong.
    """
    tally, lessons = Tally(drafted=sum(map(len, rollouts_P_G))), dict[str, tuple[SFTExample, ...]]()
    accepted: list[Correction] = []
    aside: list[SetAside] = []
    for rollouts_G, verdicts_G in zip(rollouts_P_G, verdicts_P_G, strict=True):
        for rollout, verdict in zip(rollouts_G, verdicts_G, strict=True):
            if not passed(verdict):
                continue
            if rollout.stop_reason == "length":
                aside.append(SetAside(rollout=rollout, text=rollout.completion, reason="passes, but was cut off"))
                continue
            tally.passed += 1
            lessons[rollout.prompt.id] = (SFTExample(prompt=rollout.prompt, text=rollout.completion),)
    for correction in feedback.corrections:
        rollout = correction.rollout
        if not correction.accepted_by:
            why, told = correction.refused, correction.reason
            aside.append(SetAside(rollout=rollout, text=correction.text, reason=why, feedback=told))
            continue
        accepted.append(correction)
        tally.strategies += bool(correction.strategy)
        tally.kept_shares += kept_share(rollout.completion, correction.text)
        lessons[rollout.prompt.id] = examples(correction)
    for rollout, abstain in feedback.unanswered:
        why = "the teacher gave nothing usable"
        aside.append(SetAside(rollout=rollout, text=rollout.completion, reason=why, feedback=abstain.reason))
    tally.nll_drafts = sum(nll([(c.rollout.prompt, c.rollout.completion) for c in accepted]))
    tally.nll_corrections = sum(nll([(c.rollout.prompt, c.text) for c in accepted]))
    tally.accepted = dict(Counter(str(correction.revisions) for correction in accepted))
    tally.set_aside = dict(Counter(each.reason for each in aside))
    return Gathered(lessons=lessons, tally=tally, set_aside=tuple(aside))


def examples(correction: Correction) -> tuple[SFTExample, ...]:
    """The corrected answer; where there is a strategy, also the answer behind its strategy (RGT)."""
    plain = SFTExample(prompt=correction.rollout.prompt, text=correction.text, region=correction.region)
    if not correction.strategy:
        return (plain,)
    return plain, SFTExample(prompt=plain.prompt, text=plain.text, strategy=correction.strategy)


def own_candidates(
    rollouts_P_G: Rollouts, verdicts_P_G: Sequence[Sequence[Verdict | Abstain]], *, judged: bool
) -> list[list[Candidate]]:
    """The student's own answers that pass, each text once; one that was cut off has no end to imitate.

    In a task where nothing is `judged`, all of them: self-sharpening (SSD, arXiv 2604.01193).
    """
    return [
        _distinct(
            Candidate(prompt=rollout.prompt, text=rollout.completion, verdict=verdict)
            for rollout, verdict in zip(rollouts_G, verdicts_G, strict=True)
            if (passed(verdict) or not judged) and rollout.stop_reason == "stop"
        )
        for rollouts_G, verdicts_G in zip(rollouts_P_G, verdicts_P_G, strict=True)
    ]


def taught(answers_P: Sequence[Sequence[Demonstration]], verify: Verify) -> list[list[Candidate]]:
    """The teacher's answers that the verifier does not refute and that do not decline, each text once."""
    judged_P = [
        [Candidate(prompt=d.prompt, text=d.completion, verdict=verify(d.prompt, d.completion)) for d in answers]
        for answers in answers_P
    ]
    return [
        _distinct(
            each
            for each in judged
            if passed(each.verdict) or (isinstance(each.verdict, Abstain) and not declines(each.verdict, each.text))
        )
        for judged in judged_P
    ]


def choose(candidates_P: Sequence[Sequence[Candidate]], nll: Nll) -> list[int | None]:
    """Of each prompt's candidates the best one: correctness first, then the student's likeliest (arXiv 2605.09725).

    A candidate that the verifier passes comes before one it says nothing of. None where there is no candidate.
    """
    values = iter(nll([(candidate.prompt, candidate.text) for candidates in candidates_P for candidate in candidates]))
    found: list[int | None] = []
    for candidates in candidates_P:
        ranks = [(*_correctness(c.verdict), next(values), index) for index, c in enumerate(candidates)]
        found.append(min(ranks)[-1] if ranks else None)
    return found


def from_candidates(
    candidates_P: Sequence[Sequence[Candidate]], kept_P: Sequence[int | None], *, seen: int
) -> Gathered:
    """The chosen one of each prompt; `seen` is how many candidates there were before they were filtered."""
    chosen = [candidates[kept] for candidates, kept in zip(candidates_P, kept_P, strict=True) if kept is not None]
    tally = Tally(
        candidates=seen,
        survivors=sum(map(len, candidates_P)),
        with_survivor=len(chosen),
        without_survivor=len(kept_P) - len(chosen),
    )
    return Gathered(lessons={c.prompt.id: (SFTExample(prompt=c.prompt, text=c.text),) for c in chosen}, tally=tally)


def kept_share(draft: str, text: str) -> float:
    """Share of the draft's words that stand in `text` too, in the same order; punctuation counts as words do.

    0 for an empty draft.
    """
    old, new = _words(draft), _words(text)
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(old) if old else 0.0


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    return list({candidate.text: candidate for candidate in candidates}.values())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _correctness(verdict: Verdict | Abstain) -> tuple[bool, float]:
    """Less is better."""
    return not passed(verdict), -verdict.score if isinstance(verdict, Verdict) else 0.0


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
