"""The student as the training loop sees it: it samples, answers, scores texts, and is updated."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bbdistill.config import RunConfig, StudentConfig, TrainConfig
from bbdistill.errors import ConfigError
from bbdistill.losses.common import masked_mean
from bbdistill.losses.policy import PolicyInputs, policy_loss
from bbdistill.losses.sft import sft_loss
from bbdistill.student.adapters import Adapters
from bbdistill.student.batches import Batch, collate, completion_logprobs, micro_batches
from bbdistill.student.discriminator import Discriminator, NoDiscriminator
from bbdistill.student.model import Base, load_base, load_chat
from bbdistill.student.optimiser import Optimiser, merge_metrics
from bbdistill.student.sample import Sampled, sample
from bbdistill.student.tree import Row
from bbdistill.types import PolicyExample, Prompt, Rollout, SFTExample

POLICY = "policy"


class Student:
    """The adapter "policy" on the shared base, and its optimiser. `version` counts the updates so far.

    Once it was trained on strategies (`tags`) the student answers behind empty strategy tags; the base never does.
    """

    def __init__(self, base: Base, adapters: Adapters, settings: StudentConfig, train: TrainConfig) -> None:
        self.base, self.adapters, self.version, self.tags = base, adapters, 0, False
        self._settings, self._train = settings, train
        self._optimiser = Optimiser("student", adapters.parameters(POLICY), max_grad_norm=train.max_grad_norm)

    def sample(self, prompts: Sequence[Prompt], *, group_size: int, step: int) -> list[list[Rollout]]:
        """Rollouts (P, G). Each draws with a generator of its own, seeded by (seed, step, prompt id, sample)."""
        draws = [
            [random.Random(f"{self._train.seed}:{step}:{prompt.id}:{g}") for g in range(group_size)]
            for prompt in prompts
        ]
        found = self._sample(prompts, draws, temperature=self._settings.temperature, adapter=True)
        return [
            [self._rollout(prompt, g, sampled) for g, sampled in enumerate(group)]
            for prompt, group in zip(prompts, found, strict=True)
        ]

    def answer(self, prompts: Sequence[Prompt], *, adapter: bool = True, temperature: float = 0.0) -> list[str]:
        """One answer per prompt, greedy by default; without the adapter it is the base model's."""
        draws = [[random.Random(f"{self._train.seed}:answer:{prompt.id}")] for prompt in prompts]
        found = self._sample(prompts, draws, temperature=temperature, adapter=adapter)
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
        return len(self.base.chat.completion_ids(prompt.messages, text)) <= self._settings.max_new_tokens

    def holds(self, prompt: Prompt, text: str) -> bool:
        """Whether a prompt and somebody's answer to it fit into the model together."""
        chat = self.base.chat
        tokens = len(chat.prompt_ids(prompt.messages)) + len(chat.completion_ids(prompt.messages, text))
        return tokens <= self.base.context

    def update(
        self, policy: Sequence[PolicyExample], sft: Sequence[SFTExample], *, learning_rate: float
    ) -> dict[str, float]:
        """One optimiser step on the policy gradient of `policy` plus `train.sft_weight` times the NLL of `sft`.

        Rollouts that were cut off (`stop_reason` "length") are left out: what would have come after is unknown. Both
        terms are means over the tokens of the whole step. With nothing to learn from there is no step and no metrics.
        """
        whole = [example for example in policy if example.rollout.stop_reason == "stop"]
        moving = [example for example in whole if example.advantage != 0 or self._train.kl_coef != 0]
        if not moving and not sft:
            return {}
        batches = self._policy_batches(moving)
        # Those without an advantage have no gradient and need no forward, but they count in the mean.
        tokens = sum(len(example.rollout.token_ids) for example in whole)
        references = self._references(batches)
        shown = [self._shown(example) for example in sft]
        with self.adapters.use(POLICY, train=True):
            metrics = self._policy_term(batches, references, tokens) | self._sft_term(shown)
        metrics["optim/grad_norm"] = self._optimiser.step(learning_rate)
        metrics["optim/lr"] = learning_rate
        metrics["optim/tokens"] = float(tokens + sum(len(row.completion) for row in shown))
        self.version += 1
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
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.load_adapter_state(state["adapter"])
        self._optimiser.load_state(state["optimiser"])
        self.version, self.tags = state["version"], state["tags"]

    def _policy_batches(self, examples: Sequence[PolicyExample]) -> list[tuple[Batch, Tensor, Tensor]]:
        """Micro-batches: the batch, log-probs of the sampler (B, T), advantages (B,)."""
        rows = [self._row(example.rollout.prompt, example.rollout.token_ids, tags=self.tags) for example in examples]
        found: list[tuple[Batch, Tensor, Tensor]] = []
        for indices in micro_batches(self.base.model, [[row] for row in rows]):
            batch = collate(self.base.model, [rows[index] for index in indices])
            drawn = batch.place([examples[index].rollout.logprobs for index in indices])
            advantages = torch.tensor([examples[index].advantage for index in indices], device=self.base.device)
            found.append((batch, drawn, advantages))
        return found

    def _references(self, batches: Sequence[tuple[Batch, Tensor, Tensor]]) -> list[Tensor | None]:
        """Log-probs of the base model, all before the first graph is built: the adapter must not change under one."""
        if self._train.kl_coef == 0:
            return [None] * len(batches)
        with self.adapters.use(None):
            return [completion_logprobs(self.base.model, batch) for batch, _, _ in batches]

    def _policy_term(
        self, batches: Sequence[tuple[Batch, Tensor, Tensor]], references: Sequence[Tensor | None], total_tokens: int
    ) -> dict[str, float]:
        parts: list[tuple[float, dict[str, Tensor]]] = []
        for (batch, drawn, advantages), reference in zip(batches, references, strict=True):
            logprobs = completion_logprobs(self.base.model, batch)
            inputs = PolicyInputs(
                logprobs=logprobs,
                old_logprobs=logprobs.detach(),  # one update per batch: the policy is its own old policy
                sampler_logprobs=drawn,
                advantages=advantages,
                mask=batch.mask,
                ref_logprobs=reference,
            )
            loss, metrics = policy_loss(inputs, total_tokens=total_tokens, kl_coef=self._train.kl_coef)
            loss.backward()
            parts.append((batch.mask.sum().item(), metrics))
        return merge_metrics(parts, summed="policy/loss")

    def _sft_term(self, rows: Sequence[Row]) -> dict[str, float]:
        total_tokens = sum(len(row.completion) for row in rows)
        parts: list[tuple[float, dict[str, Tensor]]] = []
        for indices in micro_batches(self.base.model, [[row] for row in rows]):
            batch = collate(self.base.model, [rows[index] for index in indices])
            logprobs = completion_logprobs(self.base.model, batch)
            loss, metrics = sft_loss(logprobs, batch.mask, total_tokens=total_tokens)
            (self._train.sft_weight * loss).backward()
            parts.append((batch.mask.sum().item(), metrics))
        return merge_metrics(parts)

    def _sample(
        self, prompts: Sequence[Prompt], draws: Sequence[Sequence[random.Random]], *, temperature: float, adapter: bool
    ) -> list[list[Sampled]]:
        tags = adapter and self.tags
        ids = [self.base.chat.prompt_ids(prompt.messages, tags=tags) for prompt in prompts]
        longest = max((len(prompt) for prompt in ids), default=0) + self._settings.max_new_tokens
        if longest > self.base.context:
            raise ConfigError(
                f"the longest prompt and `student.max_new_tokens` make {longest} tokens, but `{self.base.name}` has "
                f"room for {self.base.context}; shorten the prompts or lower `student.max_new_tokens`"
            )
        with self.adapters.use(POLICY if adapter else None):
            return sample(
                self.base,
                ids,
                draws,
                max_new_tokens=self._settings.max_new_tokens,
                temperature=temperature,
                top_p=self._settings.top_p,
            )

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


def open_student(config: RunConfig) -> tuple[Student, Discriminator | NoDiscriminator]:
    """Loads the base once and puts the adapters on it. Only `gad` has a discriminator."""
    settings, train = config.require_student(), config.train
    base = load_base(settings.model, device=settings.device, dtype=settings.dtype)
    if config.recipe == "process" and not base.chat.tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer of `{base.name}` cannot say which characters its tokens hold, which `process` needs to "
            "weigh the corrected part alone; use a student with a fast tokenizer, or the recipe `isft`"
        )
    adapters = Adapters(base, rank=settings.lora_rank, alpha=settings.lora_alpha, seed=train.seed)
    if config.recipe != "gad":
        return Student(base, adapters, settings, train), NoDiscriminator()
    discriminator = Discriminator(
        base,
        adapters,
        seed=train.seed,
        learning_rate=config.discriminator.learning_rate,
        max_grad_norm=train.max_grad_norm,
    )
    return Student(base, adapters, settings, train), discriminator


def preview(settings: StudentConfig, prompts: Sequence[Prompt]) -> list[str]:
    """Lines that show what the student is asked, and that its chat template can be trained on. Loads no weights."""
    chat = load_chat(settings.model)
    lines = [f"`{settings.model}`: a turn ends with {', '.join(sorted(chat.eos_texts))}"]
    for prompt in prompts:
        ids = chat.prompt_ids(prompt.messages)
        lines.append(f"prompt {prompt.id}, {len(ids)} tokens:")
        lines += [f"  {line}" for line in chat.decode(ids).splitlines()]
    return lines
