"""What the benchmarks of the student share: the work to do, jobs in processes of their own, and the table."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the benchmarks of other tools run where bbdistill is not installed
    from bbdistill.student.discriminator import Discriminator
    from bbdistill.student.student import Student
    from bbdistill.types import PolicyExample, Prompt, RankedPair, Rollout

ROOT = Path(__file__).parent.parent
PROMPTS, GROUP, NEW = 4, 8, 64
"""A policy step: prompts, rollouts of each, and tokens at most in a rollout."""
RANK, ALPHA = 16, 32
SHORT = (
    "Read the e-mail to our shop and reply with one JSON object. Its keys are customer, order, product, category and "
    "urgency. A category is refund, delivery, defect, question or cancellation."
)
"""A system prompt with which the demo's prompts have about 108 tokens, 50 of them common to all."""

Row = dict[str, Any]


def work(rows: int, *, shared: bool = True) -> list[Row]:
    """The demo's e-mails that have a reference, as TRL wants them: prompt and completion, in messages.

    Where nothing is to be shared, e-mail and instruction change places.
    """
    lines = (ROOT / "bbdistill/demo/train.jsonl").read_text().splitlines()
    found = [row for row in map(json.loads, lines) if "reference" in row][:rows]

    def prompt(mail: str) -> list[dict[str, str]]:
        first, second = (SHORT, mail) if shared else (mail, SHORT)
        return [{"role": "system", "content": first}, {"role": "user", "content": second}]

    return [
        {
            "prompt": prompt(row["messages"][1]["content"]),
            "completion": [{"role": "assistant", "content": json.dumps(row["reference"])}],
        }
        for row in found
    ]


def opened() -> "tuple[Student, Discriminator]":
    """The bundled student and its discriminator, as all benchmarks run them."""
    from bbdistill.config import RunConfig
    from bbdistill.config.models import StudentConfig, TeacherConfig
    from bbdistill.config.task import TaskConfig
    from bbdistill.config.training import RewardConfig
    from bbdistill.student.open import open_student

    settings = StudentConfig(model="bundled", lora_rank=RANK, lora_alpha=ALPHA, max_new_tokens=NEW, top_p=1.0)
    return open_student(
        RunConfig(
            recipe="gad",
            student=settings,
            teacher=TeacherConfig(model="openai:none"),
            task=TaskConfig(prompts=Path("none.jsonl")),
            reward=RewardConfig(discriminator=1.0),
        )
    )


def asked(data: Sequence[Row]) -> "list[Prompt]":
    from bbdistill.types import Prompt

    return [Prompt(id=f"p{index}", messages=tuple(row["prompt"])) for index, row in enumerate(data)]


def policy_work(groups: "Sequence[Sequence[Rollout]]") -> "tuple[list[PolicyExample], list[RankedPair]]":
    """What the policy and the discriminator learn from rollouts. Those cut off count too: TRL learns from them."""
    from bbdistill.types import PolicyExample, RankedPair

    rollouts = [replace(rollout, stop_reason="stop") for group in groups for rollout in group]
    examples = [PolicyExample(rollout=r, advantage=1.0 if r.sample % 2 else -1.0) for r in rollouts]
    pairs = [
        RankedPair(prompt=group[0].prompt, chosen=group[0].completion, rejected=other.completion, source="preference")
        for group in groups
        for other in group[1:]
    ]
    return examples, pairs


def synchronised() -> float:
    """Now, in seconds, with the accelerator's work done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = synchronised()
    result = call()
    return synchronised() - start, result


def peak_gb() -> float:
    """Of the accelerator's memory where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def gemm_flops() -> float:
    """What the machine reaches in a bfloat16 product of 2048 x 2048 matrices, per second; the best of ten."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(2048, 2048, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.mm(a, b)
    return 2 * 2048**3 / min(timed(lambda: torch.mm(a, b))[0] for _ in range(10))


def job(python: str, script: str, *arguments: str) -> Row:
    """What a job in a process of its own says about itself: the last line it prints, in JSON."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, script, "--job", *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(jobs: dict[str, Callable[[], Row]], rounds: int) -> dict[str, list[Row]]:
    """Every job once in each round."""
    found: dict[str, list[Row]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name, run in jobs.items():
            found[name].append(run())
            print(f"round {number + 1}: {name}: {json.dumps(found[name][-1])}", file=sys.stderr)
    return found


def median(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if key in row]
    return statistics.median(values) if values else None


def table(found: dict[str, list[Row]], keys: Sequence[str], *, baseline: str) -> str:
    """Medians, and for times by how much they are shorter than those of the baseline."""
    lines = ["| | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, rows in found.items():
        cells: list[str] = []
        for key in keys:
            value = median(rows, key)
            other = median(found.get(baseline, []), key)
            ratio = f" ({other / value:.2f}x)" if value and other and key.endswith(" s") and name != baseline else ""
            cells.append("" if value is None else f"{value:.3g}{ratio}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
