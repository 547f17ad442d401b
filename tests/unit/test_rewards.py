import math

import pytest

from bbdistill.config.training import PolicyConfig, RewardConfig
from bbdistill.rewards import NONE, center, checks, reward, reward_metrics, told_apart, wins, without_length
from bbdistill.types import Abstain, Preference, Prompt, Rollout, Verdict

NOTHING = Abstain(reason="no verifier")
PLAIN = PolicyConfig()


def verdict(score: float) -> Verdict:
    return Verdict(score=score, passed=score == 1.0, feedback="")


def prompt(name: str) -> Prompt:
    return Prompt(id=name, messages=({"role": "user", "content": name},))


def rollout(name: str, text: str, *, tokens: int = 1) -> Rollout:
    return Rollout(
        prompt=prompt(name),
        sample=0,
        completion=text,
        token_ids=(1,) * tokens,
        logprobs=(-0.5,) * tokens,
        policy_version=0,
        stop_reason="stop",
    )


def preference(name: str, chosen: str, rejected: str) -> Preference:
    return Preference(prompt=prompt(name), chosen=chosen, rejected=rejected, strength=1.0, source="t")


def test_center():
    assert center([1.0, 3.0]) == [-1.0, 1.0]
    assert center([]) == []


def test_a_mix_by_hand():
    terms = {
        "discriminator": [[0.0, 2.0], [5.0, 5.0]],
        "verifier": [[0.0, 1.0], [0.5, 0.5]],
        "preference": [[9.0, 9.0], [9.0, 9.0]],
    }
    rewards = reward(terms, RewardConfig(discriminator=1.0, verifier=2.0), PLAIN, discriminator_version=3)
    # Centred scores are -1, 1, 0, 0: their deviation over the batch is sqrt(2 / 4). Of the verdicts, half of that.
    of_scores, of_verdicts = 1 / (0.5**0.5 + 1e-4), 2 * 0.5 / (0.125**0.5 + 1e-4)
    assert rewards.values_P_G[0] == pytest.approx((-of_scores - of_verdicts, of_scores + of_verdicts))
    assert rewards.advantages_P_G == rewards.values_P_G
    assert rewards.advantages_P_G[1] == (0.0, 0.0)
    metrics = reward_metrics(rewards, learned=True)
    assert metrics["reward/frac_zero_std"] == 0.5
    assert metrics.keys() - reward_metrics(rewards, learned=False).keys() == {"reward/frac_zero_std"}
    assert metrics["reward/discriminator_version"] == 3
    assert metrics["reward/share_verifier"] == pytest.approx(of_verdicts / (of_scores + of_verdicts))
    assert metrics["reward/share_verifier"] + metrics["reward/share_discriminator"] == pytest.approx(1)
    assert "reward/share_preference" not in metrics


def test_a_verifier_alone_keeps_its_own_scale():
    rewards = reward({"verifier": [[1.0, 0.0], [0.2, 0.4]]}, RewardConfig(verifier=1.0), PLAIN)
    assert rewards.values_P_G == ((1.0, 0.0), (0.2, 0.4))
    assert rewards.advantages_P_G[0] == (0.5, -0.5)
    assert rewards.advantages_P_G[1] == pytest.approx((-0.1, 0.1))


def test_so_does_a_rubric_alone_and_beside_a_verifier_it_does_not():
    terms = {"rubric": [[1.0, 0.25]], "verifier": [[0.0, 1.0]]}
    alone = reward(terms, RewardConfig(verifier=0.0, rubric=1.0), PLAIN)
    assert alone.values_P_G == ((1.0, 0.25),)
    assert alone.advantages_P_G == ((0.375, -0.375),)
    mixed = reward(terms, RewardConfig(verifier=1.0, rubric=1.0), PLAIN)
    assert mixed.advantages_P_G[0] == pytest.approx((0.0, 0.0), abs=1e-3)
    assert mixed.shares == pytest.approx({"rubric": 0.5, "verifier": 0.5}, abs=1e-3)


def test_scaled_by_its_group_every_group_counts_the_same():
    rewards = reward({"verifier": [[1.0, 0.0], [0.2, 0.4]]}, RewardConfig(), PolicyConfig(scale_rewards="group"))
    assert rewards.advantages_P_G[0] == pytest.approx((1.0, -1.0), abs=1e-3)
    assert rewards.advantages_P_G[1] == pytest.approx((-1.0, 1.0), abs=2e-3)


@pytest.mark.parametrize("policy", [PLAIN, PLAIN.model_copy(update={"scale_rewards": "group"})], ids=["none", "group"])
def test_equal_groups_are_those_that_no_term_tells_apart(policy: PolicyConfig):
    # 0.7 has no exact mean of three, which is no difference.
    verdicts = [[0.7, 0.7, 0.7], [0.0, 1.0, 1.0]]
    alone = reward({"verifier": verdicts}, RewardConfig(discriminator=0, verifier=1), policy)
    assert reward_metrics(alone, learned=True)["reward/frac_zero_std"] == 0.5
    assert max(map(abs, alone.advantages_P_G[0])) < NONE
    # Held against the base they differ, in what is learned and not in what is rewarded.
    drift = [[1.0, 2.0, 3.0]] * 2
    held = policy.model_copy(update={"kl_coef": 0.1})
    drifting = reward({"verifier": verdicts}, RewardConfig(discriminator=0, verifier=1), held, drift_P_G=drift)
    assert reward_metrics(drifting, learned=True)["reward/frac_zero_std"] == 0.5
    # A discriminator at chance is not followed: the rewards are gone, and the differences are not.
    mute = [[0.5] * 3] * 2
    both = {"discriminator": [[0.0, 1.0, 2.0], [3.0, 1.0, 2.0]], "verifier": mute}
    untrusted = reward(both, RewardConfig(discriminator=1, verifier=1), policy, trust=0.0)
    assert reward_metrics(untrusted, learned=True)["reward/frac_zero_std"] == 0
    assert not any(map(any, untrusted.advantages_P_G))


def test_moving_away_is_held_against_a_rollout_in_nats_whatever_the_scale():
    policy = PolicyConfig(kl="k1_reward", kl_coef=0.1, scale_rewards="group")
    rewards = reward({"verifier": [[0.5, 0.5]]}, RewardConfig(), policy, drift_P_G=[[3.0, 1.0]])
    assert rewards.advantages_P_G[0] == pytest.approx((-0.1, 0.1))


def test_an_offset_of_the_discriminator_changes_nothing():
    weights = RewardConfig(discriminator=1.0, verifier=0.0)
    low = reward({"discriminator": [[0.0, 1.0], [2.0, 5.0]]}, weights, PLAIN)
    high = reward({"discriminator": [[9.0, 10.0], [-1.0, 2.0]]}, weights, PLAIN)
    for one, other in zip(low.advantages_P_G, high.advantages_P_G, strict=True):
        assert one == pytest.approx(other)


def test_a_discriminator_that_tells_little_counts_for_less_and_the_verifier_for_as_much_as_before():
    terms = {"discriminator": [[0.0, 1.0]], "verifier": [[1.0, 0.0]]}
    found = reward(terms, RewardConfig(discriminator=1.0, verifier=1.0), PLAIN, trust=0.25).advantages_P_G[0]
    assert found == pytest.approx((0.75, -0.75), abs=1e-3)


def test_an_abstention_takes_the_verifier_out_of_its_group_and_is_never_a_zero():
    verdicts = [[verdict(1.0), NOTHING], [verdict(1.0), verdict(0.0)]]
    assert checks(verdicts) == [[0.0, 0.0], [1.0, 0.0]]
    assert [told_apart(verdicts_G) for verdicts_G in verdicts] == [False, True]


def test_the_judges_term_is_won_less_lost_over_the_comparisons_of_a_text():
    rollouts = [[rollout("a", "x"), rollout("a", "y"), rollout("a", "z"), rollout("a", "x")], [rollout("b", "x")]]
    said = [preference("a", "x", "y"), preference("a", "y", "z"), preference("a", "x", "z")]
    assert wins(rollouts, said) == [[1.0, 0.0, -1.0, 1.0], [0.0]]


def test_what_length_explains_is_taken_off():
    rollouts = [[rollout("a", "x", tokens=n) for n in (1, 2, 3)], [rollout("b", "x", tokens=n) for n in (5, 9)]]
    line = [[2.0 * len(r.token_ids) + 7.0 for r in group] for group in rollouts]
    assert all(abs(value) < 1e-9 for group in without_length(line, rollouts) for value in group)
    # Not what length does not explain: here the middle one is better than its neighbours.
    bent = without_length([[0.0, 3.0, 0.0], [1.0, 1.0]], rollouts)
    assert bent == [[-1.0, 2.0, -1.0], [0.0, 0.0]]
    same = [[rollout("a", "x"), rollout("a", "y")]]
    assert without_length([[0.0, 1.0]], same) == [[-0.5, 0.5]]


def test_no_rollouts_no_rewards():
    rewards = reward({"discriminator": [], "verifier": [], "preference": []}, RewardConfig(), PLAIN)
    assert rewards.values_P_G == ()
    assert reward_metrics(rewards, learned=True) == {}
    assert not math.isnan(sum(rewards.shares.values()))
