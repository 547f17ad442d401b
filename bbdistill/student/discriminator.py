"""The discriminator: the base with an adapter of its own and a scalar head, trained to rank answers to one prompt."""

import copy
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bbdistill.balance import CHANCE, Pool, running, speeds, weigh
from bbdistill.config.training import DiscriminatorConfig
from bbdistill.errors import AFRESH, RunError
from bbdistill.losses.discriminator import bradley_terry_loss
from bbdistill.student.adapters import Adapters
from bbdistill.student.batches import by_prompt, last_hidden, micro_batches
from bbdistill.student.model import Base
from bbdistill.student.optimiser import Optimiser, merge_metrics
from bbdistill.student.tree import Row
from bbdistill.types import Demonstration, PairSource, Prompt, RankedPair, Rollout

DISCRIMINATOR, TRIPWIRE = "discriminator", "tripwire"
SPREAD_OVER = 32
"""Demonstrations that tell how far apart scores are: a step may hold a few only, with scores as good as equal."""
_ACCURACIES: Mapping[PairSource, str] = {
    "teacher": "discriminator/accuracy",
    "preference": "discriminator/judge_agreement",
    "correction": "discriminator/correction_accuracy",
    "pool": "discriminator/pool_accuracy",
}


class Discriminator:
    """Scores a completion by the last hidden state of [prompt, completion] (GAD, arXiv 2511.10643).

    Every text gets an end-of-turn token, whether its author came to one or not, so that being cut off is no shortcut.
    A prompt beyond the model's context loses its beginning, never the completion. `version` counts the updates so far.
    It starts as the base, and not as the student (GAD): either way it told about as many of 170 pairs of the demo's
    e-mails apart (0.58 and 0.55, after eight updates).
    What it was after its warm-up is kept as a tripwire: a student that fools the one it is trained against, but moves
    away from the teacher in the eyes of the other, has found a weakness and not the teacher's way.
    """

    def __init__(
        self, base: Base, adapters: Adapters, settings: DiscriminatorConfig, *, seed: int, max_grad_norm: float
    ) -> None:
        self._base, self._adapters, self._settings, self.version = base, adapters, settings, 0
        width = base.model.config.get_text_config().hidden_size
        self._head = nn.Linear(width, 1, bias=False)  # a bias would cancel in every comparison
        nn.init.normal_(self._head.weight, std=1 / width, generator=torch.Generator().manual_seed(seed))
        self._head.to(base.device)
        self._frozen_head = copy.deepcopy(self._head).requires_grad_(False)
        self._scored: tuple[object, list[float]] = (None, [])  # the version and what it was asked last, and its scores
        self._spread: float | None = None
        self._accuracy, self._taught = CHANCE, False
        self._pool, self._seed = Pool(size=settings.pool_size), seed
        parameters = [*adapters.parameters(DISCRIMINATOR), *self._head.parameters()]
        self._optimiser = Optimiser(DISCRIMINATOR, parameters, max_grad_norm=max_grad_norm)

    def scores(self, rollouts_P_G: Sequence[Sequence[Rollout]]) -> list[list[float]]:
        """Logits (P, G), as the discriminator is now: what it was asked last is not read again until it is updated."""
        answers = [(rollout.prompt, rollout.completion) for group in rollouts_P_G for rollout in group]
        asked = (self.version, answers)
        if self._scored[0] != asked:  # a step asks twice: to choose its questions, and to reward
            self._scored = asked, self.score(answers)
        scores = iter(self._scored[1])
        return [[next(scores) for _ in group] for group in rollouts_P_G]

    def score(self, answers: Sequence[tuple[Prompt, str]], *, frozen: bool = False) -> list[float]:
        """One logit per answer, with `frozen` of the tripwire; equal answers to one prompt are read once."""
        groups = by_prompt(answers)
        found: dict[tuple[str, str], float] = {}
        with self._adapters.use(TRIPWIRE if frozen else DISCRIMINATOR):
            for batch in self._batches(groups):
                head = self._frozen_head if frozen else self._head
                scores = self._forward([row for _, row in batch], head).tolist()
                found |= {key: score for (key, _), score in zip(batch, scores, strict=True)}
        if not all(map(math.isfinite, found.values())):
            raise RunError(
                f"scores of the discriminator are not finite; lower `discriminator.learning_rate` and {AFRESH}"
            )
        return [found[prompt.id, text] for prompt, text in answers]

    @property
    def trust(self) -> float:
        """The share of its weight in the reward that it deserves now; see `balance.speeds`."""
        return speeds(self._accuracy)[0]

    def update(self, fresh: Sequence[RankedPair]) -> dict[str, float]:
        """One optimiser step on the Bradley-Terry loss, weighted mean over fresh and earlier pairs.

        Without fresh pairs no step and no metrics. Accuracies are those before the step, by the source of the pairs.
        """
        if not fresh:
            return {}
        step, age = self.version, self._pool.age(self.version)
        drawn = self._pool.draw(len(fresh), self._settings.pool_fraction, step=step, seed=self._seed)
        speed = speeds(self._accuracy)[1]
        pairs = weigh([*fresh, *drawn], self._settings)
        if not pairs:
            return {}
        metrics = self._step(pairs, speed)
        self._pool.add(fresh, step=step)
        self._accuracy = running(self._accuracy, self._governing(metrics))
        return metrics | {
            "discriminator/speed": speed,
            "discriminator/trust": self.trust,
            **({"discriminator/pool_age": age} if drawn else {}),
        }

    def _governing(self, metrics: Mapping[str, float]) -> float | None:
        """The accuracy that the governor goes by: on pairs with the teacher's answers, or where no step has had any, on
        what there is."""
        known = metrics.get(_ACCURACIES["teacher"])
        self._taught = self._taught or known is not None
        others = [metrics[name] for name in (_ACCURACIES["preference"], _ACCURACIES["correction"]) if name in metrics]
        return statistics.mean(others) if others and not self._taught else known

    def _step(self, pairs: Sequence[RankedPair], speed: float) -> dict[str, float]:
        groups = by_prompt([(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)])
        total = sum(pair.weight for pair in pairs)
        parts: list[tuple[float, dict[str, Tensor]]] = []
        right: dict[PairSource, list[float]] = {}
        with self._adapters.use(DISCRIMINATOR, train=True):
            for batch in self._batches(groups):
                place = {key: index for index, (key, _) in enumerate(batch)}
                here = [pair for pair in pairs if (pair.prompt.id, pair.chosen) in place]
                scores = self._forward([row for _, row in batch], self._head)
                chosen = scores[[place[pair.prompt.id, pair.chosen] for pair in here]]
                rejected = scores[[place[pair.prompt.id, pair.rejected] for pair in here]]
                weights = torch.tensor([pair.weight for pair in here], device=scores.device)
                loss, metrics = bradley_terry_loss(chosen, rejected, total_pairs=total, weights=weights)
                loss.backward()
                parts.append((len(here), metrics))
                for pair, sign in zip(here, (chosen - rejected).sign().tolist(), strict=True):
                    right.setdefault(pair.source, []).append((sign + 1) / 2)
        norm = self._optimiser.step(speed * self._settings.learning_rate)
        self.version += 1
        if self.version <= max(1, self._settings.warmup_steps):
            self._set_tripwire()
        metrics = merge_metrics(parts) | {"discriminator/grad_norm": norm}
        del metrics["discriminator/accuracy"]  # of all pairs together: it would hide which of them it knows
        return metrics | {_ACCURACIES[source]: sum(found) / len(found) for source, found in right.items()}

    def tripwire(
        self, rollouts_P_G: Sequence[Sequence[Rollout]], demonstrations: Mapping[str, Demonstration]
    ) -> dict[str, float]:
        """How far the student's answers are behind the teacher's for the discriminator as it was after its warm-up.

        In units of the deviation of scores when it was first asked, those of other demonstrations among them. Nothing
        before the warm-up's end, or on prompts without a demonstration.
        """
        said = [(r.prompt, r.completion) for group in rollouts_P_G for r in group if r.prompt.id in demonstrations]
        taught = [(prompt, demonstrations[prompt.id].completion) for prompt, _ in said]
        if not said or self.version < max(1, self._settings.warmup_steps):
            return {}
        scores = self.score([*said, *taught], frozen=True)
        if self._spread is None:
            known = [(d.prompt, d.completion) for d in itertools.islice(demonstrations.values(), SPREAD_OVER)]
            self._spread = max(statistics.pstdev([*scores, *self.score(known, frozen=True)]), 1e-6)
        return {"tripwire/gap": (sum(scores[: len(said)]) - sum(scores[len(said) :])) / len(said) / self._spread}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: adapters, heads, optimiser, version."""
        return {
            "adapter": self._adapters.state(DISCRIMINATOR),
            "head": {name: tensor.cpu().clone() for name, tensor in self._head.state_dict().items()},
            "optimiser": self._optimiser.state(),
            "version": self.version,
            "tripwire": self._adapters.state(TRIPWIRE),
            "tripwire_head": {name: tensor.cpu().clone() for name, tensor in self._frozen_head.state_dict().items()},
            "spread": self._spread,
            "accuracy": self._accuracy,
            "taught": self._taught,
            "pool": self._pool.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._adapters.load_state(DISCRIMINATOR, state["adapter"])
        self._head.load_state_dict(state["head"])
        self._optimiser.load_state(state["optimiser"])
        self.version, self._spread = state["version"], state["spread"]
        self._accuracy, self._taught = state["accuracy"], state["taught"]
        self._pool.load_state(state["pool"])
        self._adapters.load_state(TRIPWIRE, state["tripwire"])
        self._frozen_head.load_state_dict(state["tripwire_head"])
        self._scored = (None, [])

    def _set_tripwire(self) -> None:
        self._adapters.copy(DISCRIMINATOR, TRIPWIRE)
        self._frozen_head.load_state_dict(self._head.state_dict())

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

    def _forward(self, rows: Sequence[Row], head: nn.Module) -> Tensor:
        """(B,) scores."""
        return head(last_hidden(self._base.model, rows).float()).squeeze(1)


class NoDiscriminator:
    """Stands where a recipe has none: no answer is better than another, and there is nothing to learn."""

    version, trust = 0, 1.0

    def scores(self, rollouts_P_G: Sequence[Sequence[Rollout]]) -> list[list[float]]:
        return [[0.0] * len(group) for group in rollouts_P_G]

    def update(self, fresh: Sequence[RankedPair]) -> dict[str, float]:
        return {}

    def tripwire(
        self, rollouts_P_G: Sequence[Sequence[Rollout]], demonstrations: Mapping[str, Demonstration]
    ) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass
