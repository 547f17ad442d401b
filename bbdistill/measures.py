"""Measures of a step's rollouts that `watched.py` has levels for. Pure."""

from collections.abc import Mapping, Sequence

from bbdistill.types import Rollout

RUN = 4
"""Tokens of a run that is looked for again in the same completion."""


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
    """Means over the step's rollouts, none where there are none; the ratio only where the teacher answered too."""
    flat = [rollout for rollouts_G in rollouts_P_G for rollout in rollouts_G]
    if not flat:
        return {}
    ratio = length_ratio(rollouts_P_G, teacher_lengths)
    return {
        "rollout/length": sum(len(rollout.token_ids) for rollout in flat) / len(flat),
        **({} if ratio is None else {"rollout/length_ratio": ratio}),
        "rollout/repetition": sum(repetition(rollout.token_ids) for rollout in flat) / len(flat),
        "rollout/truncated": sum(rollout.stop_reason == "length" for rollout in flat) / len(flat),
    }
