"""`bbdistill demo`: the main job on a built-in task, from a recorded teacher. `task.toml` here is the task's config."""

import threading
from pathlib import Path

from bbdistill.config import RunConfig
from bbdistill.configfile import load_config
from bbdistill.metrics import OnEvent
from bbdistill.rundir import RunDir
from bbdistill.runner import RunResult, run
from bbdistill.templates import shipped

HERE = Path(__file__).parent
RECORDING = "demo.db"


def demo_config(*, live: tuple[str, str] | None = None, store: Path | None = None) -> RunConfig:
    """The demo's config; `live` is (base_url, model) of a teacher to ask instead of the recorded one."""
    overrides: list[str] = []
    if live is not None:
        base_url, model = live
        # Another teacher than the recorded one must not be taken for it.
        overrides = [
            f'teacher.base_url="{base_url}"',
            f'teacher.model="{model}"',
            f'teacher.id="{model}@{base_url}"',
            'teacher.terms=""',
        ]
    config = load_config(HERE / "task.toml", overrides)
    if store is None:
        return config
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"cache": store})})


def run_demo(
    *, out: Path, live: tuple[str, str] | None, on_event: OnEvent, stop: threading.Event | None = None
) -> RunResult:
    """Replays the shipped recording, or asks a live teacher into a store beside the run's directory.

    What that store has of the same teacher is not asked again.
    """
    RunDir.check(out, overwrite=True)
    if live is None:
        recording = shipped("cache") / RECORDING
        return run(demo_config(), out=out, overwrite=True, replay=str(recording), on_event=on_event, stop=stop)
    store = out.with_name(f"{out.name}.db")
    config = demo_config(live=live, store=store.resolve())
    return run(config, out=out, overwrite=True, on_event=on_event, stop=stop)
