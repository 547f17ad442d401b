#!/usr/bin/env python3
"""Holds recipes against each other on the demo's e-mails: the same prompts, the same number of updates, several seeds.

    scripts/compare_recipes.py runs/compare [--base-url URL] [--seeds 0,1,2] [--only sft,isft]    run what is missing
    scripts/compare_recipes.py runs/compare --table                                               print what is there

A seed draws 100 training e-mails of its own, all with a reference, which the verifier knows and neither teacher nor
student is shown; the control alone imitates the references themselves. Validation and test e-mails are always the same.
A finished run is not run again, and a stopped one goes on.
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
from bbdistill.console import watching
from bbdistill.evaluate import interval
from bbdistill.rundir import read_json

HERE = Path(__file__).resolve().parent
PROMPTS = 100
STEPS = 44
"""Updates of every arm; a round of `isft` has half of them."""
CONTROL = "sft on the references"
COLUMNS = (
    "model",
    "seeds",
    "valid",
    "score",
    "95 % interval",
    "between seeds",
    "minus control",
    "training calls",
    "tokens",
    "seconds",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train: a recipe, what it imitates, and the verifier it is given."""

    name: str
    recipe: str
    data: str = "prompts"
    verifier: str = '["json_schema:ticket.schema.json", "fields"]'
    train: str = f"steps = {STEPS}"


ARMS = (
    Arm(name="sft", recipe="sft", verifier='["json_schema:ticket.schema.json"]'),
    Arm(name="sft, answers that pass", recipe="sft"),
    Arm(name=CONTROL, recipe="sft", data="references"),
    Arm(name="isft", recipe="isft", train=f"rounds = 2\nsteps = {STEPS // 2}"),
    Arm(name="rgt", recipe="rgt", train=f"rounds = 1\nsteps = {STEPS}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base-url", default="http://127.0.0.1:8077/v1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="first words of the arms to run, with commas")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if not asked.table:
        chosen = [arm for arm in ARMS if not asked.only or arm.name in asked.only.split(",")]
        for seed in map(int, asked.seeds.split(",")):
            write_data(asked.folder, seed)
            for arm in chosen:
                run(asked.folder, arm, seed, asked.base_url)
    print("\n".join(table(asked.folder)))


def write_data(folder: Path, seed: int) -> None:
    """The same e-mails for every arm of a seed: without an answer, and with the reference as the answer."""
    found = importlib.util.spec_from_file_location("demo_data", HERE / "demo_data.py")
    assert found is not None
    assert found.loader is not None
    demo: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(demo)
    folder.mkdir(parents=True, exist_ok=True)
    held = {json.loads(line)["id"] for line in demo.files()["validation.jsonl"].splitlines()}
    rows = demo.rows("train", demo.SEED + seed, all_labelled=True)
    train = [row for row in rows if row["id"] not in held][:PROMPTS]
    files = {
        f"prompts-{seed}.jsonl": train,
        f"references-{seed}.jsonl": [row | {"completion": demo.to_json(row["reference"])} for row in train],
        "validation.jsonl": [row for row in demo.rows("train", all_labelled=True) if row["id"] in held],
        "test.jsonl": demo.rows("test"),
    }
    for name, lines in files.items():
        (folder / name).write_text("".join(demo.to_json(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "ticket.schema.json").write_text(demo.files()["ticket.schema.json"], encoding="utf-8")


def run(folder: Path, arm: Arm, seed: int, base_url: str) -> None:
    """One arm with one seed, unless it is finished."""
    out = folder / "runs" / f"{_slug(arm.name)}-{seed}"
    if (out / "report.json").is_file():
        return
    config = folder / f"{_slug(arm.name)}-{seed}.toml"
    config.write_text(
        f"""recipe = "{arm.recipe}"

[student]
model = "bundled"
max_new_tokens = 96

[teacher]
model = "openai:qwen2.5-coder-1.5b-instruct"
base_url = "{base_url}"
id = "qwen2.5-coder-1.5b-instruct@compare"
cache = "teacher.db"
max_tokens = 320
temperature = 0.0
concurrency = 2
terms = "Apache-2.0"

[task]
prompts = "{arm.data}-{seed}.jsonl"
validation = "validation.jsonl"
test = "test.jsonl"
verifier = {arm.verifier}

[train]
{arm.train}
learning_rate = 8e-4
validate_every = {STEPS // 2}
seed = {seed}
""",
        encoding="utf-8",
    )
    with watching() as on_event:
        bbdistill.run(config, out=out, resume=(out / "config.json").is_file(), on_event=on_event)


def table(folder: Path) -> Iterator[str]:
    """Means over the seeds; intervals are bootstrapped over the test e-mails, each with its mean over the seeds."""
    control = _scores(folder, CONTROL, "student")
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for name in ("base", "teacher"):
        found = {arm.name: rows for arm in ARMS if (rows := _scores(folder, arm.name, name))}
        if found:
            yield _line(name, next(iter(found.values()))[:1], control, [])
    for arm in ARMS:
        rows = _scores(folder, arm.name, "student")
        if rows:
            reports = [read_json(path) for path in _finished(folder, arm.name)]
            yield _line(arm.name, rows, control, reports)


def _line(
    name: str,
    runs: Sequence[Sequence[dict[str, Any]]],
    control: Sequence[Sequence[dict[str, Any]]],
    reports: Sequence[dict[str, Any]],
) -> str:
    scores, known = _by_prompt(runs, "score"), _by_prompt(control, "score")
    valid = statistics.mean(_by_prompt(runs, "valid").values())
    low, high = interval(list(scores.values()))
    means = [statistics.mean(row["score"] for row in rows if row["score"] is not None) for rows in runs]
    gains = [scores[name] - known[name] for name in scores if name in known]
    gain = f"{statistics.mean(gains):+.3f} ({interval(gains)[0]:+.3f} to {interval(gains)[1]:+.3f})" if gains else "-"
    asked = [report["teacher"]["by_purpose"] for report in reports]
    calls = [sum(row["calls"] for purpose, row in each.items() if purpose != "evaluation") for each in asked]
    cells = [
        name,
        len(runs),
        f"{valid:.3f}",
        f"{statistics.mean(scores.values()):.3f}",
        f"{low:.3f} - {high:.3f}",
        f"{min(means):.3f} - {max(means):.3f}",
        gain,
        f"{statistics.mean(calls):.0f}" if calls else "-",
        f"{statistics.mean(r['train']['tokens'] for r in reports):.0f}" if reports else "-",
        f"{statistics.mean(r['train']['seconds'] for r in reports):.0f}" if reports else "-",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _by_prompt(runs: Sequence[Sequence[dict[str, Any]]], key: str) -> dict[str, float]:
    """The mean over the runs, for each prompt that was judged."""
    found: dict[str, list[float]] = {}
    for rows in runs:
        for row in rows:
            if row[key] is not None:
                found.setdefault(row["id"], []).append(row[key])
    return {name: statistics.mean(values) for name, values in found.items()}


def _scores(folder: Path, arm: str, model: str) -> list[list[dict[str, Any]]]:
    """Rows of evaluation.jsonl of every finished run of an arm."""
    files = [report.with_name("evaluation.jsonl") for report in _finished(folder, arm)]
    everything = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    return [[row for row in rows if row["model"] == model] for rows in everything]


def _finished(folder: Path, arm: str) -> list[Path]:
    return sorted((folder / "runs").glob(f"{_slug(arm)}-[0-9]*/report.json"))


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


if __name__ == "__main__":
    main()
