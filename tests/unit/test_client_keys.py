"""Request keys: fixed for good, because every recording depends on them."""

import json

import pytest

from bbdistill.client.call import Call
from bbdistill.client.keys import canonical, key, teacher_id, to_json
from bbdistill.client.secrets import redact, secrets_of


def call(
    body: object, url: str = "https://api.openai.com/v1/chat/completions", sample: int = 0, **headers: str
) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Call(method="POST", url=url, headers=named, body=raw, sample=sample)


CHAT = {"model": "gpt-5.6", "messages": [{"role": "user", "content": "Zwölf?"}], "temperature": 0.5}
MESSAGES = {"model": "claude-sonnet-5-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Twelve?"}]}


def test_key_of_a_chat_call_never_changes() -> None:
    found = key(canonical(call(CHAT, authorization="Bearer sk-1")))
    assert found == "79b9f723f22c9af739895209c6456753eccfa86af73dbf692679ce0d0a6bf1a8"


def test_key_of_a_messages_call_never_changes() -> None:
    made = call(MESSAGES, "https://api.anthropic.com/v1/messages", anthropic_version="2026-10-21")
    assert key(canonical(made)) == "0eba7e79ba285295724b02f7e389c131d38c6068b4d7cd30f68bc6271bb2295b"


def test_canonical_request_is_readable() -> None:
    made = call(MESSAGES, "https://api.anthropic.com/v1/messages?beta=true", 3, anthropic_version="2026-10-21")
    assert canonical(made) == {
        "teacher": "anthropic",
        "path": "/v1/messages",
        "query": [["beta", "true"]],
        "headers": {"anthropic-version": "2026-10-21"},
        "body": MESSAGES,
        "sample": 3,
    }


@pytest.mark.parametrize(
    "other",
    [
        call(CHAT | {"stream": False}),
        call(json.dumps(CHAT, indent=2, sort_keys=True).encode()),
        call(CHAT, authorization="Bearer another", user_agent="sdk/9"),
        call(CHAT, "https://user:pass@api.openai.com/v1/chat/completions?key=secret"),
    ],
)
def test_what_does_not_change_the_answer_does_not_change_the_key(other: Call) -> None:
    assert key(canonical(other)) == key(canonical(call(CHAT)))


@pytest.mark.parametrize(
    "other",
    [
        call(CHAT | {"stream": True}),
        call(CHAT | {"temperature": 0.6}),
        call(CHAT, sample=1),
        call(CHAT, anthropic_beta="x"),
        call(CHAT, "http://localhost:8000/v1/chat/completions"),
        call(CHAT, "https://api.openai.com/v1/chat/completions?api-version=2"),
        call(CHAT, "https://api.openai.com/v1/responses"),
    ],
)
def test_what_changes_the_answer_changes_the_key(other: Call) -> None:
    assert key(canonical(other)) != key(canonical(call(CHAT)))


def test_integral_floats_are_integers() -> None:
    assert key(canonical(call({"t": 1.0, "n": [2.0, {"x": -0.0}]}))) == key(
        canonical(call({"t": 1, "n": [2, {"x": 0}]}))
    )
    assert canonical(call({"t": 1e300}))["body"] == {"t": 1e300}


def test_a_body_that_is_not_json_is_text() -> None:
    request = canonical(call(b"\xff not json"))
    assert request["text"] == "\\xff not json"
    assert "body" not in request


@pytest.mark.parametrize(
    ("url", "override", "expected"),
    [
        ("https://api.openai.com/v1/responses", None, "openai"),
        ("https://api.anthropic.com/v1/messages", None, "anthropic"),
        ("http://user:pw@LOCALHOST:8000/v1", None, "localhost:8000"),
        ("http://localhost/v1", None, "localhost:80"),
        ("https://example.org/v1", None, "example.org:443"),
        ("https://example.org/v1", "ours", "ours"),
    ],
)
def test_teacher_id(url: str, override: str | None, expected: str) -> None:
    assert teacher_id(url, override) == expected


def test_half_a_surrogate_pair_can_be_hashed_and_stored() -> None:
    request = canonical(call(b'{"text": "\\ud83d"}'))
    assert len(key(request)) == 64
    assert json.loads(to_json(request).encode()) == request
    assert to_json({"a": "é"}) == '{"a": "é"}'


def test_secrets_come_from_headers_and_address() -> None:
    made = call(
        {},
        "http://me:pass-w0rd-1@host/v1?key=q1w2e3r4t5&x=1",
        authorization="Bearer tok-12345678",
        x_api_key="key-abcdef-99",
    )
    assert secrets_of(made) == {"tok-12345678", "key-abcdef-99", "pass-w0rd-1", "q1w2e3r4t5"}


@pytest.mark.parametrize("word", ["none", "ollama", "not-needed", "x"])
def test_a_word_given_as_key_is_no_secret(word: str) -> None:
    assert secrets_of(call({}, authorization=f"Bearer {word}")) == set()


def test_redaction() -> None:
    text = "key tok-12345678, Bearer abcdefgh1, sk-proj-abcdefghijklmnop"
    assert redact(text, {"tok-12345678"}) == "key [redacted], [redacted], [redacted]"
    assert redact(text, {"tok-12345678"}, patterns=False) == text.replace("tok-12345678", "[redacted]")
