"""The discriminator on a tiny random model: what it learns, from which pairs, how fast, and its frozen copy."""

from dataclasses import replace
from pathlib import Path

import pytest
from student_examples import ranked_pairs, rollout_of
from student_fixtures import prompts, tiny_config, tiny_student

from bbdistill.config.training import DiscriminatorConfig
from bbdistill.errors import RunError
from bbdistill.student.discriminator import Discriminator
from bbdistill.student.open import open_student
from bbdistill.student.student import Student
from bbdistill.types import Demonstration, PairSource, Prompt, Rollout

SOURCES: tuple[PairSource, ...] = ("teacher", "preference", "correction")


def test_the_discriminator_learns_its_pairs(discriminator: Discriminator):
    first = discriminator.update(ranked_pairs())
    assert first["discriminator/loss"] == pytest.approx(0.693, abs=0.1)
    for _ in range(15):
        last = discriminator.update(ranked_pairs())
    assert last["discriminator/accuracy"] == 1
    assert last["discriminator/loss"] < 0.2
    assert last["discriminator/margin"] > 1
    assert discriminator.version == 16
    good, bad = discriminator.score([(prompts(1)[0], '{"number": 7}'), (prompts(1)[0], "hello")])
    assert good > bad + 1


def test_scores_have_the_shape_of_the_rollouts_and_do_not_depend_on_the_batch(
    student: Student, discriminator: Discriminator
):
    rollouts = student.sample(prompts(3), group_size=2, step=0)
    discriminator.update(ranked_pairs())
    scores = discriminator.scores(rollouts)
    assert [len(group) for group in scores] == [2, 2, 2]
    alone = discriminator.score([(rollouts[1][1].prompt, rollouts[1][1].completion)])[0]
    assert scores[1][1] == pytest.approx(alone, abs=1e-5)


def test_scores_that_are_no_numbers_end_the_run(discriminator: Discriminator):
    state = discriminator.state()
    state["head"]["weight"].fill_(float("nan"))
    discriminator.load_state(state)
    with pytest.raises(RunError, match="scores of the discriminator are not finite"):
        discriminator.score([(prompts(1)[0], "hello")])


def test_rollouts_are_read_once_until_the_next_update(student: Student, discriminator: Discriminator):
    reads: list[int] = []
    student.base.model.get_input_embeddings().register_forward_hook(lambda *_: reads.append(1))

    def count(rollouts: list[list[Rollout]]) -> int:
        reads.clear()
        discriminator.scores(rollouts)
        return len(reads)

    rollouts, others = (student.sample(prompts(2), group_size=2, step=step) for step in (0, 1))
    assert (count(rollouts), count(rollouts)) == (1, 0)
    assert (count(others), count(rollouts)) == (1, 1)
    before, state = discriminator.scores(rollouts), discriminator.state()
    discriminator.update(ranked_pairs())
    assert (count(rollouts), count(rollouts)) == (1, 0)
    after = discriminator.scores(rollouts)
    assert after != before
    discriminator.load_state(state)
    discriminator.update(ranked_pairs()[:1])
    assert discriminator.scores(rollouts) != after


def test_being_cut_off_does_not_change_a_score(student: Student, discriminator: Discriminator):
    rollout = student.sample(prompts(1), group_size=1, step=0)[0][0]
    other = replace(rollout, token_ids=rollout.token_ids[:-1], stop_reason="length")
    discriminator.update(ranked_pairs())
    assert discriminator.scores([[rollout]]) == discriminator.scores([[other]])


def test_a_long_prompt_loses_its_beginning_and_never_the_answer(tmp_path: Path):
    _, discriminator = open_student(tiny_config(tiny_student(tmp_path, context=40)))
    prompt = Prompt(id="p", messages=({"role": "user", "content": "x" * 100 + "end"},))
    same_end = Prompt(id="q", messages=({"role": "user", "content": "y" * 60 + "x" * 60 + "end"},))
    one, other, different = discriminator.score([(prompt, "yes"), (same_end, "yes"), (prompt, "no")])
    assert one == pytest.approx(other, abs=1e-5)
    assert one != pytest.approx(different, abs=1e-5)


def test_no_pairs_are_no_step(discriminator: Discriminator):
    assert discriminator.update([]) == {}
    assert discriminator.version == 0


def test_what_is_told_apart_slows_the_discriminator_down(discriminator: Discriminator):
    metrics = [discriminator.update(ranked_pairs()) for _ in range(12)]
    assert metrics[0]["discriminator/speed"] == 1
    assert metrics[-1]["discriminator/accuracy"] == 1
    assert metrics[-1]["discriminator/speed"] < 0.1
    assert discriminator.trust == 1


def test_earlier_pairs_are_trained_on_and_their_accuracy_is_told_apart(model: Path):
    settings = DiscriminatorConfig(learning_rate=1e-2, pool_fraction=0.5, pool_size=9)
    _, discriminator = open_student(tiny_config(model).model_copy(update={"discriminator": settings}))
    fresh = [replace(pair, source=source) for pair, source in zip(ranked_pairs()[:3], SOURCES, strict=True)]
    first, second = discriminator.update(fresh), discriminator.update(fresh)
    names = {"discriminator/accuracy", "discriminator/judge_agreement", "discriminator/correction_accuracy"}
    assert names < first.keys()
    assert "discriminator/pool_accuracy" not in first
    assert second["discriminator/pool_accuracy"] == second["discriminator/accuracy"]  # one pair, the same one
    assert second["discriminator/pool_age"] == 1


def test_without_the_teachers_answers_it_is_trusted_by_what_else_it_tells_apart(model: Path):
    config = tiny_config(model).model_copy(update={"discriminator": DiscriminatorConfig(learning_rate=1e-2)})
    _, discriminator = open_student(config)
    mended = [replace(pair, source="correction") for pair in ranked_pairs()]
    for _ in range(12):
        metrics = discriminator.update(mended)
    assert metrics["discriminator/correction_accuracy"] == 1
    assert discriminator.trust == 1
    _, again = open_student(config)
    again.load_state(discriminator.state())
    taught = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in ranked_pairs()]
    for each in (discriminator, again):
        each.update([*mended, *taught])  # from here on the teacher's answers alone govern it
        each.update([*mended, *taught])
        assert each.trust < 1


def test_the_tripwire_is_the_discriminator_as_it_was_after_its_warm_up(model: Path):
    settings = DiscriminatorConfig(learning_rate=1e-2, warmup_steps=3)
    _, discriminator = open_student(tiny_config(model).model_copy(update={"discriminator": settings}))
    prompt = prompts(1)[0]
    taught = {prompt.id: Demonstration(prompt=prompt, completion='{"number": 7}', source="t")}
    said = [[rollout_of(prompt, "hello"), rollout_of(prompt, "seven")]]
    for _ in range(3):
        assert discriminator.tripwire(said, taught) == {}
        discriminator.update(ranked_pairs())
    first, frozen = discriminator.tripwire(said, taught), discriminator.score([(prompt, "hello")], frozen=True)
    assert first["tripwire/gap"] < 0  # it finds the teacher's answer better
    assert frozen == discriminator.score([(prompt, "hello")])
    for _ in range(3):
        discriminator.update(ranked_pairs())
    assert discriminator.score([(prompt, "hello")], frozen=True) == frozen
    assert discriminator.score([(prompt, "hello")]) != frozen
    assert discriminator.tripwire(said, taught) == first
    assert discriminator.tripwire([[rollout_of(prompt, '{"number": 7}')]], taught)["tripwire/gap"] == 0
    assert discriminator.tripwire(said, {}) == {}
    _, again = open_student(tiny_config(model).model_copy(update={"discriminator": settings}))
    again.load_state(discriminator.state())
    assert again.tripwire(said, taught) == first


def test_the_tripwires_unit_is_not_that_of_a_few_answers_which_are_all_alike(model: Path):
    settings = DiscriminatorConfig(learning_rate=1e-2, warmup_steps=3)
    _, discriminator = open_student(tiny_config(model).model_copy(update={"discriminator": settings}))
    pairs = ranked_pairs()
    taught = {p.prompt.id: Demonstration(prompt=p.prompt, completion=p.chosen, source="t") for p in pairs}
    for _ in range(3):
        discriminator.update(pairs)
    first = next(iter(taught.values()))
    assert discriminator.tripwire([[rollout_of(first.prompt, first.completion)]], taught) == {"tripwire/gap": 0}
    said = [[rollout_of(first.prompt, "hello")]]  # the first step held one answer, the teacher's own
    assert -20 < discriminator.tripwire(said, taught)["tripwire/gap"] < 0
