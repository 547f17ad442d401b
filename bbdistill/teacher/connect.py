"""From a config to providers behind the client stack: the address, the store, the run, and one cap over all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from bbdistill.client.budget import Purse, provider_of
from bbdistill.client.call import Call, Handler
from bbdistill.client.edge import AsyncEdge
from bbdistill.client.gate import LimitHistory
from bbdistill.client.headers import Kind
from bbdistill.client.http import ClientSettings, Stack, open_stack
from bbdistill.client.prices import price
from bbdistill.client.sqlite import StoreEmpty
from bbdistill.client.store import Store
from bbdistill.config import CacheMode
from bbdistill.config.models import TeacherConfig
from bbdistill.errors import ConfigError
from bbdistill.teacher import anthropic, openai
from bbdistill.teacher.base import InProcess, Provider
from bbdistill.teacher.credentials import key_of
from bbdistill.types import Usage

LOCAL = "http://local.invalid/v1"
"""Where a model in this process answers; no request for it reaches a network."""
_PROVIDERS: dict[str, tuple[Callable[..., Provider], str]] = {
    "openai": (openai.OpenAIChat, "https://api.openai.com/v1"),
    "anthropic": (anthropic.AnthropicMessages, "https://api.anthropic.com"),
    "local": (openai.OpenAIChat, LOCAL),
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
    def purse(self) -> Purse | None:
        """Who pays for all of it; None where nothing goes out."""
        budget = self.stacks[0].budget
        return None if budget is None else budget.purse

    @property
    def uncertain_usd(self) -> float:
        """Of what the run has spent by the record, the worst case of attempts that nobody knows the cost of."""
        rows = () if self.store is None or self.run is None else self.store.spend(self.run)
        return sum(row.uncertain_usd for row in rows)

    @property
    def in_flight(self) -> int:
        """Calls that are sent and not answered yet."""
        return sum(stack.in_flight for stack in self.stacks)

    @property
    def failed(self) -> Sequence[str]:
        """Why the last attempt failed of each call that is tried again."""
        return [reason for stack in self.stacks for reason in stack.failed]

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


def ready(
    config: TeacherConfig, *, judge: TeacherConfig | None = None, mode: CacheMode, replay: str | None = None
) -> Sequence[str]:
    """The keys of the models that will be asked; ConfigError where they cannot be. Makes no file and no connection."""
    file = _replayed(config, mode, replay)
    if file is not None:
        if not file[0].is_file():
            raise ConfigError(f"nothing to replay: no store at `{file[0]}`; run once with `--cache auto` to record one")
        return ()
    for model in _capped(config, judge):
        if not _priced(model):
            raise ConfigError(
                f"no price is known for `{model.model}`, so a dollar cap cannot be kept; set `input_usd_per_mtok` and "
                "`output_usd_per_mtok`: both to 0 for a server of your own"
            )
    if mode != "off" and config.cache.is_file():
        with suppress(StoreEmpty):
            Store(config.cache, read_only=True).close()
    return [key_of(model) for model in (config, judge) if model is not None]


def connect(
    config: TeacherConfig,
    *,
    judge: TeacherConfig | None = None,
    mode: CacheMode,
    replay: str | None = None,
    keys: Sequence[str] | None = None,
    run: str | None = None,
    facts: Mapping[str, Any] | None = None,
    local: InProcess | None = None,
) -> Connection:
    """Opens the store and builds the stacks. In replay nothing is written and no socket can be opened.

    `local` answers for a teacher in this process.

    `keys` are what `ready` gave, where it was asked before. `run` names the training run that asks, and `facts` go into
    its row; without one, the newest run of any kind is replayed, and what is asked is noted under a new name.
    """
    if keys is None:
        keys = ready(config, judge=judge, mode=mode, replay=replay)
    replayed = _replayed(config, mode, replay)
    if replayed is not None:
        return _replaying(config, judge, *replayed, planned=run is not None, local=local)
    if config.is_local and local is None:
        raise ConfigError(
            f"`{config.model}` is a model in this process, which only `bbdistill run` and `advise` open; for anything "
            "else name a server that has it: `openai:MODEL` with a `base_url`"
        )
    models = [config] if judge is None else [config, judge]
    store = None if mode == "off" else Store(config.cache)
    if store is not None:
        run = store.start_run(facts or {"teacher": config.model}, run=run)
    stacks: list[Stack] = []
    for model in models:
        beside = stacks[0] if stacks else None
        bottom = local if model.is_local else None
        settings = _settings(model, local)
        stacks.append(open_stack(store, mode=mode, run=run, settings=settings, beside=beside, bottom=bottom))
    providers = [_provider(*found, local) for found in zip(models, stacks, keys, strict=True)]
    return _connection(providers, stacks, store=store, run=run, source=run, replaying=False)


def connect_to(handler: Handler, config: TeacherConfig) -> Connection:
    """The provider over `handler` alone: its requests as they would be sent, with no store, no key and no socket."""
    stack = Stack(handler)
    provider = _provider(config, stack, "none", None)
    return _connection([provider], [stack], store=None, run=None, source=None, replaying=False)


def _replaying(
    config: TeacherConfig,
    judge: TeacherConfig | None,
    file: Path,
    source: str | None,
    *,
    planned: bool,
    local: InProcess | None,
) -> Connection:
    store = Store(file, read_only=True)
    source = source or store.newest_run(planned=planned)
    models = [config] if judge is None else [config, judge]
    stacks = [open_stack(store, mode="replay", source_run=source, settings=_settings(model, local)) for model in models]
    providers = [_provider(model, stack, "replay", local) for model, stack in zip(models, stacks, strict=True)]
    return _connection(providers, stacks, store=store, run=None, source=source, replaying=True)


def _replayed(config: TeacherConfig, mode: CacheMode, replay: str | None) -> tuple[Path, str | None] | None:
    """The store and the run to replay (None: its newest); None where calls may go out."""
    if replay is None and mode != "replay":
        return None
    if mode in ("record", "off"):
        raise ConfigError(f"`--cache {mode}` would ask the teacher, and --replay asks nobody; leave one of them out")
    file, _, run = (replay or str(config.cache)).partition("#")
    return Path(file), run or None


def _capped(config: TeacherConfig, judge: TeacherConfig | None) -> Iterator[TeacherConfig]:
    """The models that are asked for something with a cap on it."""
    purposes = set(config.max_usd_by.model_dump(exclude_none=True))
    if config.max_usd is not None or purposes - (set() if judge is None else {"preferences"}):
        yield config
    if judge is not None and (
        config.max_usd is not None or purposes & {"preferences", "corrections", "rubric", "evaluation"}
    ):
        yield judge


def _priced(config: TeacherConfig) -> bool:
    name, _, model = config.model.partition(":")
    call = Call(method="POST", url=config.base_url or _PROVIDERS[name][1], headers={}, body=b"")
    return price(model, provider_of(call), Usage(input_tokens=1, output_tokens=1), config.prices) is not None


def _connection(providers: Sequence[Provider], stacks: Sequence[Stack], **rest: Any) -> Connection:
    judge = providers[1] if len(providers) > 1 else None
    return Connection(provider=providers[0], judge=judge, stacks=tuple(stacks), **rest)


def _settings(config: TeacherConfig, local: InProcess | None) -> ClientSettings:
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
        # Not where it lies, but which weights it is, decides what it answers.
        teacher_id=local.id if config.is_local and local else config.id,
    )


def _provider(config: TeacherConfig, stack: Stack, key: str, local: InProcess | None) -> Provider:
    name, _, model = config.model.partition(":")
    model = local.id if config.is_local and local else model
    make, address = _PROVIDERS[name]
    return make(
        model=model,
        # Named even where it is the default, so that no environment variable can move a run elsewhere.
        base_url=config.base_url or address,
        api_key=key,
        http_client=httpx2.AsyncClient(transport=AsyncEdge(stack), timeout=config.timeout_s),
        temperature=config.temperature,
    )
