"""Constructed tasks, advised from the command line: the right recommendation for the right reason, under its cap."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from advise_task import A_CALL, NO, PROSE, YES, Command, paid, write_check, write_task
from scripted_server import ScriptedServer, chat, error
from student_fixtures import saying_student

import bbdistill
from bbdistill.config import Recipe
from bbdistill.configfile import dump_config, load_config
from bbdistill.estimate import estimate

CAP = 0.02
"""Dollars. A call costs 0.0002, and may cost 0.0113: 1,000 + 88 tokens in, 1,024 out."""


def test_good_demonstrations_are_imitated(tmp_path: Path, command: Command, undecided: Path) -> None:
    with ScriptedServer(otherwise=chat(PROSE)) as server:
        config = write_task(tmp_path, server, student=undecided, completions=True)
        found = command.json(config, "--max-usd", str(CAP), "--write", tmp_path / "next" / "task.toml")
        assert paid(tmp_path / "store.db") == (pytest.approx(24 * A_CALL), len(server.seen))
        assert len(server.seen) == 24
    assert 24 * A_CALL <= CAP
    assert found["recommends"] == "sft"
    assert found["reason"] == (
        "24 demonstrations came with the data, and 100 % (24 of 24) of them pass; imitating them tells the student "
        "about every token, a reward at most one bit per answer"
    )
    assert found["verifier"] == {
        "trust": "trusted",
        "why": "the verifier rejects 96 of 96 empty, misplaced or damaged answers, and accepts 24 of 24 given "
        "demonstrations and 0 of 24 answers of the teacher",
    }
    figures = found["findings"]
    assert figures["given_pass"] == {"value": 1.0, "n": 24}
    assert figures["teacher_pass"] == {"value": 0.0, "n": 24}
    assert figures["answer_tokens"] == {"value": 2.0, "n": 24}  # a text is one token, and its end another
    # What the student says by itself it finds as likely as it says it: -ln 0.3, and nothing for the end of the turn.
    assert figures["nll"]["value"] == pytest.approx(1.204 / 2, abs=0.01)
    others = [name for name in get_args(Recipe) if name not in ("sft", "isft")]
    assert [cost["recipe"] for cost in figures["costs"]] == ["sft", "isft", *others]
    assert all(cost["hours"] > 0 and cost["usd"] for cost in figures["costs"])
    written, before = (dump_config(load_config(file)) for file in (tmp_path / "next" / "task.toml", config))
    assert written == before
    assert "# 24 demonstrations came with the data" in (tmp_path / "next" / "task.toml").read_text()


def test_a_student_that_passes_sometimes_is_selected_from(tmp_path: Path, command: Command, undecided: Path) -> None:
    with ScriptedServer(otherwise=chat(PROSE)) as server:
        config = write_task(tmp_path, server, student=undecided)
        found = command.json(config, "--max-usd", str(CAP), "--write", tmp_path / "next.toml")
        assert len(server.seen) == 24
        again = command.json(config)
        assert len(server.seen) == 24
    assert paid(tmp_path / "store.db") == (pytest.approx(24 * A_CALL), 24)
    assert found["recommends"] == "best_of_n"
    assert found["runner_up"]["recipe"] == "grpo"
    figures = found["findings"]
    assert figures["pass_at_1"]["n"] == figures["bits"]["n"] == 24
    assert figures["pass_at_1"]["value"] == pytest.approx(0.3, abs=0.1)
    assert figures["pass_at_k"]["value"] == pytest.approx(1 - 0.7**4, abs=0.2)
    # Four rollouts see 0.66 of the 0.88 bits that there are: the mean of H(c/4) over c ~ Bin(4, 0.3).
    bits, share = figures["bits"]["value"], figures["pass_at_1"]["value"]
    assert bits == pytest.approx(0.66, abs=0.15)
    assert found["reason"] == (
        f"the teacher passes 0 % (0 of 24), but the student passes {100 * share:.0f} % (over 24 prompts); imitating "
        f"those of its own answers that pass uses {figures['pass_bits']['value']:.2f} of the {bits:.2f} bits that a "
        "verdict on a rollout carries"
    )
    assert found["findings"]["spent_usd"] == pytest.approx(24 * A_CALL)
    assert again["findings"]["spent_usd"] == 0
    timed = ("sample_s", "train_s", "costs", "spent_usd")
    assert {k: v for k, v in again["findings"].items() if k not in timed} == {
        k: v for k, v in figures.items() if k not in timed
    }
    # What was bought is what a run would ask for, and a replay needs no server.
    line = next(line for line in estimate(config).lines if line.purpose == "demonstrations")
    assert line.cached == line.calls[0] == 24
    assert command.json(config, "--replay", tmp_path / "store.db")["reason"] == found["reason"]
    assert load_config(tmp_path / "next.toml").feedback.candidates_from == "student"


def test_a_student_that_never_passes_is_corrected(tmp_path: Path, command: Command, hopeless: Path) -> None:
    with ScriptedServer(otherwise=chat(YES)) as server:  # right for every third prompt
        config = write_task(tmp_path, server, student=hopeless)
        found = command.json(config, "--max-usd", str(CAP))
        assert paid(tmp_path / "store.db") == (pytest.approx(24 * A_CALL), len(server.seen))
    figures = found["findings"]
    assert found["recommends"] == "isft"
    assert (figures["pass_at_1"]["value"], figures["bits"]["value"]) == (0.0, 0.0)
    assert figures["zero_variance"]["value"] == 1.0
    right = round(24 * figures["teacher_pass"]["value"])
    assert 5 <= right <= 12
    assert found["reason"] == (
        f"the teacher passes {100 * right / 24:.0f} % ({right} of 24): too few to imitate as they come, enough to "
        "correct; the student passes 0 % (over 24 prompts), where a reward carries 0.00 bits per rollout; drafts are "
        "corrected by the verifier's feedback until they pass, and the corrections imitated"
    )


def test_a_teacher_in_this_process_answers_and_its_distributions_are_followed(
    tmp_path: Path, command: Command, undecided: Path
) -> None:
    teacher = saying_student(tmp_path / "teacher", {NO: 1.0})  # right for two prompts of three
    with ScriptedServer() as server:
        config = write_task(tmp_path, server, student=undecided, model=f"local:{teacher}")
        text = config.read_text().splitlines()
        config.write_text("\n".join(line for line in text if not line.startswith(("base_url", "id ="))))
        found = command.json(config, "--max-usd", "0", "--write", tmp_path / "next.toml")
        assert command.json(config, "--replay", tmp_path / "store.db")["reason"] == found["reason"]
        assert not server.seen
    assert (found["recommends"], found["runner_up"]["recipe"]) == ("kd", "opd")
    assert found["reason"].startswith("the teacher's answers pass 71 % (17 of 24); the teacher gives log-probs: of")
    figures = found["findings"]
    assert (figures["gives_log_probs"], figures["spent_usd"]) == (True, 0)
    costs = {cost["recipe"]: cost for cost in figures["costs"]}
    assert costs["kd"]["usd"] == costs["opd"]["usd"] == [0, 0]
    assert costs["opd"]["hours"] > costs["kd"]["hours"] > 0
    assert load_config(tmp_path / "next.toml").recipe == "kd"


def test_what_is_cut_off_does_not_pass(tmp_path: Path, command: Command, undecided: Path) -> None:
    with ScriptedServer(otherwise=chat(YES)) as server:
        config = write_task(tmp_path, server, student=undecided)
        found = command.json(config, "--set", "student.max_new_tokens=1")  # the text, and no end of turn
    figures = found["findings"]
    assert (figures["cut"], figures["pass_at_1"]) == ({"value": 1.0, "n": 96}, {"value": 0.0, "n": 24})
    assert "100 % (96 of 96) of the rollouts are cut at `student.max_new_tokens`" in found["changes"][-1]


def test_a_student_and_a_teacher_that_never_pass_leave_the_reward_silent(
    tmp_path: Path, command: Command, hopeless: Path
) -> None:
    with ScriptedServer(otherwise=chat(PROSE)) as server:
        found = command.json(write_task(tmp_path, server, student=hopeless))
    assert found["recommends"] == "isft"
    assert "the student passes 0 % (over 24 prompts), where a reward carries 0.00 bits per rollout" in found["reason"]


def test_a_verifier_that_accepts_everything_is_to_be_fixed(tmp_path: Path, command: Command) -> None:
    accepting = write_check(tmp_path, "accepts_everything", "return True")
    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server, verifier=accepting, completions=True)
        done = command(config, "--max-usd", str(CAP), "--write", tmp_path / "next.toml")
        assert paid(tmp_path / "store.db") == (pytest.approx(24 * A_CALL), len(server.seen))
    assert done.code == 0
    assert " ".join(done.out.split()).startswith(
        "recommended: fix the verifier the verifier accepts everything: it passes 24 of 24 empty answers, 24 of 24 "
        "answers to another prompt, 24 of 24 shuffled answers, 24 of 24 cut answers; filtering by it"
    )
    assert "a whole run would take" not in done.out
    assert "next.toml` is not written: there is something to do before any recipe" in done.said
    assert not (tmp_path / "next.toml").exists()


def test_nothing_to_learn_from_is_a_problem_of_the_data(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=error(401)) as server:
        config = write_task(tmp_path, server, verifier=None)
        done = command(config, "--max-usd", str(CAP), "--write", tmp_path / "next.toml")
        assert len(server.seen) < 24  # a refused key is not tried over and over
    assert paid(tmp_path / "store.db")[0] == 0
    assert done.code == 0
    assert " ".join(done.out.split()).startswith(
        "recommended: data problem no demonstrations came with the data, the teacher cannot be used (teacher "
        "`openai:rules` answered HTTP 401: the key is wrong or missing; check `api_key_env`), and there is no "
        "verifier; collect first: 20 to 50 answers that you would sign, as `completion`, or `reference` values and a "
        "verifier that compares with them"
    )
    assert max(map(len, done.out.splitlines())) <= 79
    assert not (tmp_path / "next.toml").exists()


def test_a_teacher_that_declines_does_not_answer(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat("I'm sorry, but I can't help with that.")) as server:
        found = command.json(write_task(tmp_path, server, verifier=None))
    assert found["findings"]["teacher_answers"] == {"value": 0.0, "n": 24}
    assert found["recommends"] == "data problem"
    assert "the teacher gives a usable reply to 0 % (0 of 24) prompts" in found["reason"]


def test_without_torch_the_rest_still_works(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from bbdistill.cli import main; main()"
    with ScriptedServer(otherwise=chat(NO)) as server:
        config = write_task(tmp_path, server, student=tmp_path / "never-loaded")
        done = subprocess.run(
            [sys.executable, "-c", code, "advise", str(config), "--json"],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OPENAI_API_KEY": "any"},
        )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    found = said["findings"]
    assert found["teacher_pass"]["n"] == 24
    assert found["rejects_other"]["value"] == 1.0
    assert found["pass_at_1"]["value"] is None
    assert found["pass_at_1"]["why"] == "torch not installed: `pip install 'bbdistill[train]'`"
    assert said["recommends"] == "sft"  # no is right for 17 of 24
    assert all(cost["usd"] and cost["hours"] is None for cost in found["costs"])


def test_a_teacher_in_this_process_needs_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from bbdistill.cli import main; main()"
    with ScriptedServer() as server:
        config = write_task(tmp_path, server, model="local:anywhere")
    asked = [sys.executable, "-c", code, "advise", str(config)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: the teacher `local:anywhere` is a model in this process; torch not installed: `pip install "
        "'bbdistill[train]'`"
    )


def test_what_is_written_is_the_same_task_with_the_recipe_advised(tmp_path: Path, key: None) -> None:
    with ScriptedServer(otherwise=chat(YES)) as server:
        config = write_task(tmp_path, server)
        out = tmp_path / "written.toml"
        advice = bbdistill.advise(config, write=out, overrides=("teacher.max_usd_by={evaluation=2.5}",))
    assert advice.recommends == "isft"
    written, before = load_config(out), load_config(config)
    assert (written.recipe, written.teacher.max_usd_by.evaluation) == (advice.recommends, 2.5)
    assert (written.task, written.teacher.cache) == (before.task, before.teacher.cache)
    assert written.train.prompts_per_step == before.train.prompts_per_step == 4
    assert 'prompts = "train.jsonl"' in out.read_text()
    assert "bbdistill run written.toml --dry-run" in out.read_text()


def test_a_config_without_a_student_is_advised_and_priced_as_with_one(tmp_path: Path, command: Command) -> None:
    with ScriptedServer(otherwise=chat(NO)) as server:
        found = command.json(write_task(tmp_path, server))
    assert found["findings"]["bits"]["why"] == "the config has no `[student]` table"
    prices = {cost["recipe"]: cost["usd"] for cost in found["findings"]["costs"]}
    # Corrections are dearer than the teacher's six answers at the end, and candidates than demonstrations.
    assert prices["rgt"][1] > prices["isft"][1] > prices["best_of_n"][1] > prices["sft"][1] > 0
