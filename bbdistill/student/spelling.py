"""What the tokens of a tokenizer spell, in bytes, and which token spells what."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from bbdistill.errors import ConfigError

SPACE = "\u2581"
"""What stands for a space in the tokens of a sentencepiece-like vocabulary."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""The token of a byte, where a vocabulary falls back on these."""
_BROKEN = "\udc80-\udcff"
"""Bytes that belong to no character, as `surrogateescape` has them."""
SHOWN = 32
"""Bytes of a text in an error."""


def _byte_alphabet() -> dict[str, int]:
    """What a byte-level vocabulary (GPT-2) writes for each byte: its character if it can be seen, else another one."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = sorted({*range(0x100)} - {*seen})
    return {chr(byte): byte for byte in seen} | {chr(0x100 + i): byte for i, byte in enumerate(unseen)}


_ALPHABET = _byte_alphabet()


class Spelling:
    """Tokens to bytes and back, for a byte-level vocabulary or a sentencepiece-like one; ConfigError for any other.

    A sentencepiece-like tokenizer may put a space before a text and take it away when it decodes: `first` is for the
    token that a completion begins with. An end of turn spells nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> None:
        """`ends` are the tokens that end a turn, first the one that the chat template uses."""
        self.end, self._ends = ends[0], frozenset(ends)
        self._tokenizer = tokenizer
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        decoder = backend.decoder if backend else None
        steps = _steps(json.loads(decoder.__getstate__())) if decoder else []
        kinds = {step["type"] for step in steps}
        self._byte_level = kinds == {"ByteLevel"}
        self._falls_back, self._strips = "ByteFallback" in kinds, bool(kinds & {"Strip", "Metaspace"})
        if not self._byte_level and not _like_sentencepiece(steps):
            raise ConfigError(
                f"cannot tell which bytes the tokens of `{tokenizer.name_or_path}` stand for: expected a byte-level "
                f"vocabulary (as GPT-2's) or a sentencepiece-like one, got a {type(tokenizer).__name__} that decodes "
                f"by {[step['type'] for step in steps]}; use a student and a teacher that share their tokenizer"
            )
        self._decoder: Any = decoder
        # The mark of a space, in a text, is taken for a space by those who write it so.
        self._apart = re.compile(f"([{_BROKEN}{'' if self._byte_level else SPACE}])")
        self._tokens: dict[int, str] = {id: token for token, id in backend.get_vocab(with_added_tokens=True).items()}
        added = backend.get_added_tokens_decoder()
        self.end_texts = frozenset(self._tokens[id].encode() for id in self._ends if id in self._tokens)
        """How a server names the end of a turn, if it has the same token for it."""
        self._special = self._ends | {id for id, token in added.items() if token.special}

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes that each token of a completion adds to it: `Chat.decode` gives their text, as far as it is any."""
        return [self.piece(id, first=index == 0) for index, id in enumerate(ids)]

    def piece(self, id: int, *, first: bool = False) -> bytes:
        """The bytes of a token: none of an end of turn, and of an id that is no token."""
        token = "" if id in self._ends else self._tokens.get(id, "")
        if self._byte_level:
            known = [_ALPHABET[c] for c in token if c in _ALPHABET]
            return bytes(known) if len(known) == len(token) else token.encode()
        byte = self._byte_of(token)
        if byte is not None and byte >= 0x80:
            return bytes([byte])
        if first and self._strips and token:
            return self._decoder.decode([token]).encode()
        return token.replace(SPACE, " ").encode() if byte is None else bytes([byte])

    def token(self, piece: bytes, *, first: bool = False) -> int | None:
        """The one token that spells `piece`, None where there is none. Special tokens spell nothing here."""
        return (self._of_first if first and self._strips else self._of_piece).get(piece)

    def ids(self, data: bytes) -> list[int]:
        """A completion that spells `data`, without an end: the tokens of its text, and of each broken byte its own.

        ValueError where the vocabulary cannot spell it: it has no token for a byte, or changes what it is given.
        """
        found = list[int]()
        for part in self._apart.split(data.decode("utf-8", "surrogateescape")):
            if self._apart.fullmatch(part):
                found += self._bytewise(part.encode("utf-8", "surrogateescape"))
            elif part:
                found += self._of_text(part, first=not found)
        if b"".join(self.pieces(found)) != data:
            raise self._cannot_spell(data)
        return found

    def _of_text(self, text: str, *, first: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if first or b"".join(map(self.piece, ids)) != b" " + text.encode():
            return ids
        # Nothing takes away the space that was put before this text: it does not begin the completion.
        bare = self.piece(ids[0])[1:]
        token = self.token(bare)
        return [*(self._bytewise(bare) if token is None else [token]), *ids[1:]]

    def _bytewise(self, data: bytes) -> list[int]:
        found = [self.token(bytes([byte])) for byte in data]
        if None in found:
            raise self._cannot_spell(data)
        return [id for id in found if id is not None]

    def _cannot_spell(self, data: bytes) -> ValueError:
        return ValueError(
            f"the tokenizer of `{self._tokenizer.name_or_path}` has no tokens that spell {_short(data)}; leave this "
            "completion out"
        )

    @cached_property
    def _of_piece(self) -> dict[bytes, int]:
        return self._spelt(first=False)

    @cached_property
    def _of_first(self) -> dict[bytes, int]:
        return self._spelt(first=True)

    def _spelt(self, *, first: bool) -> dict[bytes, int]:
        """Of several tokens with the same bytes, one with the space that is taken away; that of a byte comes last."""

        def rank(id: int) -> tuple[bool, bool, int]:
            token = self._tokens[id]
            return self._byte_of(token) is None, token.startswith(SPACE), -id

        ids = sorted(self._tokens.keys() - self._special, key=rank)
        return {piece: id for id in ids if (piece := self.piece(id, first=first))}

    def _byte_of(self, token: str) -> int | None:
        found = _BYTE.fullmatch(token) if self._falls_back else None
        return int(found[1], 16) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """What a teacher might have said at one place, as far as it is known, in the tokens of a student."""

    logprobs: Mapping[int, float]
    """The teacher's log-probs in nats by the student's token, added up where several of its tokens are one of these."""
    rest: tuple[float, ...]
    """Log-probs of what the student has no single token for."""


def folded(alternatives: Iterable[tuple[int | None, float]]) -> Support:
    """What a teacher's alternatives are as the student's tokens, None where it has none; they keep their order."""
    found, rest = dict[int, float](), list[float]()
    for token, logprob in alternatives:
        if token is None:
            rest.append(logprob)
        else:
            found[token] = _log_sum(found[token], logprob) if token in found else logprob
    return Support(logprobs=found, rest=tuple(rest))


def _short(data: bytes) -> str:
    return repr(data) if len(data) <= SHOWN else f"{data[:SHOWN]!r}..."


def _log_sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high)) if low > -math.inf else high


def _steps(decoder: Any) -> list[Any]:
    """The steps of a decoder in JSON."""
    return [step for part in decoder["decoders"] for step in _steps(part)] if "decoders" in decoder else [decoder]


def _like_sentencepiece(steps: Sequence[Any]) -> bool:
    """Whether all that a decoder does is to undo the marks of spaces and bytes."""
    spaces = [
        step.get("replacement") == SPACE or (step.get("pattern"), step.get("content")) == ({"String": SPACE}, " ")
        for step in steps
        if step["type"] in ("Replace", "Metaspace")
    ]
    others = {step["type"] for step in steps} - {"Replace", "Metaspace"}
    return bool(spaces) and all(spaces) and others <= {"ByteFallback", "Fuse", "Strip"}
