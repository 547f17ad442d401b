#!/usr/bin/env python3
"""Makes runs fail on purpose and prints when they fail, and when the monitors say so. Offline, with the demo.

    scripts/show_failures.py FOLDER [--only NAME]     run what is missing, and print the table
    scripts/show_failures.py FOLDER --table                        print what is there

healthy      `gad` as it should be: nothing fails, and nothing should be told
frozen       a discriminator that stops learning after its warm-up, and is the only reward (GAD's own ablation)
warm         a sampler at temperature 1.25, while the trainer computes at 1
hot          the same at 1.6
repetition   a reward for saying things again and again

Nothing is stopped here (`train.on_collapse = "warn"`). Every fourth step the student's greedy answers to the validation
e-mails are judged by the demo's own verifier, whatever it was rewarded for: a run has failed when they score under two
thirds of what they did after the warm-up.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeping import keeping, kept, put

import bbdistill
from bbdistill import balance
from bbdistill.configfile import load_config
from bbdistill.console import watching
from bbdistill.metrics import Event, StepDone
from bbdistill.monitors import Monitors
from bbdistill.student import discriminator
from bbdistill.student.open import open_student
from bbdistill.task import load_task
from bbdistill.types import Verdict

ROOT = Path(__file__).resolve().parent.parent
STEPS = 40
EVERY, WARMUP = 4, 44
FAILED = 2 / 3
DEMO = ROOT / "bbdistill" / "demo" / "task.toml"
TASK = load_task(load_config(DEMO))
COLUMNS = ("run", "score after the warm-up", "at last", "failed at", "warned at step", "would be stopped at step")
LOVES_REPETITION = """
from bbdistill.types import Verdict

def check(prompt, answer):
    words = answer.split()
    score = 1 - len(set(words)) / len(words) if words else 0.0
    return Verdict(score=score, passed=True, feedback="")  # so that the warm-up imitates all answers
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A way to fail: what is set beside the usual config."""

    overrides: tuple[str, ...]
    freezes: bool = False
    """Whether the discriminator stops learning after its warm-up, and is trusted all the same."""


USUAL = (
    f"train.steps={STEPS}",
    f"train.warmup_max={WARMUP}",
    "train.prompts_per_step=4",
    "train.group_size=4",
    "train.validate_policy_every=1000",
    f"train.checkpoint_every={EVERY}",
    "train.policy_learning_rate=3e-4",
    "train.sft_weight=0.0",
    'train.on_collapse="warn"',
    "feedback.preferences=0",
    "feedback.corrections=0",
)
SCENES = {
    "healthy": Scene(overrides=("train.policy_learning_rate=1e-4", "train.sft_weight=1.0")),
    "frozen": Scene(overrides=("reward.verifier=0.0", "discriminator.length_control=false"), freezes=True),
    "warm": Scene(overrides=("student.temperature=1.25",)),
    "hot": Scene(overrides=("student.temperature=1.6",)),
    "repetition": Scene(overrides=('recipe="grpo"', "feedback.demonstrations=true", "reward.discriminator=0.0")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=SCENES)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    for name, scene in SCENES.items():
        if not asked.table and asked.only in (None, name):
            run(asked.folder, name, scene)
            judge(asked.folder / "kept" / name)
    print("\n".join(table(asked.folder)))


def run(folder: Path, name: str, scene: Scene) -> None:
    """One scene, unless it is finished; the teacher's answers are those of the demo's recording."""
    out = folder / name
    if (out / "report.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "demo.db"
    if not store.is_file():
        shutil.copyfile(ROOT / "cache" / "demo.db", store)
    (folder / "loves_repetition.py").write_text(LOVES_REPETITION)
    verifier = (f'task.verifier="{folder.resolve()}/loves_repetition:check"',) if name == "repetition" else ()
    config = load_config(DEMO, [*USUAL, f'teacher.cache="{store.resolve()}"', *scene.overrides, *verifier])
    keep = keeping(out, folder / "kept" / name, every=EVERY)
    with watching() as show:

        def on_event(event: Event) -> None:
            show(event)
            keep(event)
            if scene.freezes and _warmed_up(event):
                discriminator.speeds = lambda _: (1.0, 0.0)

        try:
            bbdistill.run(config, out=out, resume=(out / "config.json").is_file(), on_event=on_event)
        finally:
            discriminator.speeds = balance.speeds


def _warmed_up(event: Event) -> bool:
    """Whether the discriminator has now learned what it learns alone."""
    return (
        isinstance(event, StepDone) and event.stage == "discriminator" and event.step_in_stage == event.steps_in_stage
    )


def judge(folder: Path) -> None:
    """Scores of the kept students, where they are not known yet."""
    missing = [file for file in kept(folder).values() if not file.with_suffix(".json").is_file()]
    if not missing:
        return
    student, _ = open_student(load_config(DEMO))
    for file in missing:
        put(student, file)
        verdicts = map(TASK.verify, TASK.validation, student.answer(TASK.validation))
        scores = [verdict.score for verdict in verdicts if isinstance(verdict, Verdict)]
        file.with_suffix(".json").write_text(json.dumps(statistics.mean(scores)))


def table(folder: Path) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for name in SCENES:
        judged = all(file.with_suffix(".json").is_file() for file in kept(folder / "kept" / name).values())
        if judged and (folder / name / "report.json").is_file():
            yield f"| {name} | {' | '.join(_row(folder / name, folder / 'kept' / name))} |"


def _row(run: Path, students: Path) -> Iterator[str]:
    """Steps are counted from the first with a reward."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = next(row["step"] for row in rows if row["stage"] == "policy")
    scores = {step: json.loads(file.with_suffix(".json").read_text()) for step, file in kept(students).items()}
    later = {step - first + 1: score for step, score in scores.items() if step >= first}
    failed = next((step for step, score in later.items() if score < FAILED * scores[WARMUP]), None)
    yield f"{scores[WARMUP]:.3f}"
    yield f"{list(scores.values())[-1]:.3f}"
    yield f"step {failed}" if failed else "-"
    alarms = told(rows)
    for level in ("warn", "stop"):
        found = [f"{alarm['step'] - first + 1} `{alarm['monitor']}`" for alarm in alarms if alarm["level"] == level]
        yield ", ".join(found) or "-"


def told(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the monitors as they are now tell of a run's metrics."""
    monitors = Monitors()
    for row in rows:
        metrics = {name: value for name, value in row.items() if isinstance(value, float)}
        monitors.look(row["step"], metrics, rewarded=row["stage"] == "policy")
    return monitors.alarms


if __name__ == "__main__":
    main()
