"""The only place that knows chat templates: messages and texts to token ids, and back."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from bbdistill.errors import ConfigError
from bbdistill.student.spelling import Spelling
from bbdistill.types import Message, Prompt

PROBE = ({"role": "user", "content": "a"},)
NO_STRATEGY = "[THINK] [/THINK]\n"
"""What a student that was trained on strategies answers behind (RGT, parsed.com 2025): the tags, with nothing inside.

They are plain text: special tokens would need embeddings that no adapter trains.
"""
_TORN = "\ufffd"
"""What the bytes of an unfinished character are decoded to."""
_STRATEGY = re.compile(r"\s*\[THINK\].*?\[/THINK\]\s?", re.DOTALL)


def advised(prompt: Prompt, advice: str) -> Prompt:
    """The prompt with advice before what the user first says.

    Not as a system message: some templates refuse one, and others then leave out the one they would have put there.
    """
    messages = [dict(message) for message in prompt.messages]
    first = next((message for message in messages if message["role"] == "user"), messages[-1])
    line = f"Keep in mind: {advice}\n\n"
    said = first.get("content")
    first["content"] = [{"type": "text", "text": line}, *said] if isinstance(said, list) else f"{line}{said or ''}"
    return replace(prompt, messages=tuple(messages))


def _text(content: Any) -> str | None:
    """A message's content as templates take it, which may have come in parts."""
    if not isinstance(content, list):
        return content
    parts = cast(list[Message], content)
    if other := [part.get("type") for part in parts if part.get("type") != "text"]:
        raise ConfigError(f"a prompt has a part of type `{other[0]}`; a student reads text alone")
    return "".join(part["text"] for part in parts)


class Chat:
    """A tokenizer with its chat template.

    A completion is what the template puts after the generation prompt, up to and with one end-of-turn token; so what
    the student is trained on is what it is asked to generate. ConfigError at once where the template forbids that.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_of_turn: Iterable[int] = ()) -> None:
        """`end_of_turn` are the ids that the model's generation config adds to the tokenizer's own."""
        self.tokenizer = tokenizer
        self._name = tokenizer.name_or_path
        if not tokenizer.chat_template:
            raise ConfigError(
                f"the tokenizer of `{self._name}` has no chat template; use the instruct version of the model, "
                "or put a `chat_template.jinja` into a local copy of it"
            )
        own, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.eos_ids: frozenset[int] = frozenset([*end_of_turn, *([own] if isinstance(own, int) else [])])
        self.eos_texts: dict[str, int] = {str(tokenizer.convert_ids_to_tokens(id)): id for id in self.eos_ids}
        self.pad_id = padding if isinstance(padding, int) else min(self.eos_ids, default=0)
        self.end = self.completion_ids(PROBE, "b")[-1]
        """What the template ends a turn with."""

    def prompt_ids(self, messages: Sequence[Message], *, tags: bool = False) -> list[int]:
        """What stands before the first completion token: conversation, generation prompt, with `tags` empty ones."""
        ids = self._encode(self._render(messages, generation=True), special=True)
        return [*ids, *self._encode(NO_STRATEGY, special=False)] if tags else ids

    def completion_ids(self, messages: Sequence[Message], text: str, *, strategy: str = "") -> list[int]:
        """What the student would have to generate to say `text`: its tokens, then exactly one end-of-turn token.

        A strategy comes first, between its tags. It has tokens of its own, so that the text has those that it has
        behind empty tags.
        """
        said, eos = self._said(messages, text)
        first = self._encode(f"[THINK] {strategy} [/THINK]\n", special=False) if strategy else []
        # Special tokens inside the text are spelt out: a quoted "<|im_end|>" must not end the turn.
        return [*first, *self._encode(said, special=False), eos]

    def token_span(self, messages: Sequence[Message], text: str, region: tuple[int, int]) -> tuple[int, int]:
        """(first, last) of `completion_ids`, last excluded: the tokens that hold any of these characters of `text`.

        A region that reaches beyond the text includes the end-of-turn token.
        """
        said, _ = self._said(messages, text)
        core = text.strip()  # some templates strip what they are given
        before = said.find(text) if text in said else said.find(core) - text.find(core)
        first, last = region[0] + before, region[1] + before
        spans = self.tokenizer(said, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        touched = [index for index, (start, end) in enumerate(spans) if start < last and end > first]
        touched += [len(spans)] if region[1] > len(text) or not touched else []
        return touched[0], touched[-1] + 1

    def places(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Characters (first, last excluded) of `decode(ids)` that each token added; an end of turn adds none.

        Exact for any ids, drawn ones too, which need not be those that the text would be split into. Of a character
        whose bytes are spread over tokens, the last of them adds it.
        """
        ends = [len(self.decode(ids[: count + 1]).rstrip(_TORN)) for count in range(len(ids))]
        return list(zip([0, *ends[:-1]], ends, strict=True))

    @cached_property
    def spelling(self) -> Spelling:
        """Which bytes its tokens stand for. ConfigError for a kind of tokenizer that is not known."""
        return Spelling(self.tokenizer, [self.end, *sorted(self.eos_ids - {self.end})])

    def save(self, directory: Path, *, tags: bool) -> None:
        """Writes the tokenizer for use elsewhere; with `tags` its template has every answer stand behind empty ones."""
        own = self.tokenizer.chat_template
        ask = "{% if add_generation_prompt %}{{ " + repr(NO_STRATEGY) + " }}{% endif %}"
        self.tokenizer.chat_template = f"{own}{ask}" if tags else own
        try:
            self.tokenizer.save_pretrained(directory)
        finally:
            self.tokenizer.chat_template = own

    def _said(self, messages: Sequence[Message], text: str) -> tuple[str, int]:
        """`text` as the template puts it after its generation prompt, and the end-of-turn token that follows."""
        prompt = self._render(messages, generation=True)
        whole = self._render((*messages, {"role": "assistant", "content": text}), generation=False)
        if not whole.startswith(prompt):
            raise ConfigError(
                f"the chat template of `{self._name}` does not put an answer right after its generation prompt: "
                f"expected {prompt[-40:]!r} before it, got {whole[: len(prompt)][-40:]!r}; mend `chat_template.jinja`"
            )
        said = whole[len(prompt) :]
        end, eos = max(((said.rfind(text), text) for text in self.eos_texts), default=(-1, ""))
        if end < 0:
            raise ConfigError(
                f"the chat template of `{self._name}` does not end an answer with an end-of-turn token: got "
                f"{said[-40:]!r}, expected one of {sorted(self.eos_texts)}; mend its template or its `eos_token`"
            )
        return said[:end], self.eos_texts[eos]

    def answer(self, ids: Sequence[int], *, tags: bool = False) -> str:
        """What a completion says; with `tags`, without a strategy that the student put before it."""
        text = self.decode(ids)
        strategy = _STRATEGY.match(text) if tags else None
        return text[strategy.end() :] if strategy else text

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion: without its final end-of-turn token, and otherwise untouched."""
        kept = ids[:-1] if ids and ids[-1] in self.eos_ids else ids
        text = self.tokenizer.decode(list(kept), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), f"{type(text)=}"
        return text

    def _render(self, messages: Sequence[Message], *, generation: bool) -> str:
        # Templates of reasoning models open a thinking block unless told not to; the others ignore the word.
        plain: list[dict[str, Any]] = [{**message, "content": _text(message.get("content"))} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                plain,
                tokenize=False,
                add_generation_prompt=generation,
                enable_thinking=False,
            )
        except TemplateError as fault:  # some refuse a system message, or roles that do not alternate
            roles = ", ".join(str(message["role"]) for message in messages)
            raise ConfigError(
                f"the chat template of `{self._name}` refuses a conversation of {roles}: {fault}; change the prompts, "
                "or put another `chat_template.jinja` into a local copy of the model"
            ) from None
        assert isinstance(text, str), f"{type(text)=}"
        return text

    def _encode(self, text: str, *, special: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
