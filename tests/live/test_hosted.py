"""A few cheap calls to each hosted API. They cost money: `scripts/test -m live tests/live`, keys in the environment."""

import asyncio
import os
from pathlib import Path

import pytest

import bbdistill

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    ("model", "variable"),
    [("openai:gpt-5.6", "OPENAI_API_KEY"), ("anthropic:claude-haiku-5", "ANTHROPIC_API_KEY")],
)
def test_a_hosted_teacher_answers_judges_and_corrects(model: str, variable: str, tmp_path: Path):
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")

    async def work() -> None:
        async with bbdistill.Teacher(model, cache=tmp_path / "live.db", max_usd=0.25) as teacher:
            shown = await teacher.demonstrate("What is 2 + 2? Answer with the number alone.")
            assert isinstance(shown, bbdistill.Demonstration), shown
            assert "4" in shown.completion
            judged = await teacher.compare("What is 2 + 2?", "4", "5")
            assert isinstance(judged, bbdistill.Preference), judged
            assert judged.chosen == "4"
            fixed = await teacher.correct("What is 2 + 2? Answer with the number alone.", "5", "the sum is wrong")
            assert isinstance(fixed, bbdistill.Fix), fixed
            assert fixed.text == "4"

    asyncio.run(work())
