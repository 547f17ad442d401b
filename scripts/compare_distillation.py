#!/usr/bin/env python3
"""What a teacher's log-probs are worth: `kd` and `opd` beside imitation of the very same answers, several seeds.

    scripts/compare_distillation.py FOLDER [--model DIR] [--seeds 0,1,2] [--only kd,opd]    run what is missing
    scripts/compare_distillation.py FOLDER --table                                        print what is there

The teacher is a model in this process: `--model`, the student's own base or one with another tokenizer, trained on the
references of 540 other e-mails of the demo. Every arm is trained on about as many tokens. Where both models have the
same tokens, the divergence of the student from the teacher on 40 test e-mails is measured at five checkpoints.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compare_recipes import FORM, Arm, Study, run, table, write_emails
from keeping import keep, keeping, put
from torch import Tensor

import bbdistill
from bbdistill.configfile import load_config
from bbdistill.console import watching
from bbdistill.student.export import load_merged
from bbdistill.student.open import open_student
from bbdistill.student.scores import distributions, text_row
from bbdistill.student.student import POLICY, Student
from bbdistill.student.tree import Row
from bbdistill.task import load_task

STEPS, WARMUP, KEPT_EVERY = 55, 22, 11
TEACHER_SEEDS, TEACHER_STEPS = (100, 101, 102), 200
MEASURED_ON = 40
"""E-mails of the test."""
EVERY = f"checkpoint_every = {KEPT_EVERY}"
STUDY = Study(
    task="emails",
    control="sft",
    max_new_tokens=96,
    learning_rate=8e-4,
    policy_learning_rate=4e-4,
    arms=(
        Arm(name="sft", recipe="sft", prompts=100, verifier=FORM, train=f"steps = {STEPS}\n{EVERY}"),
        Arm(name="kd", recipe="kd", prompts=100, verifier=FORM, train=f"steps = {STEPS}\n{EVERY}"),
        # Two fifths of its steps imitate, as its recipe has it; then one rollout has the place of one demonstration.
        Arm(
            name="opd",
            recipe="opd",
            prompts=100,
            verifier=FORM,
            train=f"warmup_max = {WARMUP}\nsteps = {STEPS - WARMUP}\ngroup_size = 1\n{EVERY}",
        ),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="bundled", help="what the teacher is trained from: a directory or hub id")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="names of the arms to run, with commas")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    folder: Path = asked.folder
    if not asked.table:
        train_teacher(folder, asked.model)
        answers = f'model = "local:{(folder / "teacher" / "adapter").resolve()}"'
        teacher = f'{answers}\ncache = "teacher.db"\nmax_tokens = {STUDY.max_new_tokens}\n'
        for seed in map(int, asked.seeds.split(",")):
            write_emails(folder, seed)
            for arm in STUDY.arms:
                if not asked.only or arm.name in asked.only.split(","):
                    out, to = folder / "runs" / f"{arm.name}-{seed}", folder / "kept" / f"{arm.name}-{seed}"
                    run(folder, STUDY, arm, seed, teacher, keeping(out, to, every=KEPT_EVERY))
                    keep(out, to, STEPS)
        if asked.model == "bundled":
            measure(folder)
    print("\n".join([*table(folder, STUDY), "", *divergences(folder)]))


def train_teacher(folder: Path, model: str) -> None:
    """On the references of e-mails that no student is trained on."""
    out = folder / "teacher"
    if (out / "report.json").is_file():
        return
    lines: list[str] = []
    for seed in TEACHER_SEEDS:
        write_emails(folder, seed)
        rows = [json.loads(line) for line in (folder / f"references-{seed}.jsonl").read_text().splitlines()]
        lines += [json.dumps(row | {"id": f"{seed}/{row['id']}"}, ensure_ascii=False) for row in rows]
    (folder / "references.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "teacher.toml").write_text(
        f"""recipe = "sft"

[student]
model = {json.dumps(model)}
max_new_tokens = {STUDY.max_new_tokens}

[teacher]
model = "local:bundled"
cache = "teacher.db"
max_tokens = {STUDY.max_new_tokens}

[task]
prompts = "references.jsonl"
validation = "validation.jsonl"
test = "test.jsonl"
verifier = ["json_schema:ticket.schema.json", "fields"]

[feedback]
demonstrations = false

[train]
steps = {TEACHER_STEPS}
validate_every = {TEACHER_STEPS // 4}
learning_rate = 5e-4
""",
        encoding="utf-8",
    )
    with watching() as on_event:
        bbdistill.run(folder / "teacher.toml", out=out, resume=(out / "config.json").is_file(), on_event=on_event)


def measure(folder: Path) -> None:
    """The forward divergence of each kept adapter from the teacher, in nats per token of the teacher's answers."""
    missing = [file for file in sorted((folder / "kept").glob("*/*.pt")) if not file.with_suffix(".json").is_file()]
    if not missing:
        return
    finished = min((folder / "runs").glob("*/report.json")).parent  # the teacher's answers are the same in all
    config, said = load_config(folder / f"{finished.name}.toml"), _answers(finished)
    prompts = [prompt for prompt in load_task(config).test if prompt.id in said][:MEASURED_ON]
    student, _ = open_student(config)
    rows = [text_row(student.base, prompt.messages, said[prompt.id]) for prompt in prompts]
    teacher = list(distributions(load_merged(folder / "teacher" / "adapter").model, rows))
    for file in missing:
        put(student, file)
        file.with_suffix(".json").write_text(json.dumps(_divergence(student, teacher, rows)))


def _divergence(student: Student, teacher: Sequence[Tensor], rows: Sequence[Row]) -> float:
    total = tokens = 0.0
    with student.adapters.use(POLICY):
        for ours, theirs in zip(distributions(student.base.model, rows), teacher, strict=True):
            total += (theirs.exp() * (theirs - ours)).sum().item()
            tokens += len(ours)
    return total / tokens


def _answers(run: Path) -> dict[str, str]:
    """The teacher's answers to the test, by prompt id."""
    lines = (run / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return {row["id"]: row["completion"] for row in rows if row["model"] == "teacher" and row["completion"]}


def divergences(folder: Path) -> Iterator[str]:
    """Means over the seeds, and their range."""
    steps = range(KEPT_EVERY, STEPS + 1, KEPT_EVERY)
    yield f"| nats per token from the teacher, after | {' | '.join(f'{step} steps' for step in steps)} |"
    yield "|---" * (len(steps) + 1) + "|"
    for arm in STUDY.arms:
        cells: list[str] = []
        for step in steps:
            files = sorted((folder / "kept").glob(f"{arm.name}-*/{step}.json"))
            found = [float(json.loads(file.read_text())) for file in files]
            mean = math.fsum(found) / len(found) if found else math.nan
            cells.append(f"{mean:.3f} ({min(found):.3f} - {max(found):.3f})" if found else "-")
        yield f"| {arm.name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
