"""One recording under the SDKs of today and those that still sit on `httpx`, which need an environment of their own:

python -m venv old && old/bin/pip install 'openai<3' 'anthropic<1' && old/bin/pip install --no-deps -e .
old/bin/pip install genai-prices httpx2 jinja2 jsonschema pydantic python-frontmatter sqlite-utils
BBDISTILL_OLD_SDKS=old/bin/python scripts/test tests/integration/test_old_sdks.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llmock.pytest_plugin import LLMock

OLD = os.environ.get("BBDISTILL_OLD_SDKS", "")
ROOT = Path(__file__).resolve().parents[2]

ASK = """
import asyncio, json, sys
import anthropic, openai, bbdistill

store, mode, library, openai_url, anthropic_url = sys.argv[1:]
client = {"api_key": "sk-0123456789abcdef0123", "max_retries": 0}
replay = {"mode": mode, "library": library, "teacher_id": "theirs"}
hi = [{"role": "user", "content": "hi"}]

def streamed(parts):
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)

def blocking():
    with openai.OpenAI(**client, base_url=openai_url, http_client=bbdistill.sync_http_client(store, **replay)) as api:
        yield api.chat.completions.create(model="m", messages=hi).choices[0].message.content
        yield streamed(api.chat.completions.create(model="m", messages=hi, stream=True))
        yield api.responses.create(model="m", input="hi", store=False).output_text
        yield len(api.embeddings.create(model="text-embedding-3-small", input="hi").data[0].embedding)
    # The version of the API is a part of the request; each SDK has its own.
    version = {"anthropic-version": "2023-06-01"}
    http_client = bbdistill.sync_http_client(store, **replay)
    with anthropic.Anthropic(**client, base_url=anthropic_url, default_headers=version, http_client=http_client) as api:
        yield api.messages.create(model="m", max_tokens=9, messages=hi).content[0].text
        with api.messages.stream(model="m", max_tokens=9, messages=hi) as parts:
            yield "".join(parts.text_stream)

async def awaiting():
    http_client = bbdistill.http_client(store, **replay)
    async with openai.AsyncOpenAI(**client, base_url=openai_url, http_client=http_client) as api:
        yield (await api.chat.completions.create(model="m", messages=hi)).choices[0].message.content
    http_client = bbdistill.http_client(store, **replay)
    version = {"anthropic-version": "2023-06-01"}
    async with anthropic.AsyncAnthropic(
        **client, base_url=anthropic_url, default_headers=version, http_client=http_client
    ) as api:
        yield (await api.messages.create(model="m", max_tokens=9, messages=hi)).content[0].text

async def collected():
    return [answer async for answer in awaiting()]

print(json.dumps([[openai.__version__, anthropic.__version__], list(blocking()), asyncio.run(collected())]))
"""


def ask(python: str, store: Path, mode: str, library: str, *urls: str) -> tuple[list[str], list[str]]:
    """(versions of the SDKs, the answers)"""
    done = subprocess.run(
        [python, "-c", ASK, str(store), mode, library, *urls],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    versions, *answers = json.loads(done.stdout)
    return versions, answers


@pytest.mark.skipif(not OLD, reason="BBDISTILL_OLD_SDKS names no Python with openai 2 and anthropic 0")
@pytest.mark.parametrize("recorder", ["new", "old"])
def test_one_recording_replays_under_old_and_new_sdks(llmock: LLMock, recorder: str, tmp_path: Path) -> None:
    llmock.reply("one two three").delay(0)
    pythons = {"new": (sys.executable, "httpx2"), "old": (OLD, "httpx")}
    urls = llmock.base_url("openai"), llmock.base_url("anthropic")
    python, library = pythons[recorder]
    _, bought = ask(python, tmp_path / "x.db", "auto", library, *urls)
    assert len(llmock.requests) == 6
    nowhere = "http://127.0.0.1:9/v1", "http://127.0.0.1:9/anthropic"
    majors: dict[str, list[int]] = {}
    for name, (python, library) in pythons.items():
        versions, replayed = ask(python, tmp_path / "x.db", "replay", library, *nowhere)
        assert replayed == bought
        majors[name] = [int(version.split(".")[0]) for version in versions]
    assert majors == {"new": [3, 2], "old": [2, 0]}
    assert len(llmock.requests) == 6
