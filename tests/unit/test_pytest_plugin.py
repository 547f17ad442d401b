"""The pytest plugin as another project meets it: a suite in a directory of its own, run in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_server import ScriptedServer

from bbdistill.client.store import Store

WITH_SDKS = """
import anthropic
import openai

KEY = {"api_key": "sk-0123456789abcdef0123", "max_retries": 0}
QUESTION = [{"role": "user", "content": "2+2?"}]

def test_openai(bbdistill_replay):
    client = bbdistill_replay.sync_http_client(teacher_id="theirs")
    api = openai.OpenAI(**KEY, base_url="URL/v1", http_client=client)
    assert api.chat.completions.create(model="m", messages=QUESTION).choices[0].message.content == "four"

def test_anthropic(bbdistill_replay):
    client = bbdistill_replay.sync_http_client(teacher_id="theirs")
    api = anthropic.Anthropic(**KEY, base_url="URL", http_client=client)
    assert api.messages.create(model="m", max_tokens=9, messages=QUESTION).content[0].text == "four"
"""

SUITE = """
def ask(client, text):
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return client.post("URL/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]

def test_two(bbdistill_replay):
    client = bbdistill_replay.sync_http_client(teacher_id="theirs")
    assert [ask(client, "2+2?"), ask(client, "2+2?")] == ["four"] * 2

def test_three(bbdistill_replay):
    assert ask(bbdistill_replay.sync_http_client(teacher_id="theirs"), "3+1?") == "four"

def test_sequence(bbdistill_replay):
    client = bbdistill_replay.sync_http_client(teacher_id="theirs", repeat="sequence")
    assert [ask(client, "next?") for _ in range(2)] == ["four"] * 2
"""


def suite(folder: Path, url: str, text: str = SUITE) -> None:
    (folder / "test_answers.py").write_text(text.replace("URL", url))


def run_suite(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "bbdistill.pytest_plugin", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        # As an installed plugin it is found by itself; here it may be run from a checkout.
        env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, str]:
    """A suite without an SDK, recorded once against a server that is gone by now; and where that was."""
    with ScriptedServer() as server:
        suite(tmp_path, server.url)
        done = run_suite(tmp_path, "--bbdistill-record")
        assert (done.returncode, len(server.seen)) == (0, 4), done.stdout
    return tmp_path, server.url


def store_of(folder: Path) -> Path:
    return folder / "recordings" / "test_answers.db"


def test_a_suite_with_both_sdks_is_recorded_once_and_replays_without_a_server(tmp_path: Path) -> None:
    with ScriptedServer() as server:
        suite(tmp_path, server.url, WITH_SDKS)
        assert run_suite(tmp_path, "--bbdistill-record").returncode == 0
        assert len(server.seen) == 2
    assert [path.name for path in (tmp_path / "recordings").iterdir()] == ["test_answers.db"]
    before = store_of(tmp_path).read_bytes()
    done = run_suite(tmp_path)
    assert "2 passed" in done.stdout
    assert done.returncode == 0
    assert store_of(tmp_path).read_bytes() == before
    assert b"sk-0123456789" not in before


def test_recording_again_buys_only_what_is_new_and_drops_what_is_stale(recorded: tuple[Path, str]) -> None:
    folder, _ = recorded
    with ScriptedServer() as server:
        suite(folder, server.url)
        assert run_suite(folder, "--bbdistill-record").returncode == 0
        assert len(server.seen) == 0
        suite(folder, server.url, SUITE.replace("next?", "then?"))
        assert run_suite(folder, "--bbdistill-record").returncode == 0
        assert len(server.seen) == 2  # the sequence of two
    assert [row.version for row in Store(store_of(folder), read_only=True).calls()] == [1, 1, 1, 2]


def test_a_miss_fails_the_test_with_the_difference(recorded: tuple[Path, str]) -> None:
    folder, url = recorded
    swallowed = 'try:\n        ask(client, "2+2!")\n    except Exception:\n        pass\n    assert [ask('
    suite(folder, url, SUITE.replace("assert [ask(", swallowed, 1).replace("range(2)", "range(3)"))
    done = run_suite(folder)
    assert done.returncode == 1
    assert "2 failed, 1 passed" in done.stdout
    assert '-    "content": "2+2?"' in done.stdout
    assert '+    "content": "2+2!"' in done.stdout
    assert "pytest test_answers.py::test_two --bbdistill-record" in done.stdout
    assert "was not recorded 3 times" in done.stdout
    assert "Its recorded sequence is shorter." in done.stdout


def test_a_call_that_no_test_used_fails_the_suite(recorded: tuple[Path, str]) -> None:
    folder, url = recorded
    suite(folder, url, re.sub(r"def test_three.*?\n\n", "", SUITE, flags=re.DOTALL))
    done = run_suite(folder)
    assert "2 passed" in done.stdout
    assert done.returncode == 1
    assert re.search(r"test_answers\.db: no test used the recorded calls \d+ \(/v1/chat/completions, ", done.stdout)
    assert run_suite(folder, "--bbdistill-record").returncode == 0
    assert run_suite(folder).returncode == 0


@pytest.mark.parametrize("selection", [["-k", "two"], ["test_answers.py::test_two"]])
def test_a_selection_of_tests_says_nothing_of_the_others(recorded: tuple[Path, str], selection: list[str]) -> None:
    folder, _ = recorded
    assert run_suite(folder, *selection).returncode == 0
    assert run_suite(folder, *selection, "--bbdistill-record").returncode == 0
    assert len(Store(store_of(folder), read_only=True).calls()) == 4


def test_without_a_recording_the_way_to_one_is_told(tmp_path: Path) -> None:
    suite(tmp_path, "http://127.0.0.1:9")
    done = run_suite(tmp_path)
    assert done.returncode == 1
    assert "pytest test_answers.py::test_two --bbdistill-record" in done.stdout


def test_loading_it_loads_nothing_else() -> None:
    code = "import pytest, sys; a = {*sys.modules}; import bbdistill.pytest_plugin; print(sorted({*sys.modules} - a))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['bbdistill', 'bbdistill.pytest_plugin']"
