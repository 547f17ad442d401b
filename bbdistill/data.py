"""JSONL in: prompts as users have them, with what may stand beside them. For what is written see `evidence.py`."""

import difflib
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bbdistill.errors import ConfigError
from bbdistill.types import Demonstration, Message, Prompt

ROLES = ("system", "developer", "user", "assistant", "tool")
OWN_KEYS = ("id", "prompt", "messages", "reference", "completion")
_MEANT = {
    **{name: name for name in OWN_KEYS},
    **dict.fromkeys(("response", "answer", "output"), "completion"),
    **dict.fromkeys(("input", "question", "instruction", "text"), "prompt"),
    "conversation": "messages",
}
"""What people call our keys."""
_MOST_DIGITS = 300
"""Of a whole number that can still be taken as a fraction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The lines of a file. `demonstrations` holds, by prompt id, the first completion that came with each prompt."""

    prompts: tuple[Prompt, ...]
    demonstrations: Mapping[str, Demonstration]
    skipped: int
    """Bad lines that were left out."""
    duplicates: int = 0
    """Lines without an id whose conversation stood there already; what they know besides is kept."""
    answers: tuple[Demonstration, ...] = ()
    """Every completion, in the order of the lines; there may be several of one prompt."""


class _BadLine(ValueError):
    """What was found and expected; the caller knows file and line."""


def load_prompts(path: Path, *, skip_bad: bool = False, answered: bool = False) -> Dataset:
    """Reads prompts. A bad line is a ConfigError with file and line, or with `skip_bad` is left out and counted.

    With `answered` there must be completions, and a line where that key seems misspelt is a bad one.
    """
    prompts: dict[str, Prompt] = {}
    completions: list[tuple[str, str]] = []
    first_seen: dict[str, int] = {}
    skipped = duplicates = 0
    # Not splitlines(): U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt, completion = _read(line)
            hint = _meant("completion", prompt.meta) if answered and completion is None else ""
            if hint:
                raise _BadLine(f"has no `completion`{hint}")
            known = prompts.get(prompt.id)
            if known is not None and prompt.id != _id(None, prompt.messages):
                raise _BadLine(f"has the id `{prompt.id}` of line {first_seen[prompt.id]}; ids must differ")
        except _BadLine as fault:
            if not skip_bad:
                raise ConfigError(f"`{path}` line {number} {fault} (or leave such lines out with --skip-bad)") from None
            skipped += 1
            continue
        duplicates += known is not None
        if known is None or known.reference is None:
            prompts[prompt.id] = prompt
        first_seen.setdefault(prompt.id, number)
        if completion is not None:
            completions.append((prompt.id, completion))
    if not prompts:
        raise ConfigError(f"`{path}` has no usable line; expected one JSON object a line, with `prompt` or `messages`")
    if answered and not completions:
        raise ConfigError(f"`{path}` has no line with a `completion`; expected a prompt and its answer on each line")
    answers = [Demonstration(prompt=prompts[name], completion=text, source="data") for name, text in completions]
    return Dataset(
        prompts=tuple(prompts.values()),
        demonstrations={answer.prompt.id: answer for answer in reversed(answers)},
        skipped=skipped,
        duplicates=duplicates,
        answers=tuple(answers),
    )


def split(prompts: Sequence[Prompt], *, validation: int, seed: int) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """(train, validation). Whether a prompt is held out depends on its id and the seed.

    Neither the order nor, but for one prompt at the border, what else there is matters: data may grow between runs.
    """
    drawn = sorted(
        (prompt.id for prompt in prompts), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()
    )
    held = set(drawn[:validation])
    return tuple(p for p in prompts if p.id not in held), tuple(p for p in prompts if p.id in held)


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"no file at `{path}`; expected prompts as JSONL, one JSON object a line") from None
    except IsADirectoryError:
        raise ConfigError(f"`{path}` is a directory; expected a JSONL file") from None
    except OSError as fault:
        raise ConfigError(f"`{path}` cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError as fault:
        raise ConfigError(f"`{path}` is not UTF-8 at byte {fault.start}; convert it, for example with iconv") from None
    if text.lstrip().startswith("["):
        raise ConfigError(f"`{path}` is a JSON array; expected JSONL: convert it to one JSON object a line")
    return text


def _read(line: str) -> tuple[Prompt, str | None]:
    try:
        row: Any = json.loads(line, parse_int=_whole_number)
        # NaN, 1e999 and half a surrogate pair load, but no API, store or tokenizer takes them.
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as fault:
        raise _BadLine(f"is not valid JSON: {fault}; expected one JSON object") from None
    if not isinstance(row, dict):
        raise _BadLine(f"is a JSON {type(row).__name__}; expected an object with `prompt` or `messages`")
    fields = cast(dict[str, Any], row)
    messages, last = _conversation(fields)
    completion = _completion(fields.get("completion"))
    if completion is not None and last is not None:
        raise _BadLine("has a `completion` and `messages` that end with an assistant turn; keep one of them")
    prompt = Prompt(
        id=_id(fields.get("id"), messages),
        messages=tuple(messages),
        reference=fields.get("reference"),
        meta={key: value for key, value in fields.items() if key not in OWN_KEYS},
    )
    return prompt, completion if completion is not None else last


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _meant(key: str, found: Collection[str]) -> str:
    """The words about what may have been meant with a key that is missing; empty where nothing comes near."""
    meant = {name: known for name in found for known in difflib.get_close_matches(name.lower(), _MEANT, n=1)}
    wrong = next((name for name, known in meant.items() if _MEANT[known] == key and name not in OWN_KEYS), None)
    return "" if wrong is None else f"; is `{wrong}` meant to be `{key}`?"


def _conversation(fields: dict[str, Any]) -> tuple[list[Message], str | None]:
    """The messages, and the text of a final assistant turn, which is then not among them."""
    # A table that was saved as JSONL has every column on every line, null where a row has none.
    found = [fields[key] for key in ("prompt", "messages") if fields.get(key) is not None]
    if len(found) == 2:
        raise _BadLine("has both `prompt` and `messages`; keep one of them")
    if not found:
        hint = _meant("prompt", fields) or _meant("messages", fields)
        raise _BadLine(f"has neither `prompt` nor `messages`; got the keys {sorted(fields)}{hint}")
    given: Any = found[0]
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise _BadLine(f"has {_kind(given)} as its prompt; expected text or a list of messages")
    messages = [_message(message) for message in cast(list[Any], given)]
    last: str | None = None
    if messages[-1]["role"] == "assistant":
        last = _completion([messages.pop()])
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise _BadLine("has a conversation that does not end in a user turn")
    if not any(str(message.get("content") or "").strip() for message in messages):
        raise _BadLine("has an empty prompt")
    return messages, last


def _message(message: Any) -> Message:
    if not isinstance(message, dict):
        raise _BadLine(f"has {_kind(message)} among its messages; expected objects with `role` and `content`")
    fields = cast(dict[str, Any], message)
    if fields.get("role") not in ROLES:
        raise _BadLine(f"has a message with role {json.dumps(fields.get('role'))}; expected one of {', '.join(ROLES)}")
    content = fields.get("content")
    if not isinstance(content, str | list) and not (content is None and fields.get("tool_calls")):
        raise _BadLine(f"has a message whose content is {_kind(content)}; expected text")
    for part in cast(list[Any], content) if isinstance(content, list) else ():
        if not isinstance(part, dict):
            raise _BadLine(
                f"has a message whose `content` is a list with {_kind(part)} in it; expected text, or a list of parts "
                'such as {"type": "text", "text": "..."}'
            )
        said = cast(dict[str, Any], part)
        if said.get("type") == "text" and not isinstance(said.get("text"), str):
            raise _BadLine("has a part of type `text` whose `text` is not text")
    return {**fields, "content": content}


def _completion(given: Any) -> str | None:
    if isinstance(given, str) and not given.strip():
        raise _BadLine("has an empty `completion`; leave the key out where there is no answer")
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, list) and len(cast(list[Any], given)) == 1:
        message = _message(given[0])
        if message.get("tool_calls"):
            raise _BadLine("has a tool call as its completion; a student learns text answers alone")
        if message["role"] == "assistant" and isinstance(message["content"], str):
            return message["content"]
    raise _BadLine("has a `completion` that is neither text nor a list of one assistant message with text")


def _id(given: Any, messages: Sequence[Message]) -> str:
    if given is None:
        canonical = json.dumps(list(messages), sort_keys=True, ensure_ascii=False)
        return f"p-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"
    if isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
        raise _BadLine(f"has {_kind(given)} as its id; expected text or a whole number")
    return str(given)


def _kind(value: Any) -> str:
    return {"NoneType": "null", "dict": "an object", "list": "an empty list" if value == [] else "a list"}.get(
        type(value).__name__, json.dumps(value)[:60]
    )
