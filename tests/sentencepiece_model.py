"""A sentencepiece model of byte-pair encoding as a fast tokenizer, without sentencepiece: its file is read here."""

from collections.abc import Iterator
from pathlib import Path
from struct import unpack

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

UNKNOWN, CONTROL = 2, 3
"""Types of pieces; one without a type is text."""


def sentencepiece_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """As the Llama and Mistral families use it: bytes where a character has no piece, a space before every text."""
    pieces = list(_pieces(path.read_bytes()))
    vocab = {text: id for id, (text, _, _) in enumerate(pieces)}
    # Two pieces may be joined if that is a piece too, first into the one with the highest score.
    joins = [
        (-score, text[:cut], text[cut:])
        for text, score, kind in pieces
        if not kind
        for cut in range(1, len(text))
        if text[:cut] in vocab and text[cut:] in vocab
    ]
    merges = [(left, right) for _, left, right in sorted(joins)]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text, _, kind in pieces if kind in (UNKNOWN, CONTROL)]
    )
    return as_llama(tokenizer)


def as_llama(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Spaces as Llama marks them; `</s>` ends a turn."""
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def _pieces(model: bytes) -> Iterator[tuple[str, float, int]]:
    """(text, score, type) of each piece; type 0 for text."""
    for field, piece in _fields(model):
        if field == 1 and isinstance(piece, bytes):
            found = dict(_fields(piece))
            text, score, kind = found[1], found.get(2, b"\0\0\0\0"), found.get(3, 0)
            assert isinstance(text, bytes)
            assert isinstance(score, bytes)
            yield text.decode(), unpack("<f", score)[0], 0 if kind == 1 else int(kind)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The numbers and values of a protobuf message's fields: bytes as they are, numbers of variable length as ints."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        if key & 7 == 0:
            value, at = _number(message, at)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(key & 7)
        if length is None:
            length, at = _number(message, at)
        yield key >> 3, message[at : at + length]
        at += length


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A number of variable length and where it ends: seven bits a byte, the lowest first."""
    value = shift = 0
    while message[at] & 0x80:
        value, shift, at = value | (message[at] & 0x7F) << shift, shift + 7, at + 1
    return value | message[at] << shift, at + 1
