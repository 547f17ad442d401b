"""Who may import whom, read from the source; and what an import must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bbdistill

PACKAGE = Path(bbdistill.__file__).parent

BOTTOM = {"types", "config", "configfile", "errors", "extras", "keylike", "templates", "data", "evidence", "rundir"} | {
    "metrics"
}
CORE = {"local", "setup", "state", "finish", "train", "demonstrations", "sampling", "collapse"}
API_VERBS = {"advisor", "checks", "collect", "doctor", "dryrun", "estimate", "starter", "examples"}

ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(BOTTOM, BOTTOM),
    "client": {"types", "errors"},
    "losses": set(),
    "teacher": BOTTOM | {"client"},
    "verify": BOTTOM | {"teacher"},
    "student": BOTTOM | {"losses", "balance"},
    "balance": {"types", "config"},
    "local": BOTTOM | {"client", "student", "teacher"},
    "care": {"types"},
    "task": BOTTOM | {"verify", "care"},
    "plan": BOTTOM | {"client"},
    "recording": BOTTOM | {"client"},
    "pytest_plugin": {"client"},
    "report": BOTTOM,
    "place": BOTTOM | {"teacher"},
    "rewards": {"types", "config"},
    "measures": {"types"},
    "levels": set(),
    "watched": {"levels"},
    "monitors": {"levels", "metrics", "watched"},
    "plots": {"levels", "monitors", "watched"},
    "stages": BOTTOM,
    "objectives": BOTTOM | {"care", "rewards", "stages"},
    "credit": {"types", "objectives", "rewards", "teacher"},
    "lessons": BOTTOM | {"objectives", "teacher"},
    "evaluate": BOTTOM | {"task", "verify"},
    "outside": {"types", "evaluate"},
    "winrate": BOTTOM | {"teacher", "evaluate"},
    "setup": BOTTOM | {"client", "local", "teacher", "student", "task", "plan", "place", "stages", "credit"},
    "state": BOTTOM | {"setup", "student", "teacher", "stages", "lessons", "monitors"},
    "collapse": BOTTOM | {"setup", "state", "monitors", "student"},
    "demonstrations": BOTTOM | {"setup", "stages", "objectives", "teacher"},
    "train": BOTTOM
    | {"setup", "state", "teacher", "task", "plan", "stages", "objectives", "rewards", "lessons", "evaluate"}
    | {"demonstrations", "sampling", "measures", "collapse"},
    "sampling": BOTTOM | {"setup", "state", "teacher", "task", "stages", "objectives", "rewards"},
    "finish": BOTTOM
    | {"care", "setup", "state", "student", "teacher", "task", "evaluate", "report", "plots", "runner", "place"}
    | {"winrate", "outside"},
    "runner": BOTTOM | {"task", "place", "setup", "train", "finish", "student"},
    "starter": BOTTOM,
    "collect": BOTTOM | {"care", "task", "teacher", "recording"},
    "checks": BOTTOM | {"task", "verify", "client", "teacher"},
    "asking": BOTTOM | {"task", "teacher"},
    "estimate": BOTTOM | {"task", "stages", "client", "teacher", "asking"},
    "dryrun": BOTTOM | {"care", "task", "stages", "estimate", "student"},
    "advisor": BOTTOM
    | {"task", "teacher", "verify", "student", "stages", "objectives", "estimate", "starter", "local"},
    "examples": BOTTOM | {"task", "teacher", "verify"},
    "doctor": BOTTOM | {"task", "teacher", "verify", "student"},
    "demo": BOTTOM | {"runner"},
    "console": {"metrics"},
    "interrupt": set(),
    "cli": {
        "errors",
        "config",
        "report",
        "runner",
        "demo",
        "cli_cache",
        "cli_init",
        "cli_look",
        "cli_options",
        *API_VERBS,
    },
    "cli_cache": {"cli_options", "recording"},
    "cli_init": {"cli_options", "errors", "starter", "examples"},
    "cli_look": {"cli_options", "errors", "interrupt", "estimate", "advisor", "checks", "doctor"},
    "cli_options": {"errors", "console", "interrupt"},
}
TORCH_ROOMS = {"student", "losses", *CORE}
TORCH = {"torch", "transformers", "peft", "accelerate", "safetensors", "gguf", "tokenizers"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names):
                # `from bbdistill import data` names a room in its list, not in its module.
                found |= {f"{module}.{alias.name}" for alias in names} if module == "bbdistill" else {module}
            case _:
                pass
    return found


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    room = room_of(path)
    assert room in ALLOWED, f"{path} is a room of its own; give it a place in the table"
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("bbdistill.")}
    assert rooms <= ALLOWED[room] | {room}, f"{path} imports {sorted(rooms - ALLOWED[room] - {room})}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_stays_on_its_side(path: Path):
    if room_of(path) in TORCH_ROOMS:
        return
    assert not {name.split(".")[0] for name in imports_of(path)} & TORCH


def test_losses_know_nothing_of_ours():
    for path in (PACKAGE / "losses").glob("*.py"):
        ours = {name for name in imports_of(path) if name.startswith("bbdistill")}
        assert all(name.startswith("bbdistill.losses") for name in ours)


def test_the_public_names_are_all_there():
    fixed = {"Teacher", "arun", "http_client", "open_recording", "run", "sync_http_client"}
    assert fixed <= set(bbdistill.__all__)
    assert sorted(bbdistill.__all__) == bbdistill.__all__
    for name in bbdistill.__all__:
        assert getattr(bbdistill, name).__name__ == name


def test_the_import_loads_no_torch_and_no_sdk():
    heavy = ("torch", "transformers", "openai", "anthropic", "pydantic", "sqlite_utils")
    code = f"import bbdistill, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_api_side_loads_no_torch():
    code = (
        "import sys, bbdistill, bbdistill.cli, bbdistill.collect, bbdistill.doctor, bbdistill.dryrun;"
        "import bbdistill.estimate, bbdistill.advisor.page, bbdistill.examples.search; bbdistill.advise;"
        "bbdistill.Teacher; bbdistill.run; bbdistill.http_client;"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
