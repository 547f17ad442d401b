"""What goes wrong while a task is advised on: one sentence, its exit code, nothing beyond the cap, nothing lost."""

import json
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from advise_task import A_CALL, NO, PROSE, YES, Command, paid, write_check, write_task
from scripted_server import Answer, ScriptedServer, chat, error

import bbdistill
from bbdistill.advisor.ask import ask
from bbdistill.configfile import load_config
from bbdistill.errors import BudgetExceeded, ConfigError, RunStopped
from bbdistill.task import load_task

GO_ON = "everything paid for is kept; go on with: the same command"


@pytest.mark.parametrize("cap", [0.0005, 0.0112, 0.0114, 0.012, 0.0135, 0.016, 0.5])
@pytest.mark.parametrize("reply", [chat(NO), chat(NO, tokens=(900, 700)), chat(PROSE, finish="length")])
def test_the_cap_is_never_passed(tmp_path: Path, key: None, cap: float, reply: Answer) -> None:
    usage = json.loads(reply.body)["usage"]
    price = (usage["prompt_tokens"] * 1.0 + usage["completion_tokens"] * 10.0) / 1e6
    with ScriptedServer(otherwise=reply) as server:
        config = write_task(tmp_path, server)
        with suppress(BudgetExceeded):  # where not even the first call fits
            found = bbdistill.advise(config, max_usd=cap, sample=12).findings
            assert found.spent_usd == pytest.approx(len(server.seen) * price)
        assert paid(tmp_path / "store.db")[0] == pytest.approx(len(server.seen) * price)
        assert len(server.seen) * price <= cap
        assert len(server.seen) == 12 or cap < 0.5
        assert bool(server.seen) == (cap > 0.0113)  # 1,000 + 88 tokens in, 1,024 out


@pytest.mark.parametrize("cap", ["0", "0.0001"])
def test_a_cap_that_allows_nothing_ends_with_3_and_asks_nothing(tmp_path: Path, command: Command, cap: str) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        done = command(write_task(tmp_path, server), "--max-usd", cap)
        assert not server.seen
    assert done.code == 3
    assert done.said.startswith(f"error: the cap of ${cap} (`max_usd`) is reached: $0.0000 is spent and the next call ")


def test_a_server_of_ones_own_costs_nothing_and_fits_any_cap(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        free = write_task(tmp_path / "free", server, input_usd_per_mtok=0.0, output_usd_per_mtok=0.0)
        found = command.json(free, "--max-usd", "0")["findings"]
        assert (found["teacher_pass"]["n"], found["spent_usd"]) == (24, 0)
        unknown = write_task(tmp_path / "unknown", server)
        unknown.write_text("\n".join(line for line in unknown.read_text().splitlines() if "_per_mtok" not in line))
        before = len(server.seen)
        done = command(unknown)
        assert len(server.seen) == before
    assert done.code == 2
    assert done.said == (
        "error: no price is known for `openai:rules`, so a dollar cap cannot be kept; set `input_usd_per_mtok` and "
        "`output_usd_per_mtok`: both to 0 for a server of your own"
    )


def test_a_sample_that_the_cap_cuts_short_says_so(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        done = command(write_task(tmp_path, server), "--max-usd", "0.0130")
        asked = len(server.seen)
    assert 0 < asked < 24
    assert f"\n{asked} of 24 prompts were answered: the cap of $0.013 (`max_usd`) is reached" in f"\n{done.err}"
    assert f"  teacher: the cap of $0.013 (`max_usd`) is reached: ${asked * A_CALL:.4f} is spent" in done.out
    assert f"usable replies                         1.00  n {asked}\n" in done.out


@pytest.mark.parametrize("sample", ["0", "-3", "x"])
def test_a_sample_of_nothing_is_a_usage_error(tmp_path: Path, command: Command, sample: str) -> None:
    with ScriptedServer() as server:
        config = write_task(tmp_path, server)
        assert command(config, "--sample", sample).code == 2
        assert not server.seen
        with pytest.raises(ConfigError, match="`sample`: expected 1 prompt or more, got 0"):
            bbdistill.advise(config, sample=0)
        for rollouts in (0, 1):
            with pytest.raises(ConfigError, match=f"`rollouts`: expected 2 or more.* got {rollouts}"):
                bbdistill.advise(config, rollouts=rollouts)


def test_a_sample_beyond_the_data_is_all_of_it(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server)
        found = command.json(config, "--sample", "1000000000")["findings"]
        assert found["teacher_pass"]["n"] == len(server.seen) == 24
        assert command.json(config, "--sample", "3")["findings"]["teacher_pass"]["n"] == 3


def test_a_place_that_cannot_be_written_is_found_before_anything_is_asked(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server)
        before = config.read_text()
        for place, says in (
            (config, "exists and is not overwritten; move it away or give another --write"),
            (tmp_path, "is a directory; give the file to write, such as"),
            (config / "deep" / "next.toml", "cannot be written, because"),
        ):
            done = command(config, "--write", place)
            assert done.code == 2
            assert says in done.said
        assert config.read_text() == before
        assert not server.seen


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (error(401), "answered HTTP 401: the key is wrong or missing"),
        (error(429, "insufficient_quota"), "answered HTTP 429: the account's quota or rate limit is used up"),
        (Answer(body="<html>hello</html>", headers={"content-type": "text/html"}), "is no API"),
    ],
)
def test_a_teacher_that_fails_halfway_is_advised_on_by_what_it_said(
    tmp_path: Path, command: Command, end: Answer, says: str
) -> None:
    with ScriptedServer(*[chat(NO)] * 10, otherwise=end) as server:
        done = command(write_task(tmp_path, server, concurrency=1))
        assert len(server.seen) < 20
    assert done.code == 0
    assert "10 of 24 prompts were answered: teacher `openai:rules`" in done.err
    assert says in " ".join(done.out.split())
    assert "usable replies                         1.00  n 10\n" in done.out
    # What a web page cost nobody knows: the worst case of each counts.
    assert 10 * A_CALL <= paid(tmp_path / "store.db")[0] + 1e-9 <= 0.5


@pytest.mark.parametrize(
    "reply",
    [
        chat(""),
        chat(None),
        chat("\x00\ud7ff ?" * 50),
        chat("[" * 5000),
        chat(NO, finish="length"),
        chat(NO, finish="content_filter"),
    ],
)
def test_a_teacher_that_says_garbage_is_measured(tmp_path: Path, command: Command, reply: Answer) -> None:
    with ScriptedServer(otherwise=reply) as server:
        found = command.json(write_task(tmp_path, server), "--sample", "6")
    figures = found["findings"]
    assert figures["teacher_answers"]["value"] == 0 or figures["teacher_pass"]["value"] == 0
    assert found["recommends"] in ("isft", "measure the student")


def test_a_teacher_that_cannot_be_used_is_needed_at_the_end_of_a_run(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=error(403)) as server:
        found = command.json(write_task(tmp_path, server, completions=True))
    assert found["recommends"] == "sft"
    assert found["reason"].startswith("24 demonstrations came with the data, and 100 % (24 of 24) of them pass")
    assert found["reason"].endswith("so the teacher has to work by then, though nothing is learned from it")
    assert "this key may not use this model" in found["findings"]["teacher_answers"]["why"]


def test_a_verifier_that_raises_is_found_before_anything_is_asked(tmp_path: Path, command: Command) -> None:
    raising = write_check(tmp_path, "raises_at_once", "return answer[0] == 'x'")
    with ScriptedServer(otherwise=chat(NO)) as server:
        done = command(write_task(tmp_path, server, verifier=raising))
        assert not server.seen
    assert done.code == 1
    assert done.said.startswith("error: the verifier `raises_at_once:judge` failed on prompt `p-")
    assert done.said.endswith("IndexError: string index out of range")


def test_a_verifier_that_raises_later_says_what_was_spent(tmp_path: Path, command: Command) -> None:
    raising = write_check(tmp_path, "raises_later", "return bool(1 / (len(answer) - 15))")  # that many in `NO`
    with ScriptedServer(otherwise=chat(NO)) as server:
        done = command(write_task(tmp_path, server, verifier=raising))
    assert done.code == 1
    assert f"stopped; spent so far: ${24 * A_CALL:.4f}; {GO_ON}" in done.err
    assert "ZeroDivisionError" in done.said


def test_a_verifier_that_changes_its_mind_is_to_be_fixed(tmp_path: Path, command: Command) -> None:
    fickle = write_check(tmp_path, "changes_its_mind", "return random.random() < 0.5")
    with ScriptedServer(otherwise=chat(NO)) as server:
        found = command.json(write_task(tmp_path, server, verifier=fickle))
    assert found["recommends"] == "fix the verifier"
    assert "the verifier contradicts itself: asked twice, it changes" in found["reason"]


def test_a_verifier_that_rejects_the_teacher_and_everything_else_is_to_be_fixed(
    tmp_path: Path, command: Command
) -> None:
    refusing = write_check(tmp_path, "rejects_everything", "return False, 'no'")
    with ScriptedServer(otherwise=chat(NO)) as server:
        found = command.json(write_task(tmp_path, server, verifier=refusing))
    assert found["recommends"] == "fix the verifier"
    assert "rejects everything: all 24 answers of the teacher, some of which should be right" in found["reason"]


def test_too_few_prompts(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        done = command(write_task(tmp_path / "one", server, prompts=1))
        assert done.code == 2
        assert "has too few prompts: one is needed to train on and one to validate on" in done.said
        found = command.json(write_task(tmp_path / "six", server, prompts=6))
    assert found["recommends"] == "data problem"
    assert found["reason"].startswith("there are 5 prompts to train on; collect first: prompts as your users write")


def test_a_replay_asks_nobody_and_a_miss_is_4(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(YES)) as server:
        config = write_task(tmp_path, server)
        bought = command.json(config)
    again = command.json(config, "--replay", tmp_path / "store.db")
    assert (again["recommends"], again["reason"]) == (bought["recommends"], bought["reason"])
    assert again["findings"]["spent_usd"] == 0
    missed = command(config, "--replay", tmp_path / "store.db", "--set", "teacher.max_tokens=77")
    assert missed.code == 4
    assert "max_tokens" in missed.err
    absent = command(config, "--replay", tmp_path / "none.db")
    assert (absent.code, "nothing to replay" in absent.said) == (2, True)


@pytest.mark.parametrize(
    ("verifier", "rows", "answer"),
    [
        ("math", [(f"What is {n} + {n}?", str(2 * n)) for n in range(12)], "The sum is \\boxed{4}."),
        (
            {"use": "python_tests", "sandbox": "rlimits"},
            [(f"A function f that adds {n}.", {"tests": f"assert f(1) == {n + 1}"}) for n in range(12)],
            "```python\ndef f(x):\n    return x + 2\n```",
        ),
    ],
)
def test_verifiers_that_run_something_are_probed_as_well(
    tmp_path: Path, command: Command, verifier: Any, rows: list[tuple[str, Any]], answer: str
) -> None:
    with ScriptedServer(otherwise=chat(answer)) as server:
        config = write_task(tmp_path, server)
        lines = [json.dumps({"prompt": prompt, "reference": reference}) for prompt, reference in rows]
        (tmp_path / "train.jsonl").write_text("\n".join(lines))
        spec = (
            json.dumps(verifier)
            if isinstance(verifier, str)
            else '{ use = "python_tests", sandbox = "rlimits", wall_s = 5 }'
        )
        config.write_text(config.read_text().replace('"fields"', spec))
        found = command.json(config, "--sample", "12")
    figures = found["findings"]
    assert figures["rejects_empty"]["value"] == 1.0
    assert figures["steady"]["value"] == 1.0
    assert figures["teacher_pass"]["n"] == 10
    assert found["verifier"]["trust"] != "broken"


def test_a_rubric_is_no_verifier_of_a_run(tmp_path: Path, command: Command) -> None:
    with ScriptedServer() as server:
        config = write_task(tmp_path, server, verifier="rubric:rubric.toml")
        (tmp_path / "rubric.toml").write_text('[[criteria]]\ntext = "Is short"\n')
        done = command(config)
        assert not server.seen
    assert done.code == 2
    assert done.said.startswith("error: the verifier `rubric` asks a hosted model, which no run does for every answer")


# Ctrl-C


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_while_the_teacher_is_asked(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(NO, delay_s=0.3)) as server:
        config = write_task(tmp_path, server, concurrency=2)

        def once_asked() -> None:
            while not server.seen:
                time.sleep(0.01)
            interrupt()

        threading.Thread(target=once_asked).start()
        done = command(config)
        bought = len(server.seen)
        assert done.code == 130
        assert done.said == f"stopped; spent so far: ${bought * A_CALL:.4f}; {GO_ON}"
        assert paid(tmp_path / "store.db") == (pytest.approx(bought * A_CALL), bought)
        server.otherwise = chat(NO)
        assert command(config).code == 0
        assert len(server.seen) == 24  # nothing was bought twice


@pytest.mark.parametrize(("which", "spent"), [("empty", 0), ("other", 24 * A_CALL)])
def test_ctrl_c_while_the_verifier_judges(tmp_path: Path, command: Command, which: str, spent: float) -> None:
    meant = "not answer" if which == "empty" else "answer"
    once = f"{meant} and not known and known.append(os.kill(os.getpid(), signal.SIGINT))"
    check = write_check(tmp_path, f"interrupted_at_{which}", f"{once}; return False")
    with ScriptedServer(otherwise=chat(NO)) as server:
        done = command(write_task(tmp_path, server, verifier=check))
    assert done.code == 130
    assert done.said == f"stopped; spent so far: ${spent:.4f}; {GO_ON}"


@pytest.mark.parametrize("at", ["loading the student", "student: 4 rollouts", "sampling the student"])
def test_a_stop_while_the_student_is_measured_says_what_was_spent(
    tmp_path: Path, key: None, hopeless: Path, at: str
) -> None:
    stop = threading.Event()

    def stop_there(event: Any) -> None:
        if (getattr(event, "text", "") or getattr(event, "what", "")).startswith(at):
            stop.set()

    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server, student=hopeless)
        with pytest.raises(RunStopped, match=GO_ON) as stopped:
            bbdistill.advise(config, on_event=stop_there, stop=stop)
        assert f"spent so far: ${len(server.seen) * A_CALL:.4f}" in str(stopped.value)
        assert len(server.seen) == (0 if at.startswith("loading") else 24)


def test_a_stop_keeps_what_was_bought(tmp_path: Path, key: None) -> None:
    stop = threading.Event()

    def stop_at_the_second(event: Any) -> None:
        if event.done >= 2:
            stop.set()

    with ScriptedServer(otherwise=chat(NO, delay_s=0.1)) as server:
        config = load_config(write_task(tmp_path, server), ("teacher.concurrency=2",))
        prompts = load_task(config).train
        first = ask(config, prompts, mode="auto", replay=None, on_event=stop_at_the_second, stop=stop)
        bought = len(server.seen)
        assert 0 < len(first.usable) <= bought < 24
        assert first.spent_usd == pytest.approx(bought * A_CALL)
        server.otherwise = chat(NO)
        again = ask(config, prompts, mode="auto", replay=None, on_event=lambda _: None, stop=threading.Event())
        assert len(server.seen) == 24
    assert len(again.usable) == 24
