"""When each monitor tells, and that a healthy run is left alone; the measures of rollouts."""

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bbdistill.console import watching
from bbdistill.errors import Collapse, RunError
from bbdistill.measures import (
    leak,
    leak_metrics,
    length_ratio,
    repetition,
    rollout_metrics,
    rubric_metrics,
    runs,
    verdict_metrics,
)
from bbdistill.metrics import Alarm
from bbdistill.monitors import BACK, Monitors, collapsed
from bbdistill.types import Abstain, Author, Criterion, MarkedAnswer, MarkedGroup, Prompt, Rollout, StopReason, Verdict
from bbdistill.watched import MONITORS

Told = list[tuple[int, str, str]]


def watch(series: Iterable[Mapping[str, float]], monitors: Monitors | None = None, *, first: int = 1) -> Told:
    """Step, monitor and level of every alarm; steps count from `first`."""
    monitors = monitors or Monitors()
    return [
        (step, alarm.monitor, alarm.level)
        for step, metrics in enumerate(series, start=first)
        for alarm in monitors.look(step, metrics)
    ]


def after_ten(key: str, healthy: float, then: float, steps: int = 30) -> list[dict[str, float]]:
    return [{key: healthy}] * 10 + [{key: then}] * steps


ROWS = [
    # monitor, metric, healthy value, a bad one, the step that warns; a worse one, the steps that warn and stop
    ("low_entropy", "rollout/entropy", 0.4, 0.1, 14, 0.01, (13, 16)),
    ("high_entropy", "rollout/entropy", 0.4, 0.75, 21, 1.5, (14, 15)),
    ("kl", "policy/kl", 0.3, 1.0, 13, 3.0, (12, 13)),
    ("mismatch", "policy/mismatch", 0.03, 0.12, 11, 0.4, (None, 11)),
    ("cut_weights", "policy/tis_clip_fraction", 0.001, 0.02, 12, 0.2, (None, 12)),
    ("weak_discriminator", "discriminator/accuracy", 0.75, 0.55, 16, 0.1, (13, 20)),
    ("strong_discriminator", "discriminator/accuracy", 0.75, 0.92, 16, 1.0, (15, 31)),
    ("longer_than_teacher", "rollout/length_ratio", 1.0, 1.4, 16, 3.0, (12, 15)),
    ("shorter_than_teacher", "rollout/length_ratio", 1.0, 0.7, 16, 0.2, (13, 16)),
    ("longer", "rollout/length", 200, 350, 16, 600, (13, 15)),
    ("shorter", "rollout/length", 200, 120, 19, 40, (14, 16)),
    ("tripwire", "tripwire/gap", -0.5, -2.0, 16, -5.0, (13, 16)),
    ("worse", "rollout/score", 0.7, 0.4, 21, 0.0, (14, 16)),
    ("forgetting", "demonstrations/nll", 0.1, 0.14, 11, 0.8, (11, 13)),
    ("equal_rewards", "reward/frac_zero_std", 0.125, 0.625, 13, 1.0, (None, 13)),
    ("repetition", "rollout/repetition", 0.06, 0.2, 15, 0.6, (12, 14)),
    ("truncation", "rollout/truncated", 0.05, 0.4, 13, 0.9, (None, 13)),
    ("leak", "coach/leak", 0.02, 0.15, 14, 0.6, (12, 13)),
    ("unaligned", "distill/unaligned", 0.0, 0.5, 13, 1.0, (12, 17)),
    ("abstentions", "teacher/abstain_rate", 0.04, 0.3, 14, 1.0, (12, None)),
    ("order_flips", "teacher/order_flip_rate", 0.2, 0.75, 17, 1.0, (15, None)),
    ("staleness", "policy/staleness", 1, 5, 11, 20, (None, 11)),
    ("spend", "teacher/spent_share", 0.5, 0.85, 11, 1.0, (11, None)),
]


def test_every_monitor_is_driven_here():
    assert [row[0] for row in ROWS] == [monitor.name for monitor in MONITORS]


def test_the_readme_names_every_metric_that_is_watched():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert all(f"| `{monitor.key}`" in readme for monitor in MONITORS)


@pytest.mark.parametrize(
    ("name", "key", "healthy", "bad", "warns", "worse", "then"), ROWS, ids=[row[0] for row in ROWS]
)
def test_over_warn_and_over_stop(
    name: str, key: str, healthy: float, bad: float, warns: int, worse: float, then: tuple[int | None, int | None]
):
    assert watch(after_ten(key, healthy, bad)) == [(warns, name, "warn")]
    levels = zip(then, ("warn", "stop"), strict=True)
    assert watch(after_ten(key, healthy, worse)) == [(step, name, level) for step, level in levels if step]


def test_what_a_warning_says():
    monitors = Monitors()
    watch(after_ten("rollout/entropy", 0.4, 0.1), monitors)
    assert monitors.alarms == [
        {
            "step": 14,
            "monitor": "low_entropy",
            "level": "warn",
            "text": "the student's entropy fell to 0.159 nats per token from 0.400 at the start (limit 0.200), so that "
            "it tries little new and can gain little more; lower `train.policy_learning_rate`, or `train.sft_weight` "
            "where corrections are imitated too",
        }
    ]


def test_a_value_that_wavers_about_a_level_is_told_once():
    assert watch({"policy/mismatch": value} for value in (0.12, 0.08) * 20) == [(1, "mismatch", "warn")]


def test_it_tells_again_after_it_has_come_back():
    series = [0.12, *[0.03] * BACK, 0.12, 0.4, 0.12, 0.4, *[0.03] * BACK, 0.4]
    told = watch({"policy/mismatch": value} for value in series)
    assert told == [(1, "mismatch", "warn"), (7, "mismatch", "warn"), (8, "mismatch", "stop"), (16, "mismatch", "stop")]


def test_one_bad_step_among_good_ones_is_noise():
    spikes = {"rollout/entropy": 1.2, "rollout/truncated": 0.9, "discriminator/accuracy": 0.4}
    calm = {"rollout/entropy": 0.4, "rollout/truncated": 0.05, "discriminator/accuracy": 0.75}
    assert watch([calm] * 10 + [spikes] + [calm] * 10) == []


def test_a_student_that_starts_near_zero_entropy_may_treble_it():
    healthy = (0.0746, 0.1136, 0.0750, 0.1262, 0.2395, 0.21, 0.24, 0.22)
    assert watch({"rollout/entropy": value} for value in healthy) == []


def test_a_warmed_up_student_starts_away_from_the_base():
    assert watch(after_ten("policy/kl", 1.0, 1.8)) == []
    assert watch(after_ten("policy/kl", -0.01, 0.15)) == []  # an estimate around 0 may be negative
    assert watch(after_ten("policy/kl", -0.01, 0.8)) == [(12, "kl", "warn")]


def test_the_teachers_length_is_asked_before_the_students_own():
    both = {"rollout/length": 200.0, "rollout/length_ratio": 1.0}
    longer = {"rollout/length": 600.0, "rollout/length_ratio": 1.0}
    assert watch([both] * 10 + [longer] * 30) == []


def test_steps_without_rewards_are_not_held_to_the_start():
    monitors = Monitors()
    gathering = {"reward/frac_zero_std": 1.0, "rollout/truncated": 0.9, "teacher/abstain_rate": 0.4}
    told = [alarm.monitor for step in range(10) for alarm in monitors.look(step, gathering, rewarded=False)]
    assert told == ["abstentions"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_a_collapse(value: float):
    monitors = Monitors()
    (alarm,) = monitors.look(1, {"sft/loss": value, "optim/tokens": 9.0}, rewarded=False)
    assert (alarm.monitor, alarm.level) == ("not_finite", "stop")
    assert alarm.text.startswith(f"`sft/loss` is {value}, where a finite number was expected")
    assert monitors.look(2, {"sft/loss": value}) == []
    (more,) = monitors.look(3, {"sft/loss": value, "policy/kl": value})
    assert more.text.startswith(f"`policy/kl` is {value}, where")
    assert monitors.look(4, {"sft/loss": 0.3}) == []
    assert len(monitors.look(5, {"sft/loss": value})) == 1


def test_a_value_that_is_not_finite_leaves_the_start_as_it_was():
    calm = after_ten("rollout/entropy", 0.4, 0.4, 0)
    torn = [*calm[:3], {"rollout/entropy": math.nan}, *calm[3:]]
    told = watch([*torn, *[{"rollout/entropy": 0.1}] * 10])
    assert told == [(4, "not_finite", "stop"), (15, "low_entropy", "warn")]


def healthy(seed: int) -> list[dict[str, float]]:
    """200 steps of 8 prompts, 4 rollouts each, 40 pairs and 8 comparisons, with the noise that such counts have."""
    draw = random.Random(seed)

    def share(count: int, rate: float) -> float:
        return sum(draw.random() < rate for _ in range(count)) / count

    def step(number: int) -> dict[str, float]:
        lengths = {"rollout/length": 200 * draw.lognormvariate(0, 0.15)}
        if seed % 2:
            lengths["rollout/length_ratio"] = draw.lognormvariate(0, 0.12)
        return lengths | {
            "rollout/entropy": 0.4 * draw.lognormvariate(0, 0.25),
            "policy/kl": draw.gauss(0.3 + number * 0.0005, 0.06),
            "policy/mismatch": abs(draw.gauss(0.03, 0.01)),
            "policy/tis_clip_fraction": share(500, 0.001),
            "policy/staleness": float(draw.randint(0, 2)),
            "discriminator/accuracy": share(40, 0.75),
            "tripwire/gap": draw.gauss(-0.5, 0.25),
            "reward/frac_zero_std": share(8, 0.12),
            "demonstrations/nll": draw.gauss(0.1 + number * 0.00005, 0.002),
            "rollout/score": draw.gauss(0.7, 0.11),
            "rollout/repetition": max(0.0, draw.gauss(0.06, 0.02)),
            "rollout/truncated": share(32, 0.05),
            "coach/leak": max(0.0, draw.gauss(0.02 + number * 0.0001, 0.005)),
            "distill/unaligned": 0.0,
            "teacher/abstain_rate": share(24, 0.04),
            "teacher/order_flip_rate": share(8, 0.2),
            "teacher/spent_share": 0.0035 * number,
        }

    return [step(number) for number in range(200)]


@pytest.mark.parametrize("seed", range(10))
def test_a_healthy_run_is_silent(seed: int):
    series = healthy(seed)
    assert {monitor.key for monitor in MONITORS} - {"rollout/length_ratio"} <= set(series[0])
    assert watch(series) == []


@pytest.mark.parametrize("cut", [3, 12, 14, 19, 33])
def test_the_state_survives_json_in_the_middle(cut: int):
    bad = {key: worse for _, key, _, _, _, worse, _ in ROWS} | {"sft/loss": math.nan}
    series: list[dict[str, float]] = [*healthy(1)[:10], *[bad] * 10, *healthy(1)[10:20], *[bad] * 10]
    whole = Monitors()
    told = watch(series, whole)
    assert len(told) > 20

    before = Monitors()
    first = watch(series[:cut], before)
    after = Monitors.restored(json.loads(json.dumps(asdict(before), allow_nan=False)))
    assert first + watch(series[cut:], after, first=cut + 1) == told
    assert after == whole


def test_the_sentence_of_a_collapse():
    alarm = Alarm(monitor="kl", level="stop", text="too far; go slower")
    said = collapsed(alarm, step=31, best="step 20, 0.741", go_on="bbdistill run task.toml")
    assert said == (
        "collapse at step 31 (`kl`): too far; go slower; the adapter of the best validation (step 20, 0.741) is kept; "
        "go on from there with: bbdistill run task.toml"
    )
    said = collapsed(alarm, step=3, best="", go_on="bbdistill run task.toml")
    assert said.endswith("; nothing was validated yet; begin again with: bbdistill run task.toml")
    assert issubclass(Collapse, RunError)
    assert Collapse.exit_code == 1


def test_an_alarm_is_a_plain_line(capsys: pytest.CaptureFixture[str]):
    with watching() as on_event:
        on_event(Alarm(monitor="kl", level="warn", text="0.79 nats [limit 0.60]"))
        on_event(Alarm(monitor="kl", level="stop", text="2.20 nats [limit 1.50]"))
    assert capsys.readouterr().err == "warning: 0.79 nats [limit 0.60]\ncollapse: 2.20 nats [limit 1.50]\n"


@pytest.mark.parametrize(("level", "colour", "says"), [("warn", 33, "warning"), ("stop", 31, "collapse")])
def test_an_alarm_has_a_colour_on_a_terminal(
    level: str, colour: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with watching() as on_event:
        on_event(Alarm(monitor="kl", level=level, text="0.79 nats [limit]"))  # pyright: ignore[reportArgumentType]
    assert f"\x1b[{colour}m{says}: 0.79 nats [limit]\x1b[0m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token_ids", "share"),
    [
        ((), 0.0),
        ((1, 2, 3), 0.0),
        ((1, 2, 3, 4), 0.0),
        (tuple(range(50)), 0.0),
        ((7,) * 8, 0.8),  # five runs, one of them new
        ((1, 2, 3, 4) * 2, 0.2),  # 1234 2341 3412 4123, and 1234 again
    ],
)
def test_repetition(token_ids: tuple[int, ...], share: float):
    assert repetition(token_ids) == pytest.approx(share)


@pytest.fixture
def rollouts() -> Callable[..., list[Rollout]]:
    def made(name: str, *lengths: int, stop_reason: StopReason = "stop") -> list[Rollout]:
        prompt = Prompt(id=name, messages=({"role": "user", "content": name},))
        return [
            Rollout(
                prompt=prompt,
                sample=sample,
                completion="",
                token_ids=tuple(range(length)),
                logprobs=(-0.5,) * length,
                policy_version=0,
                stop_reason=stop_reason,
            )
            for sample, length in enumerate(lengths)
        ]

    return made


def test_the_length_is_held_against_answers_to_the_same_prompts(rollouts: Callable[..., list[Rollout]]):
    given = [rollouts("a", 10, 30), rollouts("b", 400, 400)]
    assert length_ratio(given, {"a": 10}) == pytest.approx(2.0)
    assert length_ratio(given, {"a": 10, "b": 400}) == pytest.approx(840 / 820)
    assert length_ratio(given, {}) is None
    assert length_ratio([], {"a": 10}) is None


def test_the_metrics_of_a_steps_rollouts(rollouts: Callable[..., list[Rollout]]):
    given = [rollouts("a", 10, 30), rollouts("b", 40, 40, stop_reason="length")]
    assert rollout_metrics(given * 4, {})["rollout/entropy"] == 0.5
    assert rollout_metrics(given, {"a": 10}) == {
        "rollout/length": 30.0,
        "rollout/length_ratio": 2.0,
        "rollout/repetition": 0.0,
        "rollout/truncated": 0.5,
    }
    assert "rollout/length_ratio" not in rollout_metrics(given, {})
    assert rollout_metrics([], {"a": 10}) == {}


ADVICE = "Look at the date first, and decide the year by the month that is named last."


def asking(text: str) -> Prompt:
    return Prompt(id="a", messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": text}))


@pytest.mark.parametrize(
    ("completion", "question", "share"),
    [
        (ADVICE, "When was it?", 1.0),
        ("It was in 1987; I decide the YEAR by, the month", "When was it?", 3 / 8),  # of eight runs; case is no matter
        ("It was in 1987, as the letter of his wife says.", "When was it?", 0.0),
        ("Look at the date first", "Look at the date first, then answer: when was it?", 0.0),  # its prompt says so too
        ("in 1987", "When was it?", 0.0),  # no run of four words
        ("", "When was it?", 0.0),
    ],
)
def test_a_student_that_quotes_advice_it_never_saw_is_found_and_one_that_follows_it_is_not(
    completion: str, question: str, share: float
):
    assert leak(completion, set(runs(ADVICE)), asking(question)) == pytest.approx(share)


def test_a_leak_is_measured_against_all_advice_given_before_and_told(rollouts: Callable[..., list[Rollout]]):
    says = {"quotes": [ADVICE, "1987"], "innocent": ["1987, says the letter of his wife", "1988"]}
    told: dict[str, Told] = {}
    for name, texts in says.items():
        group = [replace(rollout, completion=text) for rollout, text in zip(rollouts("a", 9, 9), texts, strict=True)]
        found = leak_metrics([group], {*runs("Read every line of it twice."), *runs(ADVICE)})
        assert found == {"coach/leak": 0.5 if name == "quotes" else 0.0}
        told[name] = watch([{"coach/leak": 0.0}] * 5 + [found] * 10)
    assert told == {"quotes": [(7, "leak", "warn"), (8, "leak", "stop")], "innocent": []}
    assert leak_metrics([rollouts("a", 9)], set()) == {}
    assert leak_metrics([], set(runs(ADVICE))) == {}


def test_the_scores_of_teacher_and_student_are_means_of_what_could_be_read():
    def marked(author: Author, *scores: float | None) -> list[MarkedAnswer]:
        return [MarkedAnswer(author=author, text=str(n), score=score) for n, score in enumerate(scores)]

    def group(criteria: int, *answers: MarkedAnswer) -> MarkedGroup:
        rubric = tuple(Criterion(text=str(n), points=1) for n in range(criteria))
        return MarkedGroup(prompt=asking("When?"), criteria=rubric, answers=answers)

    first = group(4, *marked("teacher", 1.0, 0.5), *marked("student", 0.0, 0.5))
    second = group(7, *marked("teacher", None), *marked("student", 1.0))
    assert rubric_metrics([first, second]) == {
        "rubric/criteria": 5.5,
        "rubric/teacher_score": 0.75,
        "rubric/student_score": 0.5,
    }
    assert rubric_metrics([group(4, *marked("student", None))]) == {"rubric/criteria": 4.0}
    assert rubric_metrics([]) == {}


def test_what_the_verifier_says_of_the_rollouts():
    def verdict(score: float) -> Verdict:
        return Verdict(score=score, passed=score == 1.0, feedback="")

    said = [[verdict(1.0), verdict(0.5)], [Abstain(reason="no reference"), verdict(0.0)]]
    assert verdict_metrics(said) == {"rollout/score": 0.5, "rollout/passed": pytest.approx(1 / 3)}
    assert verdict_metrics([[Abstain(reason="no reference")]]) == {}
