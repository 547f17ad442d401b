#!/usr/bin/env python3
"""Rationale-guided training (`rgt`) against `sft` on the very same corrections: 50, 100 and 200 of them, three seeds.

    scripts/compare_recipes.py references runs/compare --only isft     gathers corrections, if they are not there
    scripts/compare_strategies.py runs/compare                         asks for strategies, trains, prints the table

Both imitate x -> y for the same (x, y), in the same number of updates; `rgt` also imitates x -> [THINK] z [/THINK] y in
the same step, and answers behind empty tags.
A seed draws its own order: its first 50 are among its first 100. A result that is there is not computed again.
"""

import argparse
import asyncio
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import bbdistill
from bbdistill import evaluate
from bbdistill.config import RunConfig
from bbdistill.configfile import load_config
from bbdistill.objectives import passed
from bbdistill.rundir import read_json
from bbdistill.stages import epochs
from bbdistill.student.open import open_student
from bbdistill.task import Task, load_task
from bbdistill.teacher.revise import Reviser
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Correction, Revising, Rollout, SFTExample

SIZES, SEEDS, EPOCHS, PER_STEP, RATE = (50, 100, 200), (0, 1, 2), 3, 8, 8e-4
ARMS = ("sft", "rgt")

Lesson = tuple[SFTExample, SFTExample]
"""The correction by itself, and behind its strategy."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    lessons, task = gathered(folder), load_task(load_config(folder / "isft-0.toml"))
    print(f"{len(lessons)} corrections with a strategy")
    for size in SIZES:
        for seed in SEEDS:
            for arm in ARMS:
                file = folder / "strategies" / f"{arm}-{size}-{seed}.json"
                if not file.is_file() and size <= len(lessons):
                    scores = measured(folder, task, lessons, arm, size, seed)
                    file.parent.mkdir(exist_ok=True)
                    file.write_text(json.dumps(scores))
                    print(f"{arm} {size} {seed}: {statistics.mean(scores):.3f}", flush=True)
    print("\n".join(table(folder)))


def gathered(folder: Path) -> list[Lesson]:
    """Every accepted correction of the `isft` runs for which the teacher finds a strategy: a call each, once."""
    return asyncio.run(_gathered(folder))


async def _gathered(folder: Path) -> list[Lesson]:
    found: list[Lesson] = []
    for run in sorted((folder / "runs").glob("isft-[0-9]*")):
        config = load_config(folder / f"{run.name}.toml")
        task, drafts = load_task(config), _drafts(run, config)
        async with Teacher.from_config(config.teacher) as teacher:
            # The corrections are in the store, word for word; what was not asked yet is what was learned from them.
            reviser = Reviser(teacher, teacher, task.verify, Revising(limit=config.feedback.revisions, strategy=True))
            judged = [(draft, task.verify(draft.prompt, draft.completion)) for draft in drafts]
            mended = await asyncio.gather(*(reviser.mend(*each) for each in judged if not passed(each[1])))
        for correction in mended:
            if isinstance(correction, Correction) and correction.accepted_by and correction.strategy:
                prompt = replace(correction.rollout.prompt, id=f"{run.name}/{len(found)}")
                plain = SFTExample(prompt=prompt, text=correction.text)
                found.append((plain, replace(plain, strategy=correction.strategy)))
        print(f"{run.name}: {len(drafts)} drafts, {len(found)} corrections with a strategy so far", flush=True)
    return found


def _drafts(run: Path, config: RunConfig) -> list[Rollout]:
    """What the student drafted in all rounds of a run, as it is in the store."""
    task, name = load_task(config), read_json(run / "report.json")["run"]["id"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] - 1 for row in rows if row["stage"].startswith("gather")]
    with bbdistill.open_recording(config.teacher.cache) as recording:
        drawn = [row for step in steps for row in recording.rollouts(name, step)]
    return [row.rollout(task.prompt(row.prompt_id)) for row in drawn]


def measured(folder: Path, task: Task, lessons: Sequence[Lesson], arm: str, size: int, seed: int) -> list[float]:
    """Scores on the test e-mails of a student trained on the first `size` lessons of the seed's order."""
    config = load_config(folder / "isft-0.toml", [f"train.seed={seed}"])
    student, _ = open_student(config)
    order = random.Random(seed).sample(range(len(lessons)), len(lessons))[:size]
    steps = EPOCHS * size // PER_STEP
    stream = epochs([str(place) for place in order], seed, 0, steps * PER_STEP)
    for step in range(steps):
        chosen = [lessons[int(place)] for place in stream[step * PER_STEP : (step + 1) * PER_STEP]]
        shown = [text for lesson in chosen for text in (lesson if arm == "rgt" else lesson[:1])]
        student.update([], shown, learning_rate=RATE * (1 - 0.9 * step / steps))
    judged = evaluate.judge(arm, task.test, student.answer(task.test), task.verify)
    return [score for score in judged.scores if score is not None]


def table(folder: Path) -> Iterator[str]:
    """Means over seeds and test e-mails; the difference paired over both, with its interval over the e-mails."""
    yield "| examples | sft | rgt | rgt minus sft | 95 % interval |"
    yield "|---|---|---|---|---|"
    for size in SIZES:
        scores: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
        for seed in SEEDS:
            files = {arm: folder / "strategies" / f"{arm}-{size}-{seed}.json" for arm in ARMS}
            if all(file.is_file() for file in files.values()):
                for arm, file in files.items():
                    scores[arm].append(json.loads(file.read_text()))
        if scores["sft"]:
            sft, rgt = (_over_seeds(scores[arm]) for arm in ARMS)
            gains = [better - worse for better, worse in zip(rgt, sft, strict=True)]
            low, high = evaluate.interval(gains)
            means = " | ".join(_mean_and_range(scores[arm]) for arm in ARMS)
            yield f"| {size} | {means} | {statistics.mean(gains):+.3f} | {low:+.3f} to {high:+.3f} |"


def _mean_and_range(runs: Sequence[Sequence[float]]) -> str:
    means = [statistics.mean(scores) for scores in runs]
    return f"{statistics.mean(means):.3f} ({min(means):.3f} - {max(means):.3f})"


def _over_seeds(runs: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.mean(values) for values in zip(*runs, strict=True)]


if __name__ == "__main__":
    main()
