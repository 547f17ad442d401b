"""A group marked by a rubric of its own: what teacher and judge see, what they may say, and what scores it comes to."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from rule_teacher import RUBRIC, rule_teacher
from scripted_server import ScriptedServer, chat, messages

from bbdistill.rewards import graded
from bbdistill.teacher import parse
from bbdistill.teacher.marking import mark, score
from bbdistill.teacher.teacher import TOKENS_PER_MARK, Teacher
from bbdistill.types import Abstain, Criterion, Mark, MarkedAnswer, MarkedGroup, Prompt, Rollout

PROMPT = Prompt(id="p", messages=({"role": "user", "content": "number 17"},))


def rollout(text: str, sample: int = 0, prompt: Prompt = PROMPT) -> Rollout:
    return Rollout(
        prompt=prompt,
        sample=sample,
        completion=text,
        token_ids=(1,),
        logprobs=(-0.5,),
        policy_version=0,
        stop_reason="stop",
    )


def asked(url: str, path: Path, work: Callable[[Teacher], Coroutine[Any, Any, Any]]) -> tuple[Any, Teacher]:
    async def ask() -> tuple[Any, Teacher]:
        async with Teacher("openai:rules", base_url=url, cache=path / "t.db") as teacher:
            return await work(teacher), teacher

    return asyncio.run(ask())


def rubric(*points: object) -> str:
    return json.dumps({"criteria": [{"criterion": f"c{n}", "points": each} for n, each in enumerate(points)]})


@pytest.mark.parametrize(
    ("text", "points"),
    [
        (rubric(5, 2, 1), (5, 2, 1)),
        (f"```json\n{rubric(1)}\n```", (1,)),
        (rubric(*[1] * 12), (1,) * 12),
        (rubric(*[1] * 13), None),
        (rubric(5, 6), None),
        (rubric(5, 0), None),
        (rubric(5, "2"), None),
        (rubric(5, 1.5), None),
        (rubric(5, True), None),
        (rubric(), None),
        ('{"criteria": [{"criterion": " ", "points": 1}]}', None),
        ('{"criteria": [{"points": 1}]}', None),
        ('{"criteria": ["Is polite"]}', None),
        ('{"criteria": {"Is polite": 2}}', None),
        ("1. Is polite (2 points)", None),
    ],
)
def test_a_rubric_is_read_whole_or_not_at_all(text: str, points: tuple[int, ...] | None):
    found = parse.criteria(text)
    assert (None if found is None else tuple(each.points for each in found)) == points


def test_of_two_criteria_with_the_same_words_the_first_counts():
    rows = [("Is  polite", 3), ("Is\npolite", 1), ("Is short", 1)]
    text = json.dumps({"criteria": [{"criterion": said, "points": points} for said, points in rows]})
    assert parse.criteria(text) == (Criterion(text="Is polite", points=3), Criterion(text="Is short", points=1))


def test_a_score_is_the_share_of_the_points():
    criteria = [Criterion(text=str(n), points=n) for n in (5, 2, 1)]
    assert score(criteria, [Mark(met=met, reason="") for met in (True, False, True)]) == 6 / 8


def test_teacher_and_student_are_marked_in_one_call_by_one_rubric(tmp_path: Path):
    texts = ("17", "seven", "17", '{"number": 17}')
    with rule_teacher() as server:
        server.varied = True  # two right answers, "no", and a wrong number
        group = [rollout(text, sample) for sample, text in enumerate(texts)]
        found, teacher = asked(
            server.base_url, tmp_path, lambda teacher: mark(teacher, teacher, group, references=4, shuffle="0:1:p")
        )
    assert [each.points for each in found.criteria] == [5, 2, 1, 1] == [points for points, _ in RUBRIC.values()]
    scores = [(each.author, each.score) for each in found.answers]
    assert sorted(scores[:4]) == [("teacher", pytest.approx(n / 9)) for n in (3, 3, 8, 8)]
    assert scores[4:] == [("student", pytest.approx(n / 9)) for n in (6, 3, 6, 8)]
    assert graded([group], [found]) == [[pytest.approx(n / 9) for n in (6, 3, 6, 8)]]
    lines = teacher.ledger.lines
    assert (lines["demonstrations"].calls, lines["rubric"].calls) == (4, 2)
    bodies = [json.loads(body) for body in server.asked]
    (written,) = [body for body in bodies if "You write the rubric" in body["messages"][0]["content"]]
    (judged,) = [body for body in bodies if "You mark answers" in body["messages"][0]["content"]]
    said = written["messages"][1]["content"]
    assert (said.count("<reference_"), said.count("<draft_")) == (4, 3)  # equal drafts once
    assert judged["messages"][1]["content"].count("</answer_") == 6  # one of the student's is one of the teacher's
    assert written["max_tokens"] == 1024
    assert judged["max_tokens"] == max(1024, 6 * 4 * TOKENS_PER_MARK) == 1920  # room for every mark


def test_the_teacher_writes_and_the_judge_marks(tmp_path: Path):
    with rule_teacher() as writes, rule_teacher() as judges:

        async def work() -> Any:
            cache = tmp_path / "t.db"
            async with (
                Teacher("openai:writes", base_url=writes.base_url, cache=cache) as teacher,
                Teacher("openai:judges", base_url=judges.base_url, cache=cache) as judge,
            ):
                return await mark(teacher, judge, [rollout("x"), rollout("y")], references=2, shuffle="")

        asyncio.run(work())
    systems = [
        [json.loads(body)["messages"][0]["content"][:20] for body in server.asked.elements()]
        for server in (writes, judges)
    ]
    assert sorted(systems[0]) == ["You write the rubric", "number 17", "number 17"]
    assert systems[1] == ["You mark answers to "]


def test_a_teacher_that_answers_nothing_is_asked_for_no_rubric(tmp_path: Path):
    with ScriptedServer(otherwise=chat("no", finish="content_filter")) as server:
        found, teacher = asked(
            f"{server.url}/v1",
            tmp_path,
            lambda teacher: mark(teacher, teacher, [rollout("x"), rollout("y")], references=2, shuffle=""),
        )
    assert isinstance(found, Abstain)
    assert len(server.seen) == teacher.ledger.lines["demonstrations"].abstained == 2
    assert "rubric" not in teacher.ledger.lines


def test_the_order_that_the_judge_sees_depends_on_step_and_prompt(tmp_path: Path):
    answers = [f"answer {n}" for n in range(6)]
    marks = {f"answer_{n}": {"criterion_1": {"reason": "", "met": n <= 2}} for n in range(1, 7)}
    seen: dict[str, list[str]] = {}
    with ScriptedServer(otherwise=chat(json.dumps(marks))) as server:
        for shuffle in ("", "0:1:p", "0:2:p", "0:1:q"):
            found, _ = asked(
                f"{server.url}/v1",
                tmp_path,
                lambda teacher, shuffle=shuffle: teacher.rubric(PROMPT, answers, ["c"], shuffle=shuffle),
            )
            text = json.loads(server.seen[-1].body)["messages"][1]["content"]
            seen[shuffle] = sorted(answers, key=text.index)
            # Marks find back to their answers, whatever the order.
            assert {answers[n] for n, marks in enumerate(found) if marks[0].met} == set(seen[shuffle][:2])
    assert len({tuple(order) for order in seen.values()}) == 4
    assert len(server.seen) == 4


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_reply_has_room_for_its_marks_with_every_provider(provider: str, tmp_path: Path):
    reply = json.dumps({})
    with ScriptedServer(otherwise=(chat if provider == "openai" else messages)(reply)) as server:

        async def work() -> None:
            url = f"{server.url}/v1" if provider == "openai" else server.url
            async with Teacher(f"{provider}:m", base_url=url, cache=tmp_path / "t.db", max_tokens=100) as teacher:
                await teacher.rubric(PROMPT, ["a", "b"], ["c", "d", "e"])
                await teacher.demonstrate(PROMPT)

        asyncio.run(work())
    assert [json.loads(seen.body)["max_tokens"] for seen in server.seen] == [2 * 3 * TOKENS_PER_MARK, 100]


def test_a_group_without_a_rubric_or_with_unreadable_marks_has_no_term_and_is_never_a_zero():
    names = ("whole", "unread", "without")
    prompts = [Prompt(id=name, messages=PROMPT.messages) for name in names]
    groups = [[rollout(text, n, prompt) for n, text in enumerate("xyx")] for prompt in prompts]

    def answer(text: str, value: float | None) -> MarkedAnswer:
        return MarkedAnswer(author="student", text=text, score=value)

    marked = [
        MarkedGroup(prompt=prompts[0], criteria=(), answers=(answer("x", 0.25), answer("y", 1.0))),
        MarkedGroup(prompt=prompts[1], criteria=(), answers=(answer("x", 0.25), answer("y", None))),
    ]
    assert graded(groups, marked) == [[0.25, 1.0, 0.25], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
