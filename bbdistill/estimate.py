"""`bbdistill estimate`, and the bound that `run --dry-run` shows: calls, tokens and dollars by purpose, before any.

Every request is made as it would be sent, and weighed instead of sent. No network, no key, no torch.
"""

import asyncio
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bbdistill.asking import Asking, Batch, Range
from bbdistill.client.bounds import BYTES_PER_TOKEN
from bbdistill.client.prices import price
from bbdistill.client.sqlite import StoreEmpty
from bbdistill.client.store import Store
from bbdistill.config import RunConfig, Settings
from bbdistill.stages import Stage, demonstrated, prompts_marked, prompts_used, stages
from bbdistill.task import Task, load_task, resolve
from bbdistill.teacher.weigh import Scale, Weight
from bbdistill.types import Abstain, Prompt, Purpose, Usage

_ENOUGH = 5
"""Recorded replies from which on their lengths are taken for typical."""
_TYPICAL = (0.1, 0.9)
"""Quantiles of recorded lengths; the mean of many calls lies between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one purpose takes; tokens and dollars are of the calls whose replies are not in the store yet."""

    purpose: Purpose
    calls: Range
    cached: int
    """Of those, the ones whose replies are in the store: they cost nothing."""
    input_tokens: Range
    output_tokens: Range
    usd: tuple[float, float] | None
    """None = no price is known for this model."""
    recorded: int
    """Recorded replies that the lengths are from; 0 = they are bounded by bytes and by the output limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run takes, apart from attempts that are billed and lost."""

    models: tuple[str, ...]
    """The teacher's, and the judge's where it is another."""
    lines: Sequence[Line]

    @property
    def usd(self) -> tuple[float, float] | None:
        known = [line.usd for line in self.lines if line.usd is not None]
        whole = len(known) == len(self.lines)
        return (sum(low for low, _ in known), sum(high for _, high in known)) if whole else None

    def as_json(self) -> dict[str, Any]:
        by_purpose = {line.purpose: asdict(line) for line in self.lines}
        return {"models": self.models, "by_purpose": by_purpose, "usd": self.usd}

    def text(self) -> list[str]:
        """A table and the sum."""
        rows = [("", "calls", "in the store", "input tokens", "output tokens", "cost", "lengths from")]
        for line in self.lines:
            calls, sent, made = (_span(counts) for counts in (line.calls, line.input_tokens, line.output_tokens))
            source = f"{line.recorded} replies" if line.recorded else "bytes and limits"
            rows.append((line.purpose, calls, str(line.cached), sent, made, _dollars(line.usd), source))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.usd is None:
            wanted = "`input_usd_per_mtok` and `output_usd_per_mtok`"
            names = " or ".join(f"`{model}`" for model in self.models)
            return [*table, f"cost: no price is known for {names}; set {wanted}"]
        return [*table, f"cost: {_dollars(self.usd)}, retries of billed attempts not counted"]


def estimate(path: Path, *, overrides: tuple[str, ...] = (), skip_bad: bool = False) -> Estimate:
    """What a run of this config takes; without a `[student]`, what collecting and evaluating its teacher take."""
    config = resolve(path, Settings(overrides=overrides))
    return estimate_task(config, load_task(config, skip_bad=skip_bad))


def estimate_task(config: RunConfig, task: Task) -> Estimate:
    """The same for a config whose files are read."""
    store = _recorded(config.teacher.cache)
    try:
        lines = asyncio.run(_Estimator(config, task, store).lines())
    finally:
        if store is not None:
            store.close()
    return Estimate(models=tuple(dict.fromkeys((config.teacher.model, config.judge_config.model))), lines=lines)


def _recorded(file: Path) -> Store | None:
    """What is recorded so far, if anything is."""
    if file.is_file():
        with suppress(StoreEmpty):
            return Store(file, read_only=True)
    return None


class _Estimator:
    def __init__(self, config: RunConfig, task: Task, store: Store | None) -> None:
        self._config, self._task, self._store = config, task, store
        self._scale = Scale(config.teacher, templates=config.task.templates, answer_options=config.answer_options)
        self._judge = Scale(config.judge_config, templates=config.task.templates)
        self._asking = Asking(config, task, self._scale, self._judge)
        self._seen: set[str] = set()
        ids = [prompt.id for prompt in task.train]
        self._stages = stages(config, ids, task.demonstrations)
        self._shown = demonstrated(config, ids, task.demonstrations)

    async def lines(self) -> list[Line]:
        wanted = [*self._demonstrated(), *self._candidates(), *self._references()]
        once = {(prompt.id, sample): (prompt, sample) for prompt, sample in wanted}
        asked = self._line("demonstrations", [await self._answers(list(once.values()))])
        answers = await self._answers([(prompt, 0) for prompt in self._evaluated()])
        if self._config.student is None:
            return [asked, self._line("evaluation", [answers])]
        # Against three others, in both orders; equal answers are not asked about.
        pairs = 3 * min(self._config.task.win_rate_size, len(self._task.test))
        judged = [(await self._asking.judging()).times((0, 2 * pairs))] if pairs else []
        evaluated = self._line("evaluation", [answers, *judged])
        policy = [stage for stage in self._stages if stage.rewarded]
        rounds = [stage for stage in self._stages if stage.gathers == "corrections"]
        feedback = await self._feedback(policy) if policy else []
        scored = [stage for stage in self._stages if stage.distils]
        # Its own answers come with their scores, and a model in this process is not called for them.
        asked_for = scored and self._config.distill.scores == "given" and not self._config.teacher.is_local
        scores = [await self._scored(scored)] if asked_for else []
        revised = [await self._revised(rounds)] if rounds else []
        return [asked, *feedback, *revised, *scores, evaluated]

    async def _feedback(self, policy: Sequence[Stage]) -> list[Line]:
        """What is asked about the student's own answers."""
        train, marked = self._config.train, [stage for stage in policy if stage.references]
        most = train.prompts_per_step * train.group_size
        mends = sum(stage.steps * min(stage.corrections or 0, most) for stage in policy)
        # At least one text of each prompt can be corrected; texts that are all alike leave nothing to compare.
        surely = sum(stage.steps * min(stage.corrections or 0, train.prompts_per_step) for stage in policy)
        pairs = sum(stage.steps * stage.preferences for stage in policy)
        groups = sum(stage.steps * stage.prompts for stage in marked)
        coached = sum(stage.steps * min(stage.coached, most * (1 + stage.refills)) for stage in policy)
        compare, correct = await self._asking.comparing(), await self._asking.correcting()
        lines = [
            self._line("preferences", [compare.times((0, 2 * pairs))]),
            # One call to correct, two to compare where the verifier cannot decide.
            self._line("corrections", [correct.times((surely, mends)), compare.times((0, 2 * mends))]),
        ]
        if groups:  # of a group whose texts are all alike nothing is asked
            writing, marking = await self._asking.writing_rubrics(), await self._asking.marking()
            lines.append(self._line("rubric", [writing.times((0, groups)), marking.times((0, groups))]))
        if coached:
            lines.append(self._line("coaching", [(await self._asking.coaching()).times((0, coached))]))
        return lines

    async def _revised(self, rounds: Sequence[Stage]) -> Line:
        """What is asked to mend the drafts of all rounds: nothing where they pass, everything where none ever does."""
        answer = self._task.verify
        drafts = edits = surely = 0
        for stage in rounds:
            judged = [not isinstance(answer(self._task.prompt(name), ""), Abstain) for name in stage.ids]
            drafts += len(judged)
            edits += sum(stage.revising.limit if known else 1 for known in judged)
            surely += judged.count(False)  # where nothing can judge a draft, the teacher is asked about it
        how, correct = rounds[0].revising, await self._asking.correcting()
        parts = [
            correct.times((0 if how.quoted else surely, edits)),
            (await self._asking.comparing()).times((0, 2 * drafts)),
        ]
        if how.quoted:
            parts.append((await self._asking.criticising()).times((surely, edits)))
        if how.strategy:
            parts.append((await self._asking.strategising(how.limit)).times((0, drafts)))
        return self._line("corrections", parts)

    async def _scored(self, stages: Sequence[Stage]) -> Line:
        """What is asked about the tokens of texts: a demonstration's once, if it is kept, a rollout's each time."""
        once = prompts_used(self._stages, self._config.train.seed, self._shown, distilled=True)
        drawn = sum(s.steps * s.prompts * s.group_size for s in stages if s.distils == "rollouts")
        return self._line("scores", [(await self._asking.scoring()).times((0, len(once) + drawn))])

    def _demonstrated(self) -> list[tuple[Prompt, int]]:
        """Prompts and samples that are asked: those the stages use; without a student, the whole file."""
        task, config = self._task, self._config
        if config.student is None:
            prompts = task.train if config.task.validation else (*task.train, *task.validation)
        else:
            used = prompts_used(self._stages, config.train.seed, self._shown)
            prompts = [task.prompt(prompt_id) for prompt_id in used]
        return [(prompt, 0) for prompt in prompts if prompt.id not in task.demonstrations]

    def _candidates(self) -> list[tuple[Prompt, int]]:
        """The same for the candidates that a round asks for; a later round asks nothing new."""
        if self._config.student is None:
            return []
        asked = {(name, each): None for stage in self._stages for name in stage.ids for each in range(stage.candidates)}
        return [(self._task.prompt(name), sample) for name, sample in asked]

    def _references(self) -> list[tuple[Prompt, int]]:
        """The same for the answers that rollouts are marked beside."""
        if self._config.student is None:
            return []
        marked = prompts_marked(self._stages, self._config.train.seed)
        return [(self._task.prompt(name), sample) for name, count in marked.items() for sample in range(count)]

    def _evaluated(self) -> list[Prompt]:
        """The test prompts, and those of the validation where imitation is judged by the teacher's answers to them."""
        task = self._task
        imitated = any(stage.validate_every and not (stage.policy or stage.preference) for stage in self._stages)
        judged = any(not isinstance(task.verify(prompt, ""), Abstain) for prompt in task.validation)
        return [*task.test, *(() if judged or not imitated or self._config.student is None else task.validation)]

    async def _answers(self, asked: Sequence[tuple[Prompt, int]]) -> Batch:
        """One call for each prompt and sample; a request that was asked before, in any run, is in the store."""
        demonstrate = self._scale.teacher.demonstrate
        weights = [await self._scale.weigh(demonstrate(prompt, sample=sample)) for prompt, sample in asked]
        fresh: list[Weight] = []
        for weight in weights:
            known = self._store is not None and self._store.find(weight.key, None) is not None
            if not known and weight.key not in self._seen:
                fresh.append(weight)
            self._seen.add(weight.key)
        size = sum(weight.size for weight in fresh)
        return Batch(
            asked=self._config.teacher,
            provider=weights[0].provider if weights else "",
            template=weights[0].template if weights else "",
            calls=(len(weights), len(weights)),
            cached=len(weights) - len(fresh),
            size=(size, size),
            room=self._config.teacher.max_tokens,
        )

    def _line(self, purpose: Purpose, batches: Sequence[Batch]) -> Line:
        parts = [(batch, *self._tokens(batch)) for batch in batches]
        costs = [_usd(batch, sent, made) for batch, sent, made, _ in parts]
        known = [cost for cost in costs if cost is not None]
        return Line(
            purpose=purpose,
            calls=_sum(batch.calls for batch in batches),
            cached=sum(batch.cached for batch in batches),
            input_tokens=_sum(sent for _, sent, _, _ in parts),
            output_tokens=_sum(made for _, _, made, _ in parts),
            usd=(sum(low for low, _ in known), sum(high for _, high in known)) if len(known) == len(costs) else None,
            recorded=sum(recorded for *_, recorded in parts),
        )

    def _tokens(self, batch: Batch) -> tuple[Range, Range, int]:
        """(input, output, recorded replies that say so) of the calls to be paid for."""
        low, high = batch.paid
        model = batch.asked.model.partition(":")[2]
        lengths = self._store.lengths(batch.template, model) if self._store is not None else []
        if len(lengths) >= _ENOUGH:
            sent, made = (_quantiles(column) for column in zip(*lengths, strict=True))
            return (low * sent[0], high * sent[1]), (low * made[0], high * made[1]), len(lengths)
        return (
            (math.ceil(batch.size[0] / BYTES_PER_TOKEN), batch.size[1]),
            (low, high * batch.room),
            0,
        )


def _usd(batch: Batch, sent: Range, made: Range) -> tuple[float, float] | None:
    """Priced call by call, since long ones may have a price of their own."""
    model, found = batch.asked.model.partition(":")[2], [0.0, 0.0]
    for end, count in enumerate(batch.paid):
        if not count:
            continue
        each = Usage(input_tokens=math.ceil(sent[end] / count), output_tokens=math.ceil(made[end] / count))
        one = price(model, batch.provider, each, batch.asked.prices)
        if one is None:
            return None
        found[end] = count * one
    return found[0], found[1]


def _sum(ranges: Iterable[Range]) -> Range:
    lows, highs = zip(*ranges, strict=True)
    return sum(lows), sum(highs)


def _quantiles(values: Sequence[int]) -> Range:
    ordered = sorted(values)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in _TYPICAL)
    return low, high


def _span(counts: Range) -> str:
    low, high = counts
    return f"{low:,}" if low == high else f"{low:,} - {high:,}"


def _dollars(usd: tuple[float, float] | None) -> str:
    return "unknown" if usd is None else f"${usd[0]:.4f} - ${usd[1]:.4f}"
