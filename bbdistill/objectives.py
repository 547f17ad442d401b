"""What a step asks the teacher about, and which examples follow from the answers. Pure."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from bbdistill.care import is_refusal
from bbdistill.rewards import NONE, Rewards, told_apart
from bbdistill.stages import Stage
from bbdistill.types import (
    Abstain,
    Correction,
    Demonstration,
    DistillExample,
    PolicyExample,
    Preference,
    Prompt,
    RankedPair,
    Rollout,
    ScoredToken,
    SFTExample,
    Verdict,
    Verify,
)

Rollouts = Sequence[Sequence[Rollout]]
Pair = tuple[int, int, int]
"""(prompt, first sample, second sample), indices into a step's rollouts."""
Spot = tuple[int, int]
"""(prompt, sample)."""
Lessons = Mapping[str, Sequence[SFTExample]]
"""What may be imitated, by prompt id."""
Scores = tuple[ScoredToken, ...]
Fits = Callable[[Prompt, str], bool]
"""Whether the student could say a text within its limit."""
AUDIT_EVERY = 4
TOO_LONG = "longer than `student.max_new_tokens`"


def choose_pairs(
    rollouts_P_G: Rollouts,
    verdicts_P_G: Sequence[Sequence[Verdict | Abstain]],
    scores_P_G: Sequence[Sequence[float]],
    count: int,
) -> list[Pair]:
    """Pairs worth a judge's opinion: different texts, those that the verifier cannot tell apart before the others.

    Of these the discriminator is asked about what it does not know, the smallest gaps between its scores, one of every
    prompt before a second of any. One in `AUDIT_EVERY` is an audit: where it is surest, and may be surely wrong.
    """
    ranked: list[tuple[bool, int, float, Pair]] = []
    for p, rollouts_G in enumerate(rollouts_P_G):
        pairs = itertools.combinations(_first_of_each_text(rollouts_G), 2)
        gaps = sorted((abs(scores_P_G[p][i] - scores_P_G[p][j]), i, j) for i, j in pairs)
        for turn, (gap, i, j) in enumerate(gaps):
            told_apart = _score(verdicts_P_G[p][i]) != _score(verdicts_P_G[p][j])
            ranked.append((told_apart, turn, gap, (p, i, j)))
    unsure = [(pair, gap) for _, _, gap, pair in sorted(ranked)]
    audits = count // AUDIT_EVERY
    asked = [pair for pair, _ in unsure[: count - audits]]
    sure = sorted(unsure[count - audits :], key=lambda each: -each[1])
    return [*asked, *(pair for pair, _ in sure[:audits])]


def choose_corrections(
    rollouts_P_G: Rollouts,
    verdicts_P_G: Sequence[Sequence[Verdict | Abstain]],
    scores_P_G: Sequence[Sequence[float]],
    count: int | None,
) -> list[Spot]:
    """The worst rollouts, each text once: by the verifier's score, then by the discriminator's.

    An answer nothing is known to be wrong with (the verifier abstains or passes it) comes after every known failure.
    Without a `count`, all that the verifier does not pass.
    """
    ranked: list[tuple[float, float, Spot]] = []
    for p, rollouts_G in enumerate(rollouts_P_G):
        for i in _first_of_each_text(rollouts_G):
            verdict = verdicts_P_G[p][i]
            if count is None and passed(verdict):
                continue
            ranked.append((_known(verdict), scores_P_G[p][i], (p, i)))
    return [spot for _, _, spot in sorted(ranked)[:count]]


def choose_coached(
    rollouts_P_G: Rollouts, verdicts_P_G: Sequence[Sequence[Verdict | Abstain]], count: int, *, level: bool
) -> list[Spot]:
    """Rollouts worth the teacher's advice: the worst that the verifier does not pass, each text once.

    What teaches nothing is not asked about: what was cut off, groups of one text, and, without `level`, those that the
    verifier cannot tell apart, which have no advantage where nothing else is rewarded. Of equally bad ones, one of
    every prompt comes before a second of any.
    """
    alike = [[0.0] * len(rollouts_G) for rollouts_G in rollouts_P_G]
    worst = choose_corrections(rollouts_P_G, verdicts_P_G, alike, None)
    differ = list(map(distinct, rollouts_P_G)) if level else list(map(told_apart, verdicts_P_G))
    ranked: list[tuple[float, int, Spot]] = []
    turns = Counter[int]()
    for p, i in worst:
        if differ[p] and rollouts_P_G[p][i].stop_reason == "stop":
            ranked.append((_known(verdicts_P_G[p][i]), turns[p], (p, i)))
            turns[p] += 1
    return [spot for _, _, spot in sorted(ranked)][:count]


def distinct(rollouts_G: Sequence[Rollout]) -> bool:
    """Whether there is a difference to be found: more than one text."""
    return len(_first_of_each_text(rollouts_G)) > 1


def policy_batch(
    rollouts_P_G: Rollouts, rewards: Rewards, magnitudes: Mapping[Spot, tuple[float, ...]], stage: Stage
) -> list[PolicyExample]:
    """Every rollout with its advantage, but for groups without a difference; none where rewards teach nothing."""
    if not stage.policy:
        return []
    return [
        PolicyExample(rollout=rollout, advantage=advantage, magnitude=magnitudes.get((p, i)))
        for p, (rollouts_G, advantages_G) in enumerate(zip(rollouts_P_G, rewards.advantages_P_G, strict=True))
        if any(abs(advantage) > NONE for advantage in advantages_G)
        for i, (rollout, advantage) in enumerate(zip(rollouts_G, advantages_G, strict=True))
    ]


def blame_batch(prompts: Sequence[Prompt], blamed: Mapping[str, PolicyExample], stage: Stage) -> list[PolicyExample]:
    """What was wrong in earlier drafts of the step's prompts, where the stage imitates their corrections."""
    return [blamed[prompt.id] for prompt in prompts if stage.lessons == "gathered" and prompt.id in blamed]


def sft_batch(
    prompts: Sequence[Prompt], lessons: Lessons, accepted: Sequence[Correction], stage: Stage
) -> list[SFTExample]:
    """The lessons of the step's prompts and the accepted corrections; nothing where those are gathered for later."""
    if stage.gathers is not None or stage.sft_weight == 0:
        return []
    shown = itertools.chain(*(lessons.get(prompt.id, ()) for prompt in prompts))
    mended = (SFTExample(prompt=c.rollout.prompt, text=c.text) for c in accepted)
    return [replace(example, weight=stage.sft_weight) for example in (*shown, *mended)]


def as_lessons(demonstrations: Iterable[Demonstration]) -> dict[str, tuple[SFTExample, ...]]:
    return {d.prompt.id: (SFTExample(prompt=d.prompt, text=d.completion),) for d in demonstrations}


def ranked_pairs(
    rollouts_P_G: Rollouts,
    demonstrations: Mapping[str, Demonstration],
    preferences: Sequence[Preference],
    accepted: Sequence[Correction],
) -> list[RankedPair]:
    """teacher > student, preferred > other, correction > original; each once, by the first of these; equal texts never.

    An answer of the student weighs as often as it was drawn, so that what it is likely to say counts (GAD's mean over
    the group), a preference as much as it was strong.
    """
    drawn = Counter((r.prompt.id, r.completion) for r in itertools.chain(*rollouts_P_G))
    everything = [
        *(
            RankedPair(
                prompt=r.prompt,
                chosen=demonstrations[r.prompt.id].completion,
                rejected=r.completion,
                source="teacher",
                weight=float(drawn[r.prompt.id, r.completion]),
            )
            for r in itertools.chain(*rollouts_P_G)
            if r.prompt.id in demonstrations
        ),
        *(
            RankedPair(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, source="preference", weight=p.strength)
            for p in preferences
        ),
        *(
            RankedPair(prompt=c.rollout.prompt, chosen=c.text, rejected=c.rollout.completion, source="correction")
            for c in accepted
        ),
    ]
    once: dict[tuple[str, str, str], RankedPair] = {}
    for pair in everything:
        if pair.chosen != pair.rejected:
            once.setdefault((pair.prompt.id, pair.chosen, pair.rejected), pair)
    return list(once.values())


def within(corrections: Sequence[Correction], fits: Fits) -> tuple[Correction, ...]:
    """The same, but refused where the student could not say them."""
    return tuple(
        replace(c, accepted_by=None, refused=TOO_LONG)
        if c.accepted_by is not None and not fits(c.rollout.prompt, c.text)
        else c
        for c in corrections
    )


def preference_batch(pairs: Sequence[RankedPair], rollouts_P_G: Rollouts, stage: Stage) -> list[RankedPair]:
    """The pairs, less those with an answer that was cut off; none where pairs teach the student nothing.

    Such an answer would be learned with an end that it never had.
    """
    if not stage.preference:
        return []
    cut = {(r.prompt.id, r.completion) for r in itertools.chain(*rollouts_P_G) if r.stop_reason != "stop"}
    return [pair for pair in pairs if not {(pair.prompt.id, text) for text in (pair.chosen, pair.rejected)} & cut]


def distill_batch(
    prompts: Sequence[Prompt],
    rollouts_P_G: Rollouts,
    demonstrations: Mapping[str, Demonstration],
    scores: Sequence[Scores | Abstain],
    stage: Stage,
) -> list[DistillExample]:
    """The scored answers of the step, less those that the teacher could not score.

    An answer that was cut off teaches as well: each of its tokens is judged by itself.
    """
    said: list[tuple[Prompt, str | tuple[int, ...]]] = []
    match stage.distils:
        case "demonstrations":
            said = [(p, demonstrations[p.id].completion) for p in prompts if p.id in demonstrations]
        case "rollouts":
            said = [(rollout.prompt, rollout.token_ids) for rollout in itertools.chain(*rollouts_P_G)]
        case None:
            pass
    return [
        DistillExample(prompt=prompt, completion=completion, scored=scored)
        for (prompt, completion), scored in zip(said, scores, strict=True)
        if not isinstance(scored, Abstain)
    ]


def edited(draft: str, text: str) -> list[tuple[int, int]]:
    """Characters of a draft that its correction takes out, and the one before which it puts something in."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\w+|\W", draft)]
    old, new = [draft[first:last] for first, last in words], re.findall(r"\w+|\W", text)
    starts = [first for first, _ in words] + [len(draft)]
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(starts[a], max(starts[b], starts[a] + 1)) for kind, a, b, _, _ in codes if kind != "equal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """The demonstrations that may be imitated, by prompt id, and how many may not, by the reason."""

    kept: dict[str, Demonstration]
    left_out: dict[str, int]


def sift(demonstrations: Sequence[Demonstration], verify: Verify, fits: Fits) -> Sifted:
    """A wrong answer is not imitated, whoever wrote it, nor is one that declines or that the student could not say."""
    faults = [_fault(demonstration, verify, fits) for demonstration in demonstrations]
    return Sifted(
        kept={d.prompt.id: d for d, fault in zip(demonstrations, faults, strict=True) if not fault},
        left_out=dict(Counter(fault for fault in faults if fault)),
    )


def _fault(demonstration: Demonstration, verify: Verify, fits: Fits) -> str:
    verdict = verify(demonstration.prompt, demonstration.completion)
    if isinstance(verdict, Verdict) and not verdict.passed:
        return "refuted by the verifier"
    if declines(verdict, demonstration.completion):
        return "a refusal"
    return "" if fits(demonstration.prompt, demonstration.completion) else TOO_LONG


def declines(verdict: Verdict | Abstain, text: str) -> bool:
    """Whether an answer that nothing judges is a refusal; what a verifier passes is right, however it begins."""
    return not passed(verdict) and is_refusal(text)


def passed(verdict: Verdict | Abstain) -> bool:
    return isinstance(verdict, Verdict) and verdict.passed


def _first_of_each_text(rollouts_G: Sequence[Rollout]) -> list[int]:
    seen: dict[str, int] = {}
    for index, rollout in enumerate(rollouts_G):
        seen.setdefault(rollout.completion, index)
    return list(seen.values())


def _known(verdict: Verdict | Abstain) -> float:
    """The score of a known failure; 1 where nothing is known to be wrong."""
    return verdict.score if isinstance(verdict, Verdict) and not verdict.passed else 1.0


def _score(verdict: Verdict | Abstain) -> float | None:
    return verdict.score if isinstance(verdict, Verdict) else None
