"""What the probes make of verifiers that are good, weak, broken or fickle; real ones where there are such."""

import itertools
import threading

import pytest

from bbdistill.advisor.checked import Checked
from bbdistill.advisor.findings import Findings, marks
from bbdistill.advisor.probes import Probed, as_answer, probe, shuffled, truncated
from bbdistill.advisor.trust import trust_in
from bbdistill.types import Abstain, Prompt, Verdict, Verify
from bbdistill.verify.base import combine
from bbdistill.verify.fields import Fields
from bbdistill.verify.schema import JsonSchema

SCHEMA = JsonSchema({"type": "object", "required": ["city", "zip"]})
PROMPTS = [
    Prompt(id=f"p{i}", messages=({"role": "user", "content": f"{i}"},), reference={"city": f"C{i}", "zip": 100 + i})
    for i in range(8)
]


def answers(prompts: list[Prompt]) -> dict[str, list[str]]:
    return {prompt.id: [as_answer(prompt.reference)] for prompt in prompts}


def checked(verify: Verify) -> Checked:
    return Checked(verify, on_event=lambda _: None, stop=threading.Event())


def probed(verify: Verify, prompts: list[Prompt] = PROMPTS) -> Probed:
    return probe(prompts, answers(prompts), checked(verify))


def said_of(verify: Verify, prompts: list[Prompt] = PROMPTS) -> tuple[str, str]:
    found = probed(verify, prompts)
    passed = marks([verify(prompt, text) for prompt in prompts for text in answers(prompts)[prompt.id]]).passed
    figures = {name: getattr(found, name) for name in Probed.__dataclass_fields__}
    return trust_in(Findings(prompts=8, given=8, has_verifier=True, given_pass=passed, **figures))


def test_a_verifier_that_knows_the_answer_catches_everything() -> None:
    found = probed(Fields())
    for figure in (found.rejects_empty, found.rejects_other, found.rejects_shuffled, found.rejects_truncated):
        assert (figure.value, figure.n) == (1.0, 8)
    assert (found.steady.value, found.accepts_reference.value) == (1.0, 1.0)
    # Cut answers are not JSON in eight ways or fewer; the other rejections name the wrong fields and what they hold.
    assert found.feedback.n == 24
    assert (found.feedback.value or 0) > 0.5
    assert said_of(Fields()) == (
        "trusted",
        "the verifier rejects 32 of 32 empty, misplaced or damaged answers, and accepts 8 of 8 given demonstrations",
    )


def test_a_schema_alone_checks_form() -> None:
    found = probed(SCHEMA)
    assert (found.rejects_empty.value, found.rejects_truncated.value) == (1.0, 1.0)
    assert (found.rejects_other.value, found.rejects_shuffled.value) == (0.0, 0.0)
    says = "the verifier passes 8 of 8 answers to another prompt: it checks form, not content"
    assert said_of(SCHEMA) == ("weak", says)


def test_references_on_half_of_the_prompts_leave_the_other_half_to_the_schema() -> None:
    half = [
        Prompt(id=p.id, messages=p.messages, reference=p.reference if i % 2 else None) for i, p in enumerate(PROMPTS)
    ]
    known = {prompt.id: [as_answer(prompt.reference)] for prompt in PROMPTS}
    found = probe(half, known, checked(combine([SCHEMA, Fields()])))
    assert (found.rejects_other.value, found.rejects_other.n) == (0.5, 8)
    assert found.accepts_reference.n == 4


@pytest.mark.parametrize(
    ("verify", "trust", "says"),
    [
        (lambda *_: Verdict(score=1.0, passed=True, feedback=""), "broken", "accepts everything"),
        (lambda *_: Verdict(score=0.0, passed=False, feedback="no"), "broken", "rejects everything"),
        (lambda *_: Abstain(reason="no idea"), "none", "judges nothing (it abstains: no idea)"),
    ],
)
def test_a_verifier_without_judgement(verify: Verify, trust: str, says: str) -> None:
    found, sentence = said_of(verify)
    assert found == trust
    assert says in sentence


def test_a_verifier_that_flips_is_broken() -> None:
    turns = itertools.count()

    def fickle(prompt: Prompt, answer: str) -> Verdict:
        passed = next(turns) % 2 == 0
        return Verdict(score=float(passed), passed=passed, feedback="")

    trust, says = said_of(fickle)
    assert trust == "broken"
    assert "contradicts itself" in says


def test_answers_that_say_the_same_are_not_misplaced() -> None:
    labels = [Prompt(id=f"l{i}", messages=(), reference={"label": i % 2 == 0}) for i in range(4)]
    found = probed(Fields(), labels)
    assert (found.rejects_other.value, found.rejects_other.n) == (1.0, 4)  # always the other label
    alike = probed(Fields(), labels[::2])
    assert (alike.rejects_other.value, alike.rejects_other.why) == (None, "no two answers differ")


def test_the_answer_that_passes_is_the_one_to_damage() -> None:
    known = {prompt.id: ["nonsense", as_answer(prompt.reference)] for prompt in PROMPTS}
    assert probe(PROMPTS, known, checked(Fields())).rejects_truncated.n == 8
    found = probe([PROMPTS[0]], {}, checked(Fields()))  # the reference itself, where nothing else is known
    assert found.rejects_truncated.n == 1
    bare = [Prompt(id="b", messages=())]
    assert probe(bare, {}, checked(SCHEMA)).rejects_other.why == "there is no answer to damage"
    assert probe(bare, {}, checked(SCHEMA)).rejects_empty.n == 1


def test_damage_changes_the_text_and_keeps_its_parts() -> None:
    damaged = shuffled('{"a": 1, "b": [2], "c": null}', "s")
    assert damaged is not None
    assert damaged != '{"a": 1, "b": [2], "c": null}'
    assert sorted(damaged) == sorted('{"a": 1, "b": [2], "c": null}')
    assert sorted((shuffled("one two\nthree\nfour", "s") or "").split("\n")) == ["four", "one two", "three"]
    assert sorted((shuffled("one two three", "s") or "").split()) == ["one", "three", "two"]
    assert [shuffled(text, "s") for text in ("word", "", '{"a": 1, "b": 1}', "x x")] == [None] * 4
    assert shuffled("one two three", "s") == shuffled("one two three", "s")
    assert (truncated("abcd"), truncated("a"), truncated("")) == ("ab", None, None)
