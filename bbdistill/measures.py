"""Measures of a step's rollouts and of what was said of them; `watched.py` has levels for some. Pure."""

import re
from collections.abc import Mapping, Sequence, Set
from typing import TypeAlias

from bbdistill.types import Abstain, Author, MarkedGroup, Prompt, Rollout, ScoredToken, Verdict

Words: TypeAlias = tuple[str, ...]

RUN = 4
"""Tokens of a run that is looked for again in the same completion, and words of one that is looked for elsewhere."""

ENOUGH = 16
"""Rollouts of a step whose entropy can be held against that of another step."""


def repetition(token_ids: Sequence[int]) -> float:
    """Share of the completion's runs of four tokens that occurred in it before; 0 where it is shorter than one."""
    runs = [tuple(token_ids[start : start + RUN]) for start in range(len(token_ids) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def length_ratio(rollouts_P_G: Sequence[Sequence[Rollout]], teacher_lengths: Mapping[str, int]) -> float | None:
    """Tokens of the student's answers over those of the teacher's to the same prompts; None where there are none.

    `teacher_lengths`, by prompt id, are counted in the student's tokens, the end of turn included. A ratio of sums:
    long answers count for more, and a short one that is a token longer does not look like a failure.
    """
    compared = [
        (len(rollout.token_ids), teacher_lengths[rollout.prompt.id])
        for rollouts_G in rollouts_P_G
        for rollout in rollouts_G
        if rollout.prompt.id in teacher_lengths
    ]
    taught = sum(length for _, length in compared)
    return sum(length for length, _ in compared) / taught if taught else None


def rollout_metrics(rollouts_P_G: Sequence[Sequence[Rollout]], teacher_lengths: Mapping[str, int]) -> dict[str, float]:
    """Means over the step's rollouts, none where there are none; the ratio only where the teacher answered too.

    The entropy is in nats per token, estimated as minus the mean log-prob of what was drawn; of few rollouts it says
    more of their prompts than of the student, and is left out.
    """
    flat = [rollout for rollouts_G in rollouts_P_G for rollout in rollouts_G]
    if not flat:
        return {}
    ratio = length_ratio(rollouts_P_G, teacher_lengths)
    logprobs = [logprob for rollout in flat for logprob in rollout.logprobs]
    return {
        **({"rollout/entropy": -sum(logprobs) / len(logprobs)} if len(flat) >= ENOUGH and logprobs else {}),
        "rollout/length": sum(len(rollout.token_ids) for rollout in flat) / len(flat),
        **({} if ratio is None else {"rollout/length_ratio": ratio}),
        "rollout/repetition": sum(repetition(rollout.token_ids) for rollout in flat) / len(flat),
        "rollout/truncated": sum(rollout.stop_reason == "length" for rollout in flat) / len(flat),
    }


def verdict_metrics(verdicts_P_G: Sequence[Sequence[Verdict | Abstain]]) -> dict[str, float]:
    """Mean score of the rollouts that the verifier judged, and the share of them that it passed; none where none."""
    judged = [verdict for verdicts_G in verdicts_P_G for verdict in verdicts_G if isinstance(verdict, Verdict)]
    if not judged:
        return {}
    return {
        "rollout/score": sum(verdict.score for verdict in judged) / len(judged),
        "rollout/passed": sum(verdict.passed for verdict in judged) / len(judged),
    }


def rubric_metrics(marked: Sequence[MarkedGroup]) -> dict[str, float]:
    """Mean number of criteria, and mean scores by author of what could be read; none where nothing was marked."""
    if not marked:
        return {}
    scores: dict[Author, list[float]] = {"teacher": [], "student": []}
    for answer in (answer for group in marked for answer in group.answers):
        if answer.score is not None:
            scores[answer.author].append(answer.score)
    return {
        "rubric/criteria": sum(len(group.criteria) for group in marked) / len(marked),
        **{f"rubric/{author}_score": sum(found) / len(found) for author, found in scores.items() if found},
    }


def scored_metrics(scores: Sequence[tuple[ScoredToken, ...] | Abstain]) -> dict[str, float]:
    """Share of the answers whose tokens the teacher could not score; none where it was not asked to."""
    return {"distill/unscored": sum(isinstance(each, Abstain) for each in scores) / len(scores)} if scores else {}


def runs(text: str) -> list[Words]:
    """Every four words in a row; case and punctuation do not count."""
    words = re.findall(r"\w+", text.casefold())
    return [tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)]


def leak(completion: str, told: Set[Words], prompt: Prompt) -> float:
    """Share of the completion's runs of four words that are `told`, in advice it never saw, and not in its prompt.

    A student that learns from itself as advised may come to quote advice that it never sees (arXiv 2604.03128).
    """
    said = runs(completion)
    shown = set(runs("\n".join(str(message["content"]) for message in prompt.messages)))
    return sum(run in told and run not in shown for run in said) / len(said) if said else 0.0


def leak_metrics(rollouts_P_G: Sequence[Sequence[Rollout]], told: Set[Words]) -> dict[str, float]:
    """Mean over the rollouts, held against the runs of all advice that was given before them; none where none was."""
    if not told:
        return {}
    found = [leak(rollout.completion, told, rollout.prompt) for group in rollouts_P_G for rollout in group]
    return {"coach/leak": sum(found) / len(found)} if found else {}
