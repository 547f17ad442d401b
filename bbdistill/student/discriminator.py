"""The discriminator: the base with an adapter of its own and a scalar head, trained to rank answers to one prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bbdistill.losses.discriminator import bradley_terry_loss
from bbdistill.student.adapters import Adapters
from bbdistill.student.batches import last_hidden, micro_batches
from bbdistill.student.model import Base
from bbdistill.student.optimiser import Optimiser, merge_metrics
from bbdistill.student.tree import Row
from bbdistill.types import Prompt, RankedPair, Rollout

DISCRIMINATOR = "discriminator"


class Discriminator:
    """Scores a completion by the last hidden state of [prompt, completion] (GAD, arXiv 2511.10643).

    Every text gets an end-of-turn token, whether its author came to one or not, so that being cut off is no shortcut.
    A prompt beyond the model's context loses its beginning, never the completion. `version` counts the updates so far.
    """

    def __init__(
        self, base: Base, adapters: Adapters, *, seed: int, learning_rate: float, max_grad_norm: float
    ) -> None:
        self._base, self._adapters, self._learning_rate, self.version = base, adapters, learning_rate, 0
        width = base.model.config.get_text_config().hidden_size
        self._head = nn.Linear(width, 1, bias=False)  # a bias would cancel in every comparison
        nn.init.normal_(self._head.weight, std=1 / width, generator=torch.Generator().manual_seed(seed))
        self._head.to(base.device)
        parameters = [*adapters.parameters(DISCRIMINATOR), *self._head.parameters()]
        self._optimiser = Optimiser(DISCRIMINATOR, parameters, max_grad_norm=max_grad_norm)

    def scores(self, rollouts_P_G: Sequence[Sequence[Rollout]]) -> list[list[float]]:
        """Logits (P, G), as the discriminator is now."""
        scores = iter(self.score([(rollout.prompt, rollout.completion) for group in rollouts_P_G for rollout in group]))
        return [[next(scores) for _ in group] for group in rollouts_P_G]

    def score(self, answers: Sequence[tuple[Prompt, str]]) -> list[float]:
        """One logit per answer; equal answers to one prompt are read once."""
        groups = _by_prompt(answers)
        found: dict[tuple[str, str], float] = {}
        with self._adapters.use(DISCRIMINATOR):
            for batch in self._batches(groups):
                scores = self._forward([row for _, row in batch]).tolist()
                found |= {key: score for (key, _), score in zip(batch, scores, strict=True)}
        return [found[prompt.id, text] for prompt, text in answers]

    def update(self, pairs: Sequence[RankedPair]) -> dict[str, float]:
        """One optimiser step on the Bradley-Terry loss, mean over pairs; without pairs no step and no metrics."""
        if not pairs:
            return {}
        groups = _by_prompt([(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)])
        parts: list[tuple[float, dict[str, Tensor]]] = []
        with self._adapters.use(DISCRIMINATOR, train=True):
            for batch in self._batches(groups):
                place = {key: index for index, (key, _) in enumerate(batch)}
                here = [pair for pair in pairs if (pair.prompt.id, pair.chosen) in place]
                scores = self._forward([row for _, row in batch])
                loss, metrics = bradley_terry_loss(
                    scores[[place[pair.prompt.id, pair.chosen] for pair in here]],
                    scores[[place[pair.prompt.id, pair.rejected] for pair in here]],
                    total_pairs=len(pairs),
                )
                loss.backward()
                parts.append((len(here), metrics))
        norm = self._optimiser.step(self._learning_rate)
        self.version += 1
        return merge_metrics(parts) | {"discriminator/grad_norm": norm}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: adapter, head, optimiser, version."""
        return {
            "adapter": self._adapters.state(DISCRIMINATOR),
            "head": {name: tensor.cpu().clone() for name, tensor in self._head.state_dict().items()},
            "optimiser": self._optimiser.state(),
            "version": self.version,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._adapters.load_state(DISCRIMINATOR, state["adapter"])
        self._head.load_state_dict(state["head"])
        self._optimiser.load_state(state["optimiser"])
        self.version = state["version"]

    def _batches(self, groups: Sequence[Sequence[tuple[Prompt, str]]]) -> list[list[tuple[tuple[str, str], Row]]]:
        """Micro-batches of ((prompt id, text), row); answers to one prompt are in the same one."""
        rows = [[self._row(prompt, text) for prompt, text in group] for group in groups]
        keyed = [
            [((prompt.id, text), row) for (prompt, text), row in zip(group, row_group, strict=True)]
            for group, row_group in zip(groups, rows, strict=True)
        ]
        return [
            [pair for index in indices for pair in keyed[index]] for indices in micro_batches(self._base.model, rows)
        ]

    def _row(self, prompt: Prompt, text: str) -> Row:
        completion = self._base.chat.completion_ids(prompt.messages, text)
        room = max(1, self._base.context - len(completion))
        return Row(prompt=tuple(self._base.chat.prompt_ids(prompt.messages)[-room:]), completion=tuple(completion))

    def _forward(self, rows: Sequence[Row]) -> Tensor:
        """(B,) scores."""
        return self._head(last_hidden(self._base.model, rows).float()).squeeze(1)


class NoDiscriminator:
    """Stands where a recipe has none: no answer is better than another, and there is nothing to learn."""

    version = 0

    def scores(self, rollouts_P_G: Sequence[Sequence[Rollout]]) -> list[list[float]]:
        return [[0.0] * len(group) for group in rollouts_P_G]

    def update(self, pairs: Sequence[RankedPair]) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass


def _by_prompt(answers: Sequence[tuple[Prompt, str]]) -> list[list[tuple[Prompt, str]]]:
    """The distinct answers, grouped by prompt id, in order of first appearance."""
    groups: dict[str, dict[str, Prompt]] = {}
    for prompt, text in answers:
        groups.setdefault(prompt.id, {}).setdefault(text, prompt)
    return [[(prompt, text) for text, prompt in texts.items()] for texts in groups.values()]
