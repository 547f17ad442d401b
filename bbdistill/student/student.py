"""The student as the training loop sees it: it samples, answers, scores texts, and is updated."""

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from bbdistill.config import RunConfig
from bbdistill.errors import ConfigError
from bbdistill.losses.common import masked_mean, sequence_log_ratio
from bbdistill.student.adapters import Adapters
from bbdistill.student.batches import by_prompt, collate, completion_logprobs, micro_batches
from bbdistill.student.coached import FOLLOWED, Copy, Evidence, evidence
from bbdistill.student.model import Base
from bbdistill.student.optimiser import Optimiser
from bbdistill.student.sample import Sampled, sample
from bbdistill.student.soft import DistillTerm, SoftUnit, soft_units
from bbdistill.student.terms import PolicyTerm, PreferenceTerm, SFTTerm
from bbdistill.student.tree import Row
from bbdistill.types import Coaching, DistillExample, PolicyExample, Prompt, RankedPair, Rollout, SFTExample

POLICY, SNAPSHOT, FOLLOWER = "policy", "snapshot", "follower"


class Student:
    """The adapter "policy" on the shared base, and its optimiser. `version` counts the updates so far.

    Once it was trained on strategies (`tags`) the student answers behind empty strategy tags; the base never does.
    The adapter "snapshot", of a student that learns preferences, is what it was before the first of them. "follower",
    of one that is coached, is a running mean of what it was since the first advice.
    """

    def __init__(self, base: Base, adapters: Adapters, config: RunConfig) -> None:
        self.base, self.adapters, self.version, self.tags = base, adapters, 0, False
        self._settings, self._train, self._config = config.require_student(), config.train, config
        self._optimiser = Optimiser("student", adapters.parameters(POLICY), max_grad_norm=config.train.max_grad_norm)
        self._snapshot = Copy(adapters, POLICY, SNAPSHOT)
        self._follower = Copy(adapters, POLICY, FOLLOWER, rate=FOLLOWED)

    def sample(
        self, prompts: Sequence[Prompt], *, group_size: int, step: int, frozen: bool = False
    ) -> list[list[Rollout]]:
        """Rollouts (P, G). Each draws with a generator of its own, seeded by (seed, step, prompt id, sample).

        With `frozen` they are the snapshot's.
        """
        draws = [
            [random.Random(f"{self._train.seed}:{step}:{prompt.id}:{g}") for g in range(group_size)]
            for prompt in prompts
        ]
        adapter = self._snapshot.name if frozen else POLICY
        found = self._sample(prompts, draws, temperature=self._settings.temperature, adapter=adapter)
        return [
            [self._rollout(prompt, g, sampled) for g, sampled in enumerate(group)]
            for prompt, group in zip(prompts, found, strict=True)
        ]

    def answer(
        self, prompts: Sequence[Prompt], *, adapter: bool = True, temperature: float = 0.0, most: int | None = None
    ) -> list[str]:
        """One answer per prompt, greedy by default; without the adapter it is the base model's.

        It has `most` tokens at most, where that is given, instead of `student.max_new_tokens`.
        """
        draws = [[random.Random(f"{self._train.seed}:answer:{prompt.id}")] for prompt in prompts]
        found = self._sample(prompts, draws, temperature=temperature, adapter=POLICY if adapter else None, most=most)
        return [self.base.chat.answer(group[0].token_ids, tags=adapter and self.tags) for group in found]

    def nll(self, pairs: Sequence[tuple[Prompt, str]], *, adapter: bool = True) -> list[float]:
        """Mean nats per token of each text as a completion of its prompt, end-of-turn token included."""
        rows = [self._row(prompt, text, tags=adapter and self.tags) for prompt, text in pairs]
        found = [0.0] * len(rows)
        with self.adapters.use(POLICY if adapter else None):
            for indices in micro_batches(self.base.model, [[row] for row in rows]):
                batch = collate(self.base.model, [rows[index] for index in indices])
                logprobs = completion_logprobs(self.base.model, batch)
                for index, row, mask in zip(indices, logprobs, batch.mask, strict=True):
                    found[index] = -masked_mean(row, mask).item()
        return found

    def fits(self, prompt: Prompt, text: str) -> bool:
        """Whether the student could say this within `student.max_new_tokens`."""
        return self.length(prompt, text) <= self._settings.max_new_tokens

    def length(self, prompt: Prompt, text: str) -> int:
        """Tokens it would take the student to say this, end of turn included."""
        return len(self.base.chat.completion_ids(prompt.messages, text))

    def holds(self, prompt: Prompt, text: str) -> bool:
        """Whether a prompt and somebody's answer to it fit into the model together."""
        chat = self.base.chat
        tokens = len(chat.prompt_ids(prompt.messages)) + len(chat.completion_ids(prompt.messages, text))
        return tokens <= self.base.context

    def check_room(self, prompts: Sequence[Prompt]) -> None:
        """ConfigError where an answer to one of them would not fit into the model."""
        for prompt in prompts:
            self._asked(prompt, tags=self.tags, tokens=self._settings.max_new_tokens)

    def has_room(self, prompt: Prompt, tokens: int) -> bool:
        """Whether a prompt and so many tokens of an answer fit into the model."""
        return len(self.base.chat.prompt_ids(prompt.messages, tags=self.tags)) + tokens <= self.base.context

    def drift(self, rollouts_P_G: Sequence[Sequence[Rollout]]) -> list[list[float]]:
        """How far each rollout speaks for a move away from the base: log pi / pi_base of all its tokens, in nats."""
        rollouts = [rollout for group in rollouts_P_G for rollout in group]
        rows = [self._row(rollout.prompt, rollout.token_ids, tags=self.tags) for rollout in rollouts]
        found = [0.0] * len(rows)
        for indices in micro_batches(self.base.model, [[row] for row in rows]):
            batch = collate(self.base.model, [rows[index] for index in indices])
            with self.adapters.use(None):
                reference = completion_logprobs(self.base.model, batch)
            with self.adapters.use(POLICY):
                ratios = sequence_log_ratio(completion_logprobs(self.base.model, batch), reference, batch.mask)
            for index, ratio in zip(indices, ratios.tolist(), strict=True):
                found[index] = ratio
        values = iter(found)
        return [[next(values) for _ in group] for group in rollouts_P_G]

    def touched(self, rollout: Rollout, spans: Sequence[tuple[int, int]]) -> tuple[float, ...]:
        """1 for each of its tokens that holds any of these characters of its completion, else 0.

        A token that adds no character, such as the end of the turn, stands for the one that comes next.
        """
        places = self.base.chat.places(rollout.token_ids)
        return tuple(float(any(a < last and max(b, a + 1) > first for first, last in spans)) for a, b in places)

    def spelt(self, rollout: Rollout) -> str:
        """The very bytes of its tokens; those that belong to no character as `surrogateescape` writes them."""
        return b"".join(self.base.chat.spelling.pieces(rollout.token_ids)).decode("utf-8", "surrogateescape")

    def evidence(self, coachings: Sequence[Coaching]) -> list[Evidence | None]:
        """How much likelier advice makes each token of a rollout, to the base or to the follower; see `coached.py`."""
        if not coachings:
            return []
        adapter = None if self._config.coach.self == "base" else self._follower.name
        return evidence(self.base, self.adapters, adapter, coachings, tags=self.tags)

    def update(
        self,
        policy: Sequence[PolicyExample],
        sft: Sequence[SFTExample],
        pairs: Sequence[RankedPair] = (),
        soft: Sequence[DistillExample] = (),
        *,
        learning_rate: float,
    ) -> dict[str, float]:
        """One optimiser step on four terms, or `policy.updates` of them where there are rollouts.

        The policy gradient of `policy` and the NLL of `sft`, both means over their tokens, DPO on `pairs`, a mean
        over them, and the divergence from the teacher on `soft`, a mean over their units. Rollouts that were cut off
        (`stop_reason` "length") are left out of the first: what would have come after is unknown. With nothing to learn
        from there is no step, and of metrics only the share of `soft` that cannot be aligned.
        """
        whole = [example for example in policy if example.rollout.stop_reason == "stop"]
        penalised = self._config.policy.kl == "k2_loss" and self._config.policy.kl_coef > 0
        moving = bool(whole) and (penalised or any(example.advantage != 0 for example in whole))
        scored, unaligned = self._aligned(soft)
        metrics = {"distill/unaligned": unaligned / len(soft)} if soft else {}
        if not (moving or sft or pairs or scored):
            return metrics
        terms = [
            *([self._policy_term(whole)] if moving else []),
            *([SFTTerm(self.base.model, [self._shown(e) for e in sft], [e.weight for e in sft])] if sft else []),
            *([self._preference_term(pairs)] if pairs else []),
            *([self._distill_term(scored)] if scored else []),
        ]
        for _ in range(self._config.policy.updates if moving else 1):
            with self.adapters.use(POLICY, train=True):
                for term in terms:
                    metrics |= term.backward()
            metrics["optim/grad_norm"] = self._optimiser.step(learning_rate)
        metrics["optim/lr"] = learning_rate
        metrics["optim/tokens"] = float(sum(term.tokens for term in terms))
        self.version += 1
        self._follower.follow()
        self.tags = self.tags or any(example.strategy for example in sft)
        return metrics

    def adapter_state(self) -> dict[str, Tensor]:
        """A copy of the adapter, on the CPU."""
        return self.adapters.state(POLICY)

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        self.adapters.load_state(POLICY, state)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: adapter, optimiser, version."""
        return {
            "adapter": self.adapter_state(),
            "optimiser": self._optimiser.state(),
            "version": self.version,
            "tags": self.tags,
            "snapshot": self._snapshot.state(),
            "follower": self._follower.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.load_adapter_state(state["adapter"])
        self._optimiser.load_state(state["optimiser"])
        self.version, self.tags = state["version"], state["tags"]
        self._snapshot.load_state(state["snapshot"])
        self._follower.load_state(state["follower"])

    def _policy_term(self, examples: Sequence[PolicyExample]) -> PolicyTerm:
        rows = [self._row(example.rollout.prompt, example.rollout.token_ids, tags=self.tags) for example in examples]
        longest = self._settings.max_new_tokens
        return PolicyTerm(self.base.model, self.adapters, examples, rows, self._config.policy, longest=longest)

    def _preference_term(self, pairs: Sequence[RankedPair]) -> PreferenceTerm:
        groups = by_prompt([(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)])
        rows = [
            [((prompt.id, text), self._row(prompt, text, tags=self.tags)) for prompt, text in group] for group in groups
        ]
        beta = self._config.dpo.beta
        return PreferenceTerm(self.base.model, self.adapters, self._snapshot.name, pairs, rows, beta=beta)

    def _aligned(self, soft: Sequence[DistillExample]) -> tuple[list[tuple[DistillExample, Row, list[SoftUnit]]], int]:
        """Examples with their units, and how many there are of which the teacher's tokens spell another text."""
        found: list[tuple[DistillExample, Row, list[SoftUnit]]] = []
        for example in soft:
            row = self._row(example.prompt, example.completion, tags=self.tags)
            spelling, whole = self.base.chat.spelling, isinstance(example.completion, str)
            with suppress(ValueError):
                found.append((example, row, soft_units(row.completion, example.scored, spelling, whole=whole)))
        return found, len(soft) - len(found)

    def _distill_term(self, scored: Sequence[tuple[DistillExample, Row, list[SoftUnit]]]) -> DistillTerm:
        examples, rows, units = zip(*scored, strict=True)
        weights = [example.weight for example in examples]
        return DistillTerm(self.base.model, rows, units, weights, self._config.distill)

    def _sample(
        self,
        prompts: Sequence[Prompt],
        draws: Sequence[Sequence[random.Random]],
        *,
        temperature: float,
        adapter: str | None,
        most: int | None = None,
    ) -> list[list[Sampled]]:
        tags, tokens = adapter is not None and self.tags, most or self._settings.max_new_tokens
        ids = [self._asked(prompt, tags=tags, tokens=tokens) for prompt in prompts]
        with self.adapters.use(adapter):
            return sample(
                self.base,
                ids,
                draws,
                max_new_tokens=tokens,
                temperature=temperature,
                top_p=self._settings.top_p,
            )

    def _asked(self, prompt: Prompt, *, tags: bool, tokens: int) -> list[int]:
        """What an answer of so many tokens goes on from; ConfigError where it would not fit into the model."""
        ids, room = self.base.chat.prompt_ids(prompt.messages, tags=tags), self.base.context
        if len(ids) + tokens > room:
            raise ConfigError(
                f"prompt `{prompt.id}` has {len(ids)} tokens and `student.max_new_tokens` is {tokens}, but "
                f"`{self.base.name}` has room for {room} together; shorten or leave out such prompts, or lower "
                "`student.max_new_tokens`"
            )
        return ids

    def _rollout(self, prompt: Prompt, index: int, sampled: Sampled) -> Rollout:
        return Rollout(
            prompt=prompt,
            sample=index,
            completion=self.base.chat.answer(sampled.token_ids, tags=self.tags),
            token_ids=sampled.token_ids,
            logprobs=sampled.logprobs,
            policy_version=self.version,
            stop_reason=sampled.stop_reason,
        )

    def _row(self, prompt: Prompt, said: str | Sequence[int], *, tags: bool) -> Row:
        """A completion as text, or as the very tokens that were drawn."""
        chat = self.base.chat
        completion = chat.completion_ids(prompt.messages, said) if isinstance(said, str) else said
        return Row(prompt=tuple(chat.prompt_ids(prompt.messages, tags=tags)), completion=tuple(completion))

    def _shown(self, example: SFTExample) -> Row:
        """The tokens that carry weight as the completion, those before them as its prompt; what follows is no help."""
        chat, messages = self.base.chat, example.prompt.messages
        prompt = chat.prompt_ids(messages)
        completion = chat.completion_ids(messages, example.text, strategy=example.strategy)
        first, last = 0, len(completion)
        if example.region is not None:
            assert not example.strategy, "a region of an answer that comes behind a strategy"
            first, last = chat.token_span(messages, example.text, example.region)
        return Row(prompt=(*prompt, *completion[:first]), completion=tuple(completion[first:last]))
