"""From a config to providers behind the client stack: the address, the store, the run, and one cap over all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from bbdistill.client.call import Handler
from bbdistill.client.edge import AsyncEdge
from bbdistill.client.gate import LimitHistory
from bbdistill.client.headers import Kind
from bbdistill.client.http import ClientSettings, Stack, open_stack
from bbdistill.client.store import Store
from bbdistill.config import CacheMode, TeacherConfig
from bbdistill.errors import ConfigError
from bbdistill.teacher import anthropic, openai
from bbdistill.teacher.base import Provider
from bbdistill.teacher.credentials import key_of

_PROVIDERS: dict[str, tuple[Callable[..., Provider], str]] = {
    "openai": (openai.OpenAIChat, "https://api.openai.com/v1"),
    "anthropic": (anthropic.AnthropicMessages, "https://api.anthropic.com"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Teacher and judge ready to be asked; `source` is the run whose decisions count: this one, or the replayed one."""

    provider: Provider
    judge: Provider | None
    """A provider of its own, where the judge is not the teacher."""
    stacks: tuple[Stack, ...]
    store: Store | None
    run: str | None
    source: str | None
    replaying: bool

    @property
    def limits(self) -> Sequence[LimitHistory]:
        """How many calls at once each model was given, and why."""
        return [history for stack in self.stacks for history in stack.limits]

    @property
    def spent_usd(self) -> float | None:
        """What the run has paid by the record, which has replies that nobody waited for; None = not known."""
        rows = self.store.spend(self.run) if self.store is not None and self.run is not None else []
        return None if any(row.unpriced for row in rows) else sum(row.usd for row in rows)

    async def drain(self) -> None:
        """Sends nothing more of what was asked so far, and waits until all that is on the wire is stored."""
        for stack in self.stacks:
            await stack.drain()

    async def close(self) -> None:
        await self.provider.close()
        if self.judge is not None:
            await self.judge.close()
        if self.store is not None:
            self.store.close()


def connect(
    config: TeacherConfig,
    *,
    judge: TeacherConfig | None = None,
    mode: CacheMode,
    replay: str | None = None,
    run: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Connection:
    """Opens the store and builds the stacks. In replay nothing is written and no socket can be opened.

    `run` names the training run that asks, and `facts` go into its row; without one, the newest run of any kind is
    replayed, and what is asked is noted under a new name.
    """
    if replay is not None or mode == "replay":
        file, _, source = (replay or str(config.cache)).partition("#")
        return _replaying(config, judge, Path(file), source or None, planned=run is not None)
    models = [config] if judge is None else [config, judge]
    keys = [key_of(model) for model in models]  # first, so that a missing one leaves nothing behind
    store = None if mode == "off" else Store(config.cache)
    if store is not None:
        run = store.start_run(facts or {"teacher": config.model}, run=run)
    stacks: list[Stack] = []
    for model in models:
        beside = stacks[0] if stacks else None
        stacks.append(open_stack(store, mode=mode, run=run, settings=_settings(model), beside=beside))
    providers = [_provider(*found) for found in zip(models, stacks, keys, strict=True)]
    return _connection(providers, stacks, store=store, run=run, source=run, replaying=False)


def connect_to(handler: Handler, config: TeacherConfig) -> Connection:
    """The provider over `handler` alone: its requests as they would be sent, with no store, no key and no socket."""
    stack = Stack(handler)
    provider = _provider(config, stack, "none")
    return _connection([provider], [stack], store=None, run=None, source=None, replaying=False)


def _replaying(
    config: TeacherConfig, judge: TeacherConfig | None, file: Path, source: str | None, *, planned: bool
) -> Connection:
    if not file.is_file():
        raise ConfigError(f"nothing to replay: no store at `{file}`; run once with `--cache auto` to record one")
    store = Store(file, read_only=True)
    source = source or store.newest_run(planned=planned)
    models = [config] if judge is None else [config, judge]
    stacks = [open_stack(store, mode="replay", source_run=source, settings=_settings(model)) for model in models]
    providers = [_provider(model, stack, "replay") for model, stack in zip(models, stacks, strict=True)]
    return _connection(providers, stacks, store=store, run=None, source=source, replaying=True)


def _connection(providers: Sequence[Provider], stacks: Sequence[Stack], **rest: Any) -> Connection:
    judge = providers[1] if len(providers) > 1 else None
    return Connection(provider=providers[0], judge=judge, stacks=tuple(stacks), **rest)


def _settings(config: TeacherConfig) -> ClientSettings:
    stated: dict[Kind, int | None] = {
        "requests": config.requests_per_minute,
        "tokens": config.tokens_per_minute,
        "input-tokens": config.input_tokens_per_minute,
        "output-tokens": config.output_tokens_per_minute,
    }
    return ClientSettings(
        concurrency=config.concurrency,
        per_minute={kind: limit for kind, limit in stated.items() if limit is not None},
        timeout_s=config.timeout_s,
        max_usd=config.max_usd,
        max_usd_by=config.max_usd_by.model_dump(exclude_none=True),
        prices=config.prices,
        teacher_id=config.id,
    )


def _provider(config: TeacherConfig, stack: Stack, key: str) -> Provider:
    name, _, model = config.model.partition(":")
    make, address = _PROVIDERS[name]
    return make(
        model=model,
        # Named even where it is the default, so that no environment variable can move a run elsewhere.
        base_url=config.base_url or address,
        api_key=key,
        http_client=httpx2.AsyncClient(transport=AsyncEdge(stack), timeout=config.timeout_s),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
    )
