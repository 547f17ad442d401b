"""JSONL out, in the column names that `trl` and `datasets` read: answers, and what a run leaves for people."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bbdistill.types import (
    Coaching,
    Correction,
    Demonstration,
    MarkedGroup,
    Message,
    Preference,
    Prompt,
    Rollout,
    SetAside,
    SFTExample,
)


def write_demonstrations(path: Path, rows: Iterable[Demonstration]) -> None:
    """id, prompt, completion, source, and the prompt's reference where there is one."""
    _write(
        path,
        (
            {**_prompt(d.prompt), "completion": _said(d.completion), "source": d.source}
            | ({} if d.prompt.reference is None else {"reference": d.prompt.reference})
            for d in rows
        ),
    )


def write_preferences(path: Path, rows: Iterable[Preference]) -> None:
    """id, prompt, chosen, rejected, strength, source."""
    _write(
        path,
        (
            {
                **_prompt(p.prompt),
                "chosen": _said(p.chosen),
                "rejected": _said(p.rejected),
                "strength": p.strength,
                "source": p.source,
            }
            for p in rows
        ),
    )


def write_corrections(path: Path, rows: Iterable[Correction]) -> None:
    """id, prompt, completion (corrected), original, reason, accepted_by, revisions, refused (why not)."""
    _write(
        path,
        (
            {
                **_prompt(c.rollout.prompt),
                "completion": _said(c.text),
                "original": c.rollout.completion,
                "reason": c.reason,
                "accepted_by": c.accepted_by,
                "revisions": c.revisions,
                "refused": c.refused,
            }
            for c in rows
        ),
    )


def write_rollouts(path: Path, rows: Iterable[Rollout]) -> None:
    """id, prompt, completion, sample, policy_version, stop_reason."""
    _write(
        path,
        (
            {
                **_prompt(r.prompt),
                "completion": _said(r.completion),
                "sample": r.sample,
                "policy_version": r.policy_version,
                "stop_reason": r.stop_reason,
            }
            for r in rows
        ),
    )


def write_lessons(path: Path, rows: Iterable[SFTExample]) -> None:
    """id, prompt, completion, strategy, region (characters of the completion that carry weight, or null)."""
    _write(
        path,
        ({**_prompt(e.prompt), "completion": _said(e.text), "strategy": e.strategy, "region": e.region} for e in rows),
    )


def write_set_aside(path: Path, rows: Iterable[SetAside]) -> None:
    """id, prompt, completion (the newest correction), original, reason, feedback."""
    _write(
        path,
        (
            {
                **_prompt(each.rollout.prompt),
                "completion": _said(each.text),
                "original": each.rollout.completion,
                "reason": each.reason,
                "feedback": each.feedback,
            }
            for each in rows
        ),
    )


def write_rubrics(path: Path, rows: Iterable[MarkedGroup]) -> None:
    """id, prompt, criteria (criterion, points), answers (completion, author, score, and a mark for each criterion)."""
    _write(
        path,
        (
            {
                **_prompt(group.prompt),
                "criteria": [{"criterion": each.text, "points": each.points} for each in group.criteria],
                "answers": [
                    {
                        "completion": _said(answer.text),
                        "author": answer.author,
                        "score": answer.score,
                        "marks": [{"met": mark.met, "reason": mark.reason} for mark in answer.marks],
                    }
                    for answer in group.answers
                ],
            }
            for group in rows
        ),
    )


def write_coachings(path: Path, rows: Iterable[Coaching]) -> None:
    """id, prompt, completion, sample, advice."""
    _write(
        path,
        (
            {
                **_prompt(c.rollout.prompt),
                "completion": _said(c.rollout.completion),
                "sample": c.rollout.sample,
                "advice": c.advice,
            }
            for c in rows
        ),
    )


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows that have their final form, such as captured conversations with tools."""
    _write(path, rows)


def _prompt(prompt: Prompt) -> dict[str, Any]:
    return {"id": prompt.id, "prompt": list(prompt.messages)}


def _said(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    # What UTF-8 cannot hold, half a surrogate pair, becomes its \u escape, which is JSON again.
    with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(beside, path)
