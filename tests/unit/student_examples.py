"""What the tiny student is trained on in tests, and its log-probs worked out the plain way."""

import torch
from student_fixtures import prompts
from torch import Tensor
from transformers import PreTrainedModel

from bbdistill.student.student import Student
from bbdistill.student.tree import Row
from bbdistill.types import PolicyExample, Prompt, RankedPair, Rollout, SFTExample


def disturb(student: Student, name: str = "policy", seed: int = 1) -> None:
    """Gives an adapter an effect: its B matrices are 0 at first."""
    generator = torch.Generator().manual_seed(seed)
    state = student.adapters.state(name)
    student.adapters.load_state(
        name, {key: torch.randn(value.shape, generator=generator) * 0.1 for key, value in state.items()}
    )


def plain_logprobs(model: PreTrainedModel, row: Row) -> Tensor:
    """Of one row by itself, the whole sequence through the model."""
    ids = torch.tensor([row.ids])
    logits = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    first = len(row.prompt)
    return logits[first - 1 : -1].gather(1, ids[0, first:].unsqueeze(1)).squeeze(1)


def policy_examples(student: Student) -> list[PolicyExample]:
    """Real rollouts with advantages 1, -0.5, 0, ... and one that was cut off."""
    rollouts = [rollout for group in student.sample(prompts(3), group_size=3, step=0) for rollout in group]
    assert {rollout.stop_reason for rollout in rollouts} == {"stop", "length"}
    return [PolicyExample(rollout=r, advantage=(1.0, -0.5, 0.0)[i % 3]) for i, r in enumerate(rollouts)]


def sft_examples() -> list[SFTExample]:
    return [SFTExample(prompt=prompt, text='{"number": %s}' % ("7" * i)) for i, prompt in enumerate(prompts(4))]


def rollout_of(prompt: Prompt, text: str) -> Rollout:
    return Rollout(
        prompt=prompt,
        sample=0,
        completion=text,
        token_ids=(5, 6),
        logprobs=(-1.0, -1.0),
        policy_version=0,
        stop_reason="stop",
    )


def ranked_pairs() -> list[RankedPair]:
    return [
        RankedPair(prompt=prompt, chosen=chosen, rejected=rejected, source="teacher")
        for prompt in prompts(3)
        for chosen, rejected in (('{"number": 7}', "hello"), ('{"number": 7}', "seven"), ("seven", "no"))
    ]
