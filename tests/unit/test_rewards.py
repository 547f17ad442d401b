import pytest

from bbdistill.rewards import center, reward, reward_metrics
from bbdistill.types import Abstain, Verdict


def verdict(score: float) -> Verdict:
    return Verdict(score=score, passed=score == 1.0, feedback="")


NOTHING = Abstain(reason="no verifier")


def test_center():
    assert center([1.0, 3.0]) == [-1.0, 1.0]
    assert center([]) == []


def test_the_reward_by_hand():
    rewards = reward(
        [[0.0, 2.0], [5.0, 5.0]],
        [[verdict(0.0), verdict(1.0)], [verdict(0.5), verdict(0.5)]],
        discriminator_version=3,
        discriminator_weight=1.0,
        verifier_weight=2.0,
    )
    # Centred scores are -1, 1, 0, 0: their deviation over the batch is sqrt(2 / 4).
    scale = 1 / (0.5**0.5 + 1e-4)
    assert rewards.values_P_G[0] == pytest.approx((-scale, scale + 2.0))
    assert rewards.advantages_P_G[0] == pytest.approx((-scale - 1.0, scale + 1.0))
    assert rewards.advantages_P_G[1] == (0.0, 0.0)
    assert rewards.discriminator_version == 3
    assert reward_metrics(rewards)["reward/frac_zero_std"] == 0.5


def test_an_offset_of_the_discriminator_changes_nothing():
    verdicts = [[NOTHING, NOTHING], [NOTHING, NOTHING]]
    settings = {"discriminator_version": 0, "discriminator_weight": 1.0, "verifier_weight": 1.0}
    low = reward([[0.0, 1.0], [2.0, 5.0]], verdicts, **settings)  # type: ignore[arg-type]
    high = reward([[9.0, 10.0], [-1.0, 2.0]], verdicts, **settings)  # type: ignore[arg-type]
    assert low.advantages_P_G[0] == pytest.approx(high.advantages_P_G[0])
    assert low.advantages_P_G[1] == pytest.approx(high.advantages_P_G[1])


def test_an_abstention_takes_the_verifier_out_of_its_group_and_is_never_a_zero():
    rewards = reward(
        [[0.0, 0.0], [0.0, 0.0]],
        [[verdict(1.0), NOTHING], [verdict(1.0), verdict(0.0)]],
        discriminator_version=0,
        discriminator_weight=1.0,
        verifier_weight=1.0,
    )
    assert rewards.advantages_P_G == ((0.0, 0.0), (0.5, -0.5))


def test_no_rollouts_no_rewards():
    rewards = reward([], [], discriminator_version=0, discriminator_weight=1.0, verifier_weight=1.0)
    assert rewards.values_P_G == ()
    assert reward_metrics(rewards) == {}
