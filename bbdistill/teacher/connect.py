"""From a config to a provider behind the client stack: the key, the address, the store and the run."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from bbdistill.client.call import Handler
from bbdistill.client.edge import AsyncEdge
from bbdistill.client.headers import Kind
from bbdistill.client.http import ClientSettings, Stack, open_stack
from bbdistill.client.store import Store
from bbdistill.config import CacheMode, TeacherConfig
from bbdistill.errors import ConfigError
from bbdistill.teacher import anthropic, openai
from bbdistill.teacher.base import Provider

_PROVIDERS: dict[str, tuple[Callable[..., Provider], str, str]] = {
    "openai": (openai.OpenAIChat, openai.KEY_ENV, "https://api.openai.com/v1"),
    "anthropic": (anthropic.AnthropicMessages, anthropic.KEY_ENV, "https://api.anthropic.com"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A provider ready to be asked. `source` is the run whose decisions count: this one, or the replayed one."""

    provider: Provider
    stack: Stack
    store: Store | None
    run: str | None
    source: str | None
    replaying: bool

    async def close(self) -> None:
        await self.provider.close()
        if self.store is not None:
            self.store.close()


def connect(
    config: TeacherConfig,
    *,
    mode: CacheMode,
    replay: str | None = None,
    run: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Connection:
    """Opens the store and builds the stack. In replay nothing is written and no socket can be opened.

    `run` names the training run that asks, and `facts` go into its row; without one, the newest run of any kind is
    replayed, and what is asked is noted under a new name.
    """
    if replay is not None or mode == "replay":
        file, _, source = (replay or str(config.cache)).partition("#")
        return _replaying(config, Path(file), source or None, planned=run is not None)
    key = _key(config)  # first, so that a missing one leaves nothing behind
    store = None if mode == "off" else Store(config.cache)
    if store is not None:
        run = store.start_run(facts or {"teacher": config.model}, run=run)
    stack = open_stack(store, mode=mode, run=run, settings=_settings(config))
    provider = _provider(config, AsyncEdge(stack), key)
    return Connection(provider=provider, stack=stack, store=store, run=run, source=run, replaying=False)


def connect_to(handler: Handler, config: TeacherConfig) -> Connection:
    """The provider over `handler` alone: its requests as they would be sent, with no store, no key and no socket."""
    stack = Stack(handler, replay=None, socket=None)
    provider = _provider(config, AsyncEdge(stack), "none")
    return Connection(provider=provider, stack=stack, store=None, run=None, source=None, replaying=False)


def _replaying(config: TeacherConfig, file: Path, source: str | None, *, planned: bool) -> Connection:
    if not file.is_file():
        raise ConfigError(f"nothing to replay: no store at `{file}`; run once with `--cache auto` to record one")
    store = Store(file, read_only=True)
    source = source or store.newest_run(planned=planned)
    stack = open_stack(store, mode="replay", run=None, source_run=source, settings=_settings(config))
    provider = _provider(config, AsyncEdge(stack), "replay")
    return Connection(provider=provider, stack=stack, store=store, run=None, source=source, replaying=True)


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


def _provider(config: TeacherConfig, edge: AsyncEdge, key: str) -> Provider:
    name, _, model = config.model.partition(":")
    make, _, address = _PROVIDERS[name]
    return make(
        model=model,
        # Named even where it is the default, so that no environment variable can move a run elsewhere.
        base_url=config.base_url or address,
        api_key=key,
        http_client=httpx2.AsyncClient(transport=edge, timeout=config.timeout_s),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
    )


def _key(config: TeacherConfig) -> str:
    name, _, _ = config.model.partition(":")
    variable = config.api_key_env or _PROVIDERS[name][1]
    key = os.environ.get(variable, "").strip()
    if key:
        return key
    if config.base_url is not None and config.api_key_env is None:
        return "none"  # a server of one's own; the SDKs insist on some text
    raise ConfigError(
        f"no key for `{config.model}`: set the environment variable `{variable}`, or `teacher.api_key_env`"
    )
