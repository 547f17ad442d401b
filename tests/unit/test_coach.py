"""Advice on what failed: whom it is asked about, how the student is told, and which tokens its reward is then for."""

import asyncio
import copy
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from scripted_server import ScriptedServer, chat, error
from student_examples import disturb, plain_logprobs, policy_examples, sft_examples
from student_fixtures import prompts, tiny_config
from torch import Tensor

from bbdistill.config.training import CoachConfig, PolicyConfig
from bbdistill.credit import ByAdvice, weights
from bbdistill.objectives import choose_coached, distinct
from bbdistill.rewards import Rewards
from bbdistill.student.coached import FOLLOWED
from bbdistill.student.open import open_student
from bbdistill.student.student import Student
from bbdistill.student.tokenize import advised
from bbdistill.student.tree import Row
from bbdistill.teacher.ask import Feedback
from bbdistill.teacher.teacher import Teacher
from bbdistill.types import Abstain, Coaching, PolicyExample, Prompt, Rollout, StopReason, Verdict

ADVICE = "Copy the number that the user names."
NOTHING = Abstain(reason="no verifier")


def rollout(name: str, text: str, *, tokens: int = 1, stop_reason: StopReason = "stop") -> Rollout:
    return Rollout(
        prompt=Prompt(id=name, messages=({"role": "user", "content": name},)),
        sample=0,
        completion=text,
        token_ids=(1,) * tokens,
        logprobs=(-0.5,) * tokens,
        policy_version=0,
        stop_reason=stop_reason,
    )


def verdict(score: float) -> Verdict:
    return Verdict(score=score, passed=score == 1.0, feedback="wrong")


# The teacher


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"mistake": "17 became 71", "advice": "Read numbers\\ndigit by digit."}', "Read numbers digit by digit."),
        ("Read numbers digit by digit.", "Read numbers digit by digit."),
        ('{"mistake": "17 became 71"}', None),
        ('{"mistake": "", "advice": " "}', None),
        ('{"advice": ["one", "two"]}', None),
        ("", None),
    ],
)
def test_advice_is_one_line_and_asked_for_with_the_verifiers_words(said: str, found: str | None, tmp_path: Path):
    async def work(url: str) -> tuple[Any, Teacher]:
        async with Teacher("openai:m", base_url=url, cache=tmp_path / "t.db") as teacher:
            return await teacher.coach("number 17", '{"number": 71}', "`number` is wrong"), teacher

    with ScriptedServer(otherwise=chat(said) if said else error(400)) as server:
        advice, teacher = asyncio.run(work(f"{server.url}/v1"))
    sent = json.loads(server.seen[0].body)["messages"]
    assert all(text in sent[1]["content"] for text in ("number 17", '{"number": 71}', "`number` is wrong"))
    assert "repeat no value" in sent[0]["content"]
    if found is None:
        assert isinstance(advice, Abstain)
        assert teacher.ledger.lines["coaching"].abstained == 1
    else:
        assert advice == found


# Whom it is asked about


def test_the_worst_of_each_prompt_before_a_second_of_any_and_what_nothing_judges_last():
    rollouts = [[rollout(name, f"{name}{n}") for n in range(4)] for name in "abc"]
    verdicts = [
        [verdict(1.0), verdict(0.0), verdict(0.0), verdict(0.5)],
        [verdict(0.0), verdict(1.0), verdict(0.0), verdict(0.0)],
        [NOTHING] * 4,
    ]
    assert choose_coached(rollouts, verdicts, 6, level=True) == [(0, 1), (1, 0), (0, 2), (1, 2), (1, 3), (0, 3)]
    assert choose_coached(rollouts, verdicts, 99, level=True)[6:] == [(2, 0), (2, 1), (2, 2), (2, 3)]
    assert choose_coached(rollouts, verdicts, 0, level=True) == []


def test_a_prompt_whose_first_rollouts_passed_is_asked_about_as_early_as_the_others():
    rollouts = [[rollout(name, text) for text in "wxyz"] for name in "ab"]
    good, bad = verdict(1.0), verdict(0.0)
    verdicts = [[good, good, bad, bad], [bad, bad, good, good]]
    assert choose_coached(rollouts, verdicts, 4, level=False) == [(0, 2), (1, 0), (0, 3), (1, 1)]


def test_what_teaches_nothing_is_not_asked_about():
    rollouts = [
        [rollout("a", "x"), rollout("a", "y")],  # the verifier cannot tell them apart: no advantage
        [rollout("b", "x"), rollout("b", "y", stop_reason="length"), rollout("b", "x"), rollout("b", "z")],
    ]
    verdicts = [[verdict(0.0)] * 2, [verdict(0.0), verdict(0.0), verdict(0.0), verdict(1.0)]]
    assert choose_coached(rollouts, verdicts, 9, level=False) == [(1, 0)]
    assert choose_coached(rollouts, verdicts, 9, level=True) == [(0, 0), (1, 0), (0, 1)]


def test_a_group_of_one_text_has_no_difference():
    groups = [[rollout("a", "x"), rollout("a", "x")], [rollout("b", "x"), rollout("b", "y")]]
    assert [distinct(group) for group in groups] == [False, True]
    assert choose_coached(groups, [[NOTHING] * 2] * 2, 9, level=True) == [(1, 0), (1, 1)]


# Which tokens a reward is for


def test_weights_by_hand():
    assert weights(2.0, (0.0, math.log(2), -math.log(2))) == pytest.approx((1.0, 2.0, 0.5))
    assert weights(-0.1, (0.0, math.log(2), -math.log(2))) == pytest.approx((1.0, 0.5, 2.0))
    assert math.isfinite(weights(1.0, (900.0,))[0])


def test_the_direction_is_the_rewards_and_the_magnitude_the_evidences():
    low, high = -math.log(1.5), math.log(1.1)
    known: dict[str, tuple[float, ...] | None] = {"x": (low, high), "y": (high, high), "long": None}
    asked: list[str] = []

    def evidence(coachings: Sequence[Coaching]) -> list[tuple[float, ...] | None]:
        asked.extend(coaching.rollout.completion for coaching in coachings)
        return [known[coaching.rollout.completion] for coaching in coachings]

    group = [
        rollout("a", "x", tokens=2),
        rollout("a", "y", tokens=2),
        rollout("a", "x", tokens=2),
        rollout("a", "uncoached", tokens=2),
        rollout("a", "cut", tokens=2, stop_reason="length"),
        rollout("a", "even", tokens=2),
        rollout("a", "long", tokens=2),
    ]
    rewards = Rewards(values_P_G=((0.0,) * 7,), advantages_P_G=((-1.0, 0.5, -1.0, 1.0, -1.0, 0.0, -1.0),))
    feedback = Feedback(coachings=tuple(Coaching(rollout=each, advice=ADVICE) for each in (*group[:2], *group[4:])))
    credit = ByAdvice(evidence, clip=0.2)([group], rewards, feedback)
    assert asked == ["x", "y", "x", "long"]  # each of the same text; none that is not trained on
    assert credit.magnitudes == {
        (0, 0): pytest.approx((1.5, 1 / 1.1)),
        (0, 1): pytest.approx((1.1, 1.1)),
        (0, 2): pytest.approx((1.5, 1 / 1.1)),
    }
    assert credit.metrics == pytest.approx(
        {
            "coach/agreement": 4 / 6,
            "coach/raised_good": 1.0,
            "coach/raised_bad": 0.5,
            "coach/clip_fraction": 2 / 6,
            "coach/rollouts": 3.0,
        }
    )


def test_without_advice_all_tokens_are_alike():
    rewards = Rewards(values_P_G=((0.0,),), advantages_P_G=((1.0,),))
    credit = ByAdvice(lambda _: [], clip=0.2)([[rollout("a", "x")]], rewards, Feedback())
    assert (credit.magnitudes, credit.metrics) == ({}, {})


def test_magnitudes_are_clipped_before_they_are_scaled(model: Path, monkeypatch: pytest.MonkeyPatch):
    """3 and 1 are, clipped to 1.2, what 1.2 and 1 are: the same gradient; unclipped another one."""
    gradients: list[list[Tensor]] = []
    for clip, first in ((0.2, 3.0), (0.2, 1.2), (1.0, 3.0)):
        student, _ = open_student(
            tiny_config(model, recipe="coach", policy=PolicyConfig(credit_clip=clip), max_grad_norm=1e9)
        )
        disturb(student)
        drawn = replace(policy_examples(student)[0].rollout, stop_reason="stop")
        assert len(drawn.token_ids) > 1
        magnitude = (first, *[1.0] * (len(drawn.token_ids) - 1))
        found = list[Tensor]()

        def keep(*_: object, student: Student = student, found: list[Tensor] = found) -> None:
            found.extend(p.grad.clone() for p in student.adapters.parameters("policy") if p.grad is not None)

        monkeypatch.setattr(torch.optim.AdamW, "step", keep)
        student.update([PolicyExample(rollout=drawn, advantage=-1.0, magnitude=magnitude)], [], learning_rate=1.0)
        gradients.append(found)
    clipped, same, unclipped = gradients
    assert all(torch.equal(one, other) for one, other in zip(clipped, same, strict=True))
    assert not all(torch.allclose(one, other) for one, other in zip(clipped, unclipped, strict=True))


# The student, told


def test_advice_stands_before_what_the_user_first_says_and_changes_nothing_else():
    prompt = Prompt(
        id="a",
        messages=(
            {"role": "system", "content": "Answer in JSON."},
            {"role": "user", "content": "number 17"},
            {"role": "assistant", "content": "17"},
            {"role": "user", "content": "again"},
        ),
    )
    told = advised(prompt, ADVICE)
    assert [message["content"] for message in told.messages] == [
        "Answer in JSON.",
        f"Keep in mind: {ADVICE}\n\nnumber 17",
        "17",
        "again",
    ]
    assert prompt.messages[1]["content"] == "number 17"
    parts = replace(prompt, messages=({"role": "user", "content": [{"type": "text", "text": "number 17"}]},))
    assert [part["text"] for part in advised(parts, "Be brief.").messages[0]["content"]] == [
        "Keep in mind: Be brief.\n\n",
        "number 17",
    ]


@pytest.mark.parametrize("whose", ["base", "ema"])
def test_evidence_is_what_the_advice_changes_under_the_same_weights(whose: Literal["base", "ema"], model: Path):
    student = coached(model, whose)
    disturb(student)
    rollouts = [each for group in student.sample(prompts(3), group_size=2, step=0) for each in group]
    coachings = [Coaching(rollout=each, advice=" ".join([ADVICE] * (1 + n % 2))) for n, each in enumerate(rollouts)]
    found = student.evidence(coachings)
    chat = student.base.chat
    for coaching, changes in zip(coachings, found, strict=True):
        given = coaching.rollout
        rows = [
            Row(prompt=tuple(chat.prompt_ids(prompt.messages)), completion=given.token_ids)
            for prompt in (given.prompt, advised(given.prompt, coaching.advice))
        ]
        with student.adapters.use("follower" if whose == "ema" else None):
            plain, told = (plain_logprobs(student.base.model, row) for row in rows)
        assert changes == pytest.approx((told - plain).tolist(), abs=1e-4)
    assert len({round(change, 3) for changes in found if changes for change in changes}) > 10
    assert student.evidence([]) == []


def test_advice_that_does_not_fit_into_the_model_is_no_evidence(model: Path):
    student = coached(model, "base")
    (given,), *_ = student.sample(prompts(1), group_size=1, step=0)
    long, short = (Coaching(rollout=given, advice=" ".join(["word"] * count)) for count in (200, 2))
    found = student.evidence([long, short, long])
    assert (found[0], found[2]) == (None, None)
    assert found[1] is not None
    assert student.evidence([long]) == [None]


def test_the_follower_is_the_student_when_first_asked_and_then_goes_a_twentieth_of_the_way(model: Path):
    student = coached(model, "ema")
    student.update([], sft_examples(), learning_rate=1e-2)  # before there was any advice
    first = student.adapter_state()
    ask(student)
    follower = student.adapters.state("follower")
    assert all(torch.equal(tensor, first[key]) for key, tensor in follower.items())
    expected = dict(first)
    for _ in range(3):
        student.update([], sft_examples(), learning_rate=1e-2)
        now = student.adapter_state()
        expected = {key: tensor + FOLLOWED * (now[key] - tensor) for key, tensor in expected.items()}
    for key, tensor in student.adapters.state("follower").items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-6)
    again = coached(model, "ema")
    again.load_state(copy.deepcopy(student.state()))
    assert ask(again) == ask(student)
    for each in (student, again):
        each.update([], sft_examples(), learning_rate=1e-2)
    assert ask(again) == ask(student)


def coached(model: Path, whose: Literal["base", "ema"]) -> Student:
    config = tiny_config(model, recipe="coach").model_copy(update={"coach": CoachConfig(self=whose)})  # pyright: ignore[reportCallIssue]
    return open_student(config)[0]


def ask(student: Student) -> list[Any]:
    ids = tuple(student.base.chat.completion_ids(prompts(1)[0].messages, '{"number": 7}'))
    given = replace(rollout("a", '{"number": 7}'), prompt=prompts(1)[0], token_ids=ids)
    return student.evidence([Coaching(rollout=given, advice=ADVICE)])
