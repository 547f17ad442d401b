"""Planted keys, cookies and organisation ids are looked for in everything that a process leaves behind."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rule_teacher import completion

KEY = "planted7Key0of1nobody2in3particular"
ORGANISATION = "org-plantedOrganisation42"
WORKSPACE = "wrkspc-planted-0123456789"
COOKIE = "planted-cookie-0123456789"
PASSWORD = "planted-password-0123456789"
PLANTED = (KEY, ORGANISATION, WORKSPACE, COOKIE, PASSWORD, f"someone:{PASSWORD}")
PROVIDERS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def claude(text: str) -> dict[str, Any]:
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }


@contextmanager
def talkative_server(refused: dict[str, int]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Sets cookies, tells whose account it is, and repeats the key in every complaint: a status per prompt."""
    heard: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            heard.append({name.lower(): value for name, value in self.headers.items()})
            prompt = request["messages"][-1]["content"]
            status = next((code for word, code in refused.items() if word in prompt), 200)
            good = claude("four") if "messages" in self.path.split("?")[0] else completion("four")
            key = self.headers["authorization"].split()[-1]
            said = f"bad key {key} of {ORGANISATION} in {WORKSPACE} at {self.path}, Bearer {key}, cookie {COOKIE}"
            bad = {"type": "error", "error": {"type": "invalid_request_error", "code": "no", "message": said}}
            body = json.dumps(good if status == 200 else bad).encode()
            self.send_response(status)
            for name, value in {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "set-cookie": f"__cf={COOKIE}; path=/",
                "openai-organization": ORGANISATION,
                "anthropic-organization-id": ORGANISATION,
                "anthropic-workspace-id": WORKSPACE,
                "x-request-id": "req_1",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        server.server_close()


def environment(provider: str) -> dict[str, str]:
    more = {"OPENAI_LOG": "debug", "ANTHROPIC_LOG": "debug", "OPENAI_ORG_ID": ORGANISATION, "COLUMNS": "400"}
    return {**os.environ, **more, PROVIDERS[provider]: KEY}


def write_config(folder: Path, provider: str, address: str, more: str = "") -> None:
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in ("one", "bad", "last")))
    path = "/v1" if provider == "openai" else ""
    (folder / "task.toml").write_text(
        f'recipe = "sft"\n[task]\nprompts = "train.jsonl"\n'
        f'[teacher]\nmodel = "{provider}:m"\nbase_url = "http://{address}{path}"\nconcurrency = 1\n{more}'
    )


def found_in(folder: Path, *texts: str) -> list[str]:
    """Where something planted stands, in any of the forms it may take."""
    forms = [form for word in PLANTED for form in (word, base64.b64encode(word.encode()).decode().rstrip("="))]
    artefacts = {
        str(file): file.read_bytes().decode("utf-8", "replace") for file in folder.rglob("*") if file.is_file()
    }
    artefacts |= {f"output {index}": text for index, text in enumerate(texts)}
    return [f"{form} in {where}" for where, text in artefacts.items() for form in forms if form in text]


def run(folder: Path, *arguments: str, provider: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment(provider), timeout=120
    )


@pytest.mark.parametrize("provider", PROVIDERS)
def test_with_debug_logs_nothing_planted_is_left_behind(provider: str, tmp_path: Path):
    with talkative_server({"bad": 400}) as (address, heard):
        write_config(tmp_path, provider, address)
        done = run(tmp_path, "-m", "bbdistill", "--debug", "collect", "task.toml", provider=provider)
    assert done.returncode == 0, done.stderr
    assert {headers["authorization"] for headers in heard} == {f"Bearer {KEY}"}
    assert "_base_client" in done.stderr  # the SDK's debug log is there
    assert (tmp_path / "cache" / "teacher.db").exists()
    assert found_in(tmp_path, done.stdout, done.stderr) == []


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_traceback_of_a_refused_key_does_not_hold_it(provider: str, tmp_path: Path):
    with talkative_server({"one": 401}) as (address, _):
        write_config(tmp_path, provider, address)
        done = run(tmp_path, "-m", "bbdistill", "--debug", "collect", "task.toml", provider=provider)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "HTTP 401" in done.stderr
    assert "bad key [redacted]" in done.stderr
    assert found_in(tmp_path, done.stdout, done.stderr) == []


UNDER_AN_SDK = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
import bbdistill, openai, anthropic
provider, url, key = sys.argv[1], sys.argv[2], sys.stdin.read()
http = bbdistill.sync_http_client("sdk.db")
make = openai.OpenAI if provider == "openai" else anthropic.Anthropic
query = {"key": key} if "@" not in url else None
client = make(api_key=key, base_url=url, default_query=query, max_retries=0, http_client=http)
for text in ("one", "bad", "last"):
    messages = [{"role": "user", "content": text}]
    try:
        if provider == "openai":
            client.chat.completions.create(model="m", messages=messages)
        else:
            client.messages.create(model="m", max_tokens=9, messages=messages)
    except (openai.APIError, anthropic.APIError):
        logging.exception("refused")
client.close()
"""


@pytest.mark.parametrize("provider", PROVIDERS)
def test_under_a_foreign_sdk_with_all_logs_on(provider: str, tmp_path: Path):
    with talkative_server({"bad": 400}) as (address, heard):
        # Another secret in the address itself, as some gateways want it: a password here, a parameter there.
        url = f"http://someone:{PASSWORD}@{address}/v1" if provider == "openai" else f"http://{address}"
        done = subprocess.run(
            [sys.executable, "-c", UNDER_AN_SDK, provider, url],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment(provider),
            input=KEY,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert len(heard) == 3
    assert "httpcore2" in done.stderr  # down to the bytes
    assert "Traceback" in done.stderr
    assert found_in(tmp_path, done.stdout, done.stderr) == []


def test_a_key_from_a_command(tmp_path: Path):
    with talkative_server({}) as (address, heard):
        command = f'api_key_cmd = "{sys.executable} -c \'import os; print(os.environ[\\"OPENAI_API_KEY\\"])\'"\n'
        write_config(tmp_path, "openai", address, command)
        done = run(tmp_path, "-m", "bbdistill", "collect", "task.toml", provider="openai")
    assert done.returncode == 0, done.stderr
    assert {headers["authorization"] for headers in heard} == {f"Bearer {KEY}"}
    assert found_in(tmp_path, done.stdout, done.stderr) == []
