import json

import pytest

from bbdistill.balance import CHANCE, Pool, running, speeds, weigh
from bbdistill.config.training import DiscriminatorConfig
from bbdistill.types import PairSource, Prompt, RankedPair


def pair(name: str, source: PairSource = "teacher", weight: float = 1.0) -> RankedPair:
    prompt = Prompt(id=name, messages=({"role": "user", "content": name},))
    return RankedPair(prompt=prompt, chosen=f"T{name}", rejected=f"S{name}", source=source, weight=weight)


def test_the_pool_gives_so_many_that_they_are_the_asked_share_of_all():
    pool = Pool(size=100)
    pool.add([pair(str(i)) for i in range(60)], step=0)
    drawn = pool.draw(30, 0.25, step=1, seed=0)
    assert len(drawn) / (30 + len(drawn)) == 0.25
    assert {each.source for each in drawn} == {"pool"}
    assert len({each.prompt.id for each in drawn}) == 10
    assert pool.draw(30, 0.25, step=1, seed=0) == drawn
    assert pool.draw(30, 0.25, step=2, seed=0) != drawn
    assert pool.draw(30, 0.0, step=1, seed=0) == []
    assert len(pool.draw(30, 0.9, step=1, seed=0)) == 60  # no more than there are


def test_the_pool_keeps_whole_triples_of_the_teacher_the_newest_ones():
    pool = Pool(size=3)
    pool.add([pair("a"), pair("b", "preference"), pair("c")], step=0)
    assert [each.prompt.id for _, each in pool.rows] == ["a", "c"]
    pool.add([pair("d"), pair("e")], step=2)
    assert [(step, each.prompt.id) for step, each in pool.rows] == [(0, "c"), (2, "d"), (2, "e")]
    assert pool.age(3) == pytest.approx((3 + 1 + 1) / 3)
    for each in pool.draw(9, 0.5, step=0, seed=0):
        assert (each.chosen, each.rejected) == (f"T{each.prompt.id}", f"S{each.prompt.id}")


def test_the_pool_comes_back_from_json():
    pool, again = Pool(size=9), Pool(size=9)
    pool.add([pair("a", weight=3.0), pair("b")], step=4)
    again.load_state(json.loads(json.dumps(pool.state())))
    assert again == pool
    assert Pool(size=9).age(3) == 0


@pytest.mark.parametrize(
    ("accuracy", "reward", "learning"),
    [
        (0.3, 0.0, 1.0),
        (0.5, 0.0, 1.0),
        (0.575, 0.5, 1.0),
        (0.65, 1.0, 1.0),
        (0.75, 1.0, 1.0),
        (0.85, 1.0, 1.0),
        (0.925, 1.0, 0.5),
        (1.0, 1.0, 0.0),
    ],
)
def test_outside_the_healthy_band_the_stronger_side_slows_down(accuracy: float, reward: float, learning: float):
    assert speeds(accuracy) == pytest.approx((reward, learning))


def test_the_running_accuracy():
    assert running(CHANCE, 0.7) == pytest.approx(0.6)  # one lucky step earns two thirds of the trust
    assert speeds(running(CHANCE, 0.7))[0] == pytest.approx(2 / 3)
    assert running(0.8, None) == 0.8
    assert running(0.8, 0.6) == pytest.approx(0.7)


def test_pairs_weigh_by_their_source_and_by_themselves():
    settings = DiscriminatorConfig(teacher_weight=2.0, preference_weight=0.5, correction_weight=0.0)
    pairs = [pair("a"), pair("b", "pool"), pair("c", "preference", 0.5), pair("d", "correction")]
    assert [(each.prompt.id, each.weight) for each in weigh(pairs, settings)] == [("a", 2.0), ("b", 2.0), ("c", 0.25)]
