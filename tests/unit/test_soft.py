"""The distillation term on the tiny student, held against whole distributions; and which outcomes a unit has."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from student_examples import disturb, plain_logprobs, sft_examples
from student_fixtures import prompts, tiny_config, tiny_student
from torch import Tensor

from bbdistill.config.training import DistillConfig
from bbdistill.student import soft
from bbdistill.student.model import load_base
from bbdistill.student.open import open_student
from bbdistill.student.scores import score_rows, text_row
from bbdistill.student.soft import SURE, SoftUnit, soft_units
from bbdistill.student.student import Student
from bbdistill.student.tree import Row
from bbdistill.types import DistillExample, Prompt, ScoredToken

TEXT = '{"number": 17}'


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_student(tmp_path_factory.mktemp("teacher"), seed=5)


def whole(student: Student, prompt: str = "") -> Tensor:
    """(T, V) log-probs at each token of TEXT, for the first prompt."""
    chat, model = student.base.chat, student.base.model
    asked = prompts(1)[0]
    ids, said = chat.prompt_ids(asked.messages), chat.completion_ids(asked.messages, TEXT)
    logits = model(input_ids=torch.tensor([[*ids, *said]]), use_cache=False).logits[0].float().log_softmax(-1)
    return logits[len(ids) - 1 : -1]


def test_scores_are_the_log_probs_of_the_text_and_of_the_likeliest_tokens(teacher_path: Path):
    base, prompt = load_base(str(teacher_path), device="cpu", dtype="float32"), prompts(1)[0]
    (found,) = score_rows(base, [text_row(base, prompt.messages, TEXT)], top_k=3)
    ids = base.chat.completion_ids(prompt.messages, TEXT)
    row = Row(prompt=tuple(base.chat.prompt_ids(prompt.messages)), completion=tuple(ids))
    assert [token.logprob for token in found] == pytest.approx(plain_logprobs(base.model, row).tolist(), abs=1e-4)
    assert b"".join(token.piece or b"" for token in found).decode() == TEXT
    assert found[-1].piece is None
    for token in found:
        assert [value for _, value in token.top] == sorted((value for _, value in token.top), reverse=True)
        assert len(token.top) == 3


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_with_the_whole_vocabulary_it_is_the_exact_divergence(kind: str, model: Path, teacher_path: Path):
    settings = DistillConfig.model_validate({"divergence": kind, "top_k": 400})
    student, _ = open_student(tiny_config(model).model_copy(update={"distill": settings}))
    disturb(student)
    teacher, prompt = load_base(str(teacher_path), device="cpu", dtype="float32"), prompts(1)[0]
    (scored,) = score_rows(teacher, [text_row(teacher, prompt.messages, TEXT)], top_k=400)
    told, _ = open_student(tiny_config(teacher_path))
    with student.adapters.use("policy"):
        ours = whole(student)
    with told.adapters.use(None):
        theirs = whole(told)
    p, q = (theirs, ours) if kind == "forward_kl" else (ours, theirs)
    expected = (p.exp() * (p - q)).sum(1).mean().item()
    example = DistillExample(prompt=prompt, completion=TEXT, scored=scored)
    metrics = student.update([], [], [], [example], learning_rate=0.0)
    # Ends of turn and special tokens are folded into one, and text is never cut into them.
    assert metrics["distill/loss"] == pytest.approx(expected, rel=0.02)
    assert metrics["distill/unaligned"] == 0


def test_learning_brings_the_student_to_the_teacher(student: Student, teacher_path: Path):
    teacher, prompt = load_base(str(teacher_path), device="cpu", dtype="float32"), prompts(1)[0]
    (scored,) = score_rows(teacher, [text_row(teacher, prompt.messages, TEXT)], top_k=20)
    example = DistillExample(prompt=prompt, completion=TEXT, scored=scored)
    found = [student.update([], [], [], [example], learning_rate=1e-2)["distill/kl"] for _ in range(25)]
    assert found[-1] < 0.25 * found[0]


def test_on_its_own_rollouts_the_student_comes_to_the_teacher(model: Path):
    """The teacher is the same model, trained; at first it finds itself in bytes that are no text, and scores them."""
    taught, _ = open_student(tiny_config(model))
    for _ in range(40):
        taught.update([], sft_examples(), learning_rate=1e-2)
    settings = DistillConfig(divergence="reverse_kl")
    student, _ = open_student(tiny_config(model).model_copy(update={"distill": settings}))
    found: list[float] = []
    for step in range(60):
        drawn = [rollout for group in student.sample(prompts(4), group_size=3, step=step) for rollout in group]
        with taught.adapters.use("policy"):
            told = [text_row(taught.base, r.prompt.messages, student.spelt(r)) for r in drawn]
            scores = score_rows(taught.base, told, top_k=40)
        examples = [
            DistillExample(prompt=rollout.prompt, completion=rollout.token_ids, scored=scored)
            for rollout, scored in zip(drawn, scores, strict=True)
        ]
        metrics = student.update([], [], [], examples, learning_rate=1e-2)
        assert metrics["distill/unaligned"] == 0
        found.append(metrics["distill/loss"])
    assert sum(found[-5:]) < 0.6 * sum(found[:5])
    assert metrics["distill/agreement"] > 0.5


def test_a_text_that_the_teacher_spells_otherwise_is_counted_and_left_out(student: Student):
    other = (ScoredToken(piece=b"{}", logprob=-1.0), ScoredToken(piece=None, logprob=-1.0))
    example = DistillExample(prompt=prompts(1)[0], completion=TEXT, scored=other)
    before = student.version
    assert student.update([], [], [], [example], learning_rate=1e-2) == {"distill/unaligned": 1.0}
    assert student.version == before


def test_units_of_one_token_and_of_several(student: Student):
    chat = student.base.chat
    ids = chat.completion_ids(prompts(1)[0].messages, "number Q")
    pieces = chat.spelling.pieces(ids)
    assert len(pieces) > 3
    first = ScoredToken(
        piece=pieces[0], logprob=-0.5, top=((pieces[0], -0.5), (b"{", -1.5), (b"not a token", -3.0), (None, -4.0))
    )
    rest = ScoredToken(piece=b"".join(pieces[1:-1]), logprob=-2.0)
    end = ScoredToken(piece=None, logprob=-0.1)
    found = soft_units(ids, (first, rest, end), chat.spelling, whole=True)
    brace = chat.spelling.token(b"{")
    assert found[0] == SoftUnit(tokens=(0, 1), outcomes=((ids[0], -0.5), (brace, -1.5), (chat.end, -4.0)), rest=(-3.0,))
    assert found[1] == SoftUnit(tokens=(1, len(ids) - 1), outcomes=((ids[1], -2.0),))
    assert found[2].tokens == (len(ids) - 1, len(ids))
    assert [unit.single for unit in found] == [True, False, True]
    # A server that scores no end of a rollout, a rollout that has none: no unit of it. A demonstration surely ended.
    assert soft_units(ids, (first, rest), chat.spelling, whole=False) == found[:2]
    assert soft_units(ids[:-1], (first, rest, end), chat.spelling, whole=False) == found[:2]
    sure = SoftUnit(tokens=(len(ids) - 1, len(ids)), outcomes=((chat.end, SURE),))
    assert soft_units(ids, (first, rest), chat.spelling, whole=True) == [*found[:2], sure]


def test_a_student_whose_teacher_scores_no_ends_comes_to_an_end(student: Student):
    """Told of everything but these, it went on for ever."""
    asked, texts = prompts(3), ['{"number": %s}' % ("7" * (i + 1)) for i in range(3)]
    scores = [tuple(ScoredToken(piece=character.encode(), logprob=-0.1) for character in text) for text in texts]
    examples = [
        DistillExample(prompt=prompt, completion=text, scored=scored)
        for prompt, text, scored in zip(asked, texts, scores, strict=True)
    ]
    for _ in range(60):
        student.update([], [], [], examples, learning_rate=1e-2)
    assert student.answer(asked) == texts


def test_neighbours_in_a_micro_batch_change_nothing(student: Student, monkeypatch: pytest.MonkeyPatch):
    """One text whose teacher names one token that the student has not, and one whose teacher names six."""

    def example(prompt: Prompt, *strange: float) -> DistillExample:
        spelling = student.base.chat.spelling
        pieces = spelling.pieces(student.base.chat.completion_ids(prompt.messages, "number Q"))[:-1]
        rest = tuple((b"zz%d" % n, math.log(p)) for n, p in enumerate(strange))
        scored = tuple(ScoredToken(piece=p, logprob=math.log(0.5), top=((p, math.log(0.5)), *rest)) for p in pieces)
        return DistillExample(prompt=prompt, completion="number Q", scored=scored)

    one, other = prompts(2)
    examples = [example(one, 0.2), example(other, 0.1, 0.08, 0.07, 0.06, 0.05, 0.04)]
    together = student.update([], [], [], examples, learning_rate=0.0)

    def alone(_: object, groups: Sequence[object]) -> list[list[int]]:
        return [[index] for index in range(len(groups))]

    monkeypatch.setattr(soft, "micro_batches", alone)
    apart = student.update([], [], [], examples, learning_rate=0.0)
    for name in ("distill/loss", "distill/kl", "optim/grad_norm"):
        assert together[name] == pytest.approx(apart[name], rel=1e-4), name


def test_a_server_names_the_end_of_a_turn_by_its_text(student: Student):
    chat = student.base.chat
    ids = chat.completion_ids(prompts(1)[0].messages, "Q")
    piece = chat.spelling.piece(ids[0])
    scored = [ScoredToken(piece=piece, logprob=-0.5, top=((piece, -0.5), (b"<|im_end|>", -1.0)))]
    (unit,) = soft_units(ids[:1], scored, chat.spelling, whole=False)
    assert unit.outcomes == ((ids[0], -0.5), (chat.spelling.end, -1.0))
    assert unit.rest == ()


def test_two_tokenizers_and_what_the_student_cannot_say(student: Student):
    """One update over single units, a unit of several tokens, and a rest; the text itself becomes as likely as said."""
    ids = student.base.chat.completion_ids(prompts(1)[0].messages, "number Q")
    pieces = student.base.chat.spelling.pieces(ids)
    scored = (
        ScoredToken(piece=pieces[0], logprob=math.log(0.9), top=((pieces[0], math.log(0.9)), (b"zzz", math.log(0.05)))),
        ScoredToken(piece=b"".join(pieces[1:-1]), logprob=math.log(0.9)),
        ScoredToken(piece=None, logprob=math.log(0.9)),
    )
    example = DistillExample(prompt=prompts(1)[0], completion="number Q", scored=scored)
    for _ in range(40):
        metrics = student.update([], [], [], [example], learning_rate=1e-2)
    assert metrics["distill/kl"] < 0.02
    said = -student.nll([(prompts(1)[0], "number Q")])[0] * len(ids)
    assert said == pytest.approx(3 * math.log(0.9), abs=0.25)
