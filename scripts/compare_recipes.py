#!/usr/bin/env python3
"""Holds recipes against each other: on the same prompts, or for the same number of calls; several seeds.

    scripts/compare_recipes.py STUDY FOLDER [--base-url URL] [--seeds 0,1,2] [--only sft,isft]    run what is missing
    scripts/compare_recipes.py STUDY FOLDER --table                                             print what is there

STUDY  references   what a reference that nobody is shown is worth: `isft` and `rgt` are told which fields are wrong,
                    the control imitates the references themselves; 100 of the demo's e-mails
       emails       every kind of recipe at the same number of teacher calls, on the demo's e-mails
       search       the same on the recorded questions of the example `search`

A seed draws its own training e-mails, all with a reference; validation and test are always the same. A finished run is
not run again, and a stopped one goes on.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bbdistill
from bbdistill.client.prices import price
from bbdistill.configfile import load_config
from bbdistill.console import watching
from bbdistill.evaluate import interval, judge
from bbdistill.examples.search import write_search
from bbdistill.metrics import Event, OnEvent
from bbdistill.rundir import read_json
from bbdistill.task import load_task
from bbdistill.types import Usage

HERE = Path(__file__).resolve().parent
STEPS = 44
"""Updates of every arm of `references`, a round of `isft` half of them; and where rewards begin in the others."""
POLICY = 20
"""Updates with rewards. The arms beside them imitate for as many more."""
PRICED_AS = ("claude-haiku-4-5", "anthropic")
"""The listed price that the calls are counted at."""
COLUMNS = (
    "model",
    "seeds",
    "valid",
    "score",
    "95 % interval",
    "between seeds",
    "minus control",
    "characters",
    "training calls",
    "dollars",
    "tokens trained",
    "seconds",
)
HOSTED = """model = "openai:qwen2.5-coder-1.5b-instruct"
base_url = "{base_url}"
id = "qwen2.5-coder-1.5b-instruct@compare"
cache = "teacher.db"
max_tokens = 320
temperature = 0.0
concurrency = 2
terms = "Apache-2.0"
"""
FORM = 'verifier = ["json_schema:ticket.schema.json"]'
FIELDS = 'verifier = ["json_schema:ticket.schema.json", "fields"]'
IMITATED = f"steps = {STEPS + POLICY}"
REWARDED = f"warmup_max = {STEPS}\nsteps = {POLICY}\nvalidate_policy_every = 5"
SHOWN = "[feedback]\ndemonstrations = true\n"
FOUND = 'verifier = { use = "retrieval:documents.jsonl", k = 5 }'


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train: a recipe, what it imitates, the verifier it is given, and other tables of its config."""

    name: str
    recipe: str
    prompts: int
    data: str = "prompts"
    verifier: str = FIELDS
    student: str = ""
    train: str = f"steps = {STEPS}"
    more: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """`control` is the arm that the others are held against."""

    task: str
    control: str
    max_new_tokens: int
    learning_rate: float
    policy_learning_rate: float = 1e-4
    arms: tuple[Arm, ...]


def by_calls(*, calls: int, drafts: int, demonstrations: int, feedback: str, verifier: str) -> tuple[Arm, ...]:
    """Every kind of recipe, for about `calls` calls: an answer to each prompt, or fewer of them and what else it asks.

    `drafts` prompts make so many calls where each failed draft is corrected; so do `demonstrations` with `feedback`.
    """
    # Its own answers, a little sharper than it gives them, and nobody says which are good (SSD, arXiv 2604.01193).
    sharper = "temperature = 0.6\ntop_p = 0.95"
    own = '[feedback]\ncandidates_from = "student"'
    return (
        Arm(name="sft", recipe="sft", prompts=calls, verifier=verifier, train=IMITATED),
        Arm(
            name="own answers",
            recipe="best_of_n",
            prompts=calls,
            verifier="",
            student=sharper,
            train=f"rounds = 1\ngroup_size = 1\n{IMITATED}",
            more=own,
        ),
        Arm(name="dpo", recipe="dpo", prompts=calls, verifier=verifier, train=REWARDED),
        Arm(
            name="dpo snapshot",
            recipe="dpo",
            prompts=calls,
            verifier=verifier,
            train=REWARDED,
            more='[dpo]\nnegatives = "snapshot"',
        ),
        Arm(name="isft", recipe="isft", prompts=drafts, verifier=verifier, train=f"rounds = 1\n{IMITATED}"),
        Arm(
            name="gad",
            recipe="gad",
            prompts=demonstrations,
            verifier=verifier,
            train=REWARDED,
            more=SHOWN + feedback,
        ),
        Arm(name="grpo", recipe="grpo", prompts=calls, verifier=verifier, train=REWARDED, more=SHOWN),
    )


STUDIES = {
    "references": Study(
        task="emails",
        control="sft on the references",
        max_new_tokens=96,
        learning_rate=8e-4,
        arms=(
            Arm(name="sft", recipe="sft", prompts=100, verifier=FORM),
            Arm(name="sft answers that pass", recipe="sft", prompts=100),
            Arm(name="sft on the references", recipe="sft", prompts=100, data="references"),
            Arm(name="isft", recipe="isft", prompts=100, train=f"rounds = 2\nsteps = {STEPS // 2}"),
            Arm(name="rgt", recipe="rgt", prompts=100, train=f"rounds = 1\nsteps = {STEPS}"),
        ),
    ),
    "emails": Study(
        task="emails",
        control="sft",
        max_new_tokens=96,
        learning_rate=8e-4,
        arms=(
            *by_calls(
                calls=160, drafts=77, demonstrations=100, feedback="preferences = 1\ncorrections = 1", verifier=FIELDS
            ),
            Arm(name="coach", recipe="coach", prompts=100, train=REWARDED, more=f"{SHOWN}[coach]\nrollouts = 3"),
            # A rubric, its marks and a second answer for each of 24 prompts: the dearest signal of all.
            Arm(
                name="rubric",
                recipe="rubric",
                prompts=88,
                train=f"warmup_max = {STEPS}\nsteps = 3\ngroup_size = 4\nvalidate_policy_every = 3",
                more="[rubric]\nanswers = 2",
            ),
        ),
    ),
    "search": Study(
        task="search",
        control="sft",
        max_new_tokens=32,
        learning_rate=5e-4,
        arms=by_calls(
            calls=80, drafts=50, demonstrations=60, feedback="preferences = 0\ncorrections = 1", verifier=FOUND
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base-url", default="http://127.0.0.1:8077/v1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="names of the arms to run, with commas")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    study, folder = STUDIES[asked.study], asked.folder
    if not asked.table:
        chosen = [arm for arm in study.arms if not asked.only or arm.name in asked.only.split(",")]
        for seed in map(int, asked.seeds.split(",")):
            write_emails(folder, seed) if study.task == "emails" else write_questions(folder, seed)
            for arm in chosen:
                run(folder, study, arm, seed, HOSTED.format(base_url=asked.base_url))
    print("\n".join(table(folder, study)))


def write_questions(folder: Path, seed: int) -> None:
    """The recorded questions: the same ones for every seed, all but the twenty that are held back."""
    made = folder / "example"
    if not made.is_dir():
        write_search(made)
    rows = [json.loads(line) for line in (made / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    files = {f"prompts-{seed}.jsonl": rows[20:], "validation.jsonl": rows[:20]}
    for name, lines in files.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name in ("test.jsonl", "documents.jsonl"):
        (folder / name).write_bytes((made / name).read_bytes())


def write_emails(folder: Path, seed: int) -> None:
    """The same e-mails for every arm of a seed: without an answer, and with the reference as the answer."""
    found = importlib.util.spec_from_file_location("demo_data", HERE / "demo_data.py")
    assert found is not None
    assert found.loader is not None
    demo: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(demo)
    folder.mkdir(parents=True, exist_ok=True)
    held = {json.loads(line)["id"] for line in demo.files()["validation.jsonl"].splitlines()}
    rows = demo.rows("train", demo.SEED + seed, all_labelled=True)
    train = [row for row in rows if row["id"] not in held]
    files = {
        f"prompts-{seed}.jsonl": train,
        f"references-{seed}.jsonl": [row | {"completion": demo.to_json(row["reference"])} for row in train],
        "validation.jsonl": [row for row in demo.rows("train", all_labelled=True) if row["id"] in held],
        "test.jsonl": demo.rows("test"),
    }
    for name, lines in files.items():
        (folder / name).write_text("".join(demo.to_json(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "ticket.schema.json").write_text(demo.files()["ticket.schema.json"], encoding="utf-8")


def run(folder: Path, study: Study, arm: Arm, seed: int, teacher: str, watch: OnEvent = lambda _: None) -> None:
    """One arm with one seed and this table `[teacher]`, unless it is finished; `watch` is told all that happens."""
    name = f"{_slug(arm.name)}-{seed}"
    out = folder / "runs" / name
    if (out / "report.json").is_file():
        return
    lines = (folder / f"{arm.data}-{seed}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / f"{name}.jsonl").write_text("".join(lines[: arm.prompts]), encoding="utf-8")
    config = folder / f"{name}.toml"
    config.write_text(
        f"""recipe = "{arm.recipe}"

[student]
model = "bundled"
max_new_tokens = {study.max_new_tokens}
{arm.student}

[teacher]
{teacher}
[task]
prompts = "{name}.jsonl"
validation = "validation.jsonl"
test = "test.jsonl"
{arm.verifier}

[train]
{arm.train}
learning_rate = {study.learning_rate}
policy_learning_rate = {study.policy_learning_rate}
validate_every = {STEPS // 2}
on_collapse = "warn"
seed = {seed}

{arm.more}
""",
        encoding="utf-8",
    )
    with watching() as show:

        def on_event(event: Event) -> None:
            show(event)
            watch(event)

        bbdistill.run(config, out=out, resume=(out / "config.json").is_file(), on_event=on_event)


def table(folder: Path, study: Study) -> Iterator[str]:
    """Means over the seeds; intervals are bootstrapped over the test prompts, each with its mean over the seeds.

    An arm is held against the control's runs with the same seeds.
    """
    control = _scores(folder, study.control, "student")
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for name in ("base", "teacher"):
        found = [rows for arm in study.arms if arm.verifier for rows in _scores(folder, arm.name, name).values()]
        if found:
            yield _line(name, found[:1], list(control.values()), [])
    for arm in study.arms:
        runs = _scores(folder, arm.name, "student")
        if control and not arm.verifier:
            runs = {seed: _judged(folder, study, answers) for seed, answers in runs.items()}
        if runs:
            beside = [control[seed] for seed in runs if seed in control]
            reports = [read_json(path) for path in _finished(folder, arm.name).values()]
            yield _line(arm.name, list(runs.values()), beside, reports)


def _line(
    name: str,
    runs: Sequence[Sequence[dict[str, Any]]],
    control: Sequence[Sequence[dict[str, Any]]],
    reports: Sequence[dict[str, Any]],
) -> str:
    scores, known = _by_prompt(runs, "score"), _by_prompt(control, "score")
    valid = _by_prompt(runs, "valid").values()
    low, high = interval(list(scores.values()))
    means = [statistics.mean(row["score"] for row in rows if row["score"] is not None) for rows in runs]
    gains = [scores[name] - known[name] for name in scores if name in known]
    gain = f"{statistics.mean(gains):+.3f} ({interval(gains)[0]:+.3f} to {interval(gains)[1]:+.3f})" if gains else "-"
    said = [len(row["completion"]) for rows in runs for row in rows if row["completion"] is not None]
    cells = [
        name,
        len(runs),
        f"{statistics.mean(valid):.3f}" if valid else "-",
        f"{statistics.mean(scores.values()):.3f}",
        f"{low:.3f} - {high:.3f}",
        f"{min(means):.3f} - {max(means):.3f}",
        gain,
        f"{statistics.mean(said):.0f}",
        *_costs(reports),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _costs(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Calls and dollars before the evaluation, tokens and seconds of training; means over the runs."""
    if not reports:
        return ["-"] * 4
    calls, dollars = list[int](), list[float]()
    for report in reports:
        lines = [row for purpose, row in report["teacher"]["by_purpose"].items() if purpose != "evaluation"]
        calls.append(sum(row["calls"] for row in lines))
        used = Usage(
            input_tokens=sum(row["input_tokens"] for row in lines),
            output_tokens=sum(row["output_tokens"] for row in lines),
        )
        dollars.append(price(*PRICED_AS, used) or 0.0)
    trained = [report["train"] for report in reports]
    return [
        f"{statistics.mean(calls):.0f}",
        f"{statistics.mean(dollars):.3f}",
        f"{statistics.mean(row['tokens'] for row in trained):.0f}",
        f"{statistics.mean(row['seconds'] for row in trained):.0f}",
    ]


def _by_prompt(runs: Sequence[Sequence[dict[str, Any]]], key: str) -> dict[str, float]:
    """The mean over the runs, for each prompt that was judged."""
    found: dict[str, list[float]] = {}
    for rows in runs:
        for row in rows:
            if row[key] is not None:
                found.setdefault(row["id"], []).append(row[key])
    return {name: statistics.mean(values) for name, values in found.items()}


def _scores(folder: Path, arm: str, model: str) -> dict[int, list[dict[str, Any]]]:
    """Rows of evaluation.jsonl of every finished run of an arm, by its seed."""
    found: dict[int, list[dict[str, Any]]] = {}
    for seed, report in _finished(folder, arm).items():
        lines = report.with_name("evaluation.jsonl").read_text(encoding="utf-8").splitlines()
        found[seed] = [row for row in map(json.loads, lines) if row["model"] == model]
    return found


def _judged(folder: Path, study: Study, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same answers, judged as those of the control are: their own run had no verifier."""
    task = load_task(load_config(min(folder.glob(f"{_slug(study.control)}-[0-9]*.toml"))))
    prompts = {prompt.id: prompt for prompt in task.test}
    texts = [row["completion"] for row in rows]
    found = judge("student", [prompts[row["id"]] for row in rows], texts, task.verify)
    marks = zip(rows, found.valid, found.scores, strict=True)
    return [row | {"valid": valid, "score": score} for row, valid, score in marks]


def _finished(folder: Path, arm: str) -> dict[int, Path]:
    """Reports by seed."""
    found = sorted((folder / "runs").glob(f"{_slug(arm)}-[0-9]*/report.json"))
    return {int(path.parent.name.rpartition("-")[2]): path for path in found}


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


if __name__ == "__main__":
    main()
