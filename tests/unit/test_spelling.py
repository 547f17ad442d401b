"""Tokens to bytes and back, with vocabularies small enough to know every token."""

import math
from collections.abc import Callable

import pytest
from sentencepiece_model import as_llama
from student_fixtures import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bbdistill.errors import ConfigError
from bbdistill.student.spelling import Spelling, folded
from bbdistill.student.tokenize import Chat

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = ["The capital", " two  spaces ", "naïve 日本 🙂\n\t", "number 17", "<|im_end|></s>"]


def llama() -> PreTrainedTokenizerFast:
    """`▁` (259), `a`, `b`, `▁a` (262), `ab`, `▁ab` (264), and a token for every byte (3 to 258)."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", "▁a", "ab", "▁ab"]
    merges = [("▁", "ab"), ("a", "b"), ("▁", "a")]
    vocab = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, sorted(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return as_llama(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """As T5's, whose decoder takes away all spaces that a text begins with."""
    scored = [("<unk>", 0.0), *((token, -9.0) for token in BYTES), ("▁", -2.0), ("a", -3.0), ("▁a", -4.0), ("b", -3.0)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    tokenizer.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def byte_level() -> Spelling:
    return Spelling(tiny_tokenizer(), [2])


@pytest.fixture(scope="module")
def with_spaces() -> Spelling:
    return Spelling(llama(), [2])


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [tiny_tokenizer, llama])
def test_pieces_together_are_the_text(make: Callable[[], PreTrainedTokenizerFast], text: str):
    tokenizer = make()
    ids = encode(tokenizer, text)
    spelling = Spelling(tokenizer, [2])
    assert b"".join(spelling.pieces(ids)) == text.encode() == tokenizer.decode(ids).encode()
    assert spelling.ids(text.encode()) == ids


def test_pieces_of_a_byte_level_vocabulary(byte_level: Spelling):
    pieces = byte_level.pieces([*byte_level.ids("France é".encode()), 1, 2])
    assert pieces[-4:] == [b"\xc3", b"\xa9", b"<|im_start|>", b""]
    assert pieces[:-4] == byte_level.pieces(byte_level.ids(b"France "))


def test_pieces_together_are_what_the_chat_decodes(byte_level: Spelling):
    chat = Chat(tiny_tokenizer())
    for text in TEXTS:
        ids = [*chat.completion_ids([{"role": "user", "content": "a"}], text)[:-1], 1, 2]
        assert b"".join(byte_level.pieces(ids)).decode() == chat.decode(ids) == text + "<|im_start|>"


def test_the_space_that_is_put_before_a_text_is_no_piece_of_it(with_spaces: Spelling):
    assert with_spaces.ids(b"ab a") == [264, 262]
    assert with_spaces.pieces([264, 262, 2]) == [b"ab", b" a", b""]
    assert with_spaces.ids(b" a") == [259, 262]
    assert with_spaces.pieces([259, 262]) == [b"", b" a"]
    assert with_spaces.pieces([3 + 0xE6, 259, 3 + 0x20, 261]) == [b"\xe6", b" ", b" ", b"b"]
    assert with_spaces.piece(10_000) == b""


def test_a_unigram_vocabulary_decodes_to_its_pieces_too():
    tokenizer = unigram()
    spelling = Spelling(tokenizer, [tokenizer.eos_token_id])
    for text in ("a b", "ab 日本", "b  a"):
        ids = encode(tokenizer, text)
        assert b"".join(spelling.pieces(ids)) == text.encode() == tokenizer.decode(ids).encode()
    lost = encode(tokenizer, "  a")
    assert b"".join(spelling.pieces(lost)) == b" a" == tokenizer.decode(lost).encode()
    with pytest.raises(ValueError, match="no tokens that spell b'  a'"):
        spelling.ids(b"  a")


@pytest.mark.parametrize("name", ["byte_level", "with_spaces"])
@pytest.mark.parametrize("data", [b"ab\xff a", b"\xf0\x9f\x99", b" \xe6\x97 b\xa5ab", b"\x80\x80", b"b\xc3\na", b""])
def test_bytes_that_are_no_text_are_spelt_too(name: str, data: bytes, request: pytest.FixtureRequest):
    spelling: Spelling = request.getfixturevalue(name)
    assert b"".join(spelling.pieces(spelling.ids(data))) == data


def test_within_a_completion_no_space_is_put_before_a_text(with_spaces: Spelling):
    assert with_spaces.ids(b"\xffab\xff a\xffc") == [258, 263, 258, 262, 258, 3 + ord("c")]


def test_the_mark_of_a_space_in_a_text_is_no_space(with_spaces: Spelling):
    mark = [3 + byte for byte in "▁".encode()]
    assert with_spaces.ids("a▁b".encode()) == [262, *mark, 261]
    assert with_spaces.pieces([262, *mark]) == [b"a", b"\xe2", b"\x96", b"\x81"]
    assert llama().decode([262, *mark, 261]) == "a▁b"


@pytest.mark.parametrize("data", [b"a\xff", b"ab"])
def test_a_byte_without_a_token_is_an_error_in_text_or_not(data: bytes):
    tokenizer = Tokenizer(models.BPE({"a": 0, "</s>": 1}, []))
    tokenizer.decoder = decoders.ByteLevel()
    spelling = Spelling(PreTrainedTokenizerFast(tokenizer_object=tokenizer), [1])
    assert spelling.ids(b"aa") == [0, 0]
    with pytest.raises(ValueError, match="no tokens that spell"):
        spelling.ids(data)


def test_every_piece_leads_back_to_its_token(byte_level: Spelling, with_spaces: Spelling):
    for id in range(3, len(tiny_tokenizer())):
        assert byte_level.token(byte_level.piece(id)) == id
    for id in (*range(259, 265), 3 + 0x80, 258, 3):
        assert with_spaces.token(with_spaces.piece(id)) == id


def test_a_piece_is_spelt_by_an_ordinary_token_rather_than_by_that_of_a_byte(with_spaces: Spelling):
    assert with_spaces.token(b"a") == 260
    assert with_spaces.token(b"c") == 3 + ord("c")
    assert with_spaces.token(b" ab") == 264
    assert with_spaces.token(b"ab") == 263
    assert with_spaces.token(b"ab", first=True) == 264
    assert with_spaces.token(b"abc") is None
    assert with_spaces.token(b"") is None


def test_special_tokens_are_no_text(with_spaces: Spelling):
    assert with_spaces.token(b"<s>") is None


def test_the_first_token_of_another_tokenizer_is_without_the_space_before_it(
    byte_level: Spelling, with_spaces: Spelling
):
    assert [byte_level.token(with_spaces.piece(id, first=True)) for id in (262, 260)] == [byte_level.token(b"a")] * 2
    assert byte_level.token(with_spaces.piece(259, first=True)) is None  # "▁" alone says nothing yet
    assert with_spaces.token(b"a", first=True) == 262


def test_alternatives_that_are_one_token_add_up_and_those_that_are_none_are_the_rest():
    given = [(8, 0.3), (None, 0.15), (5, 0.2), (8, 0.1), (None, 0.01)]
    found = folded((token, math.log(p)) for token, p in given)
    assert list(found.logprobs) == [8, 5]
    assert [math.exp(logprob) for logprob in found.logprobs.values()] == pytest.approx([0.4, 0.2])
    assert [math.exp(logprob) for logprob in found.rest] == pytest.approx([0.15, 0.01])


def test_probabilities_of_0_stay_0():
    assert folded([(8, -math.inf), (8, -math.inf)]).logprobs == {8: -math.inf}


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece(), decoders.Fuse(), decoders.Metaspace(replacement="_")])
def test_a_vocabulary_of_another_kind_is_an_error(decoder: decoders.Decoder | None):
    tokenizer = Tokenizer(models.BPE({"a": 0, "</s>": 1}, []))
    if decoder:
        tokenizer.decoder = decoder
    with pytest.raises(ConfigError, match=r"cannot tell which bytes the tokens of .* stand for"):
        Spelling(PreTrainedTokenizerFast(tokenizer_object=tokenizer), [1])
