"""Where an SDK's `httpx2` client meets the stack: translates requests, replies and exceptions, and nothing else."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import httpx2

from bbdistill.client import wire
from bbdistill.client.call import Call, Fault, Mode, Reply
from bbdistill.client.http import ClientSettings, Stack, open_stack
from bbdistill.client.logs import redact_logs
from bbdistill.client.loop import LoopThread
from bbdistill.client.records import kept
from bbdistill.client.store import Store
from bbdistill.errors import BBDistillError, ConfigError, ReplayMiss

_OURS = "x-bbdistill-"
_FORM = ("content-type", "location")
_TAGS = {"purpose": "purpose", "prompt": "prompt_id", "template": "template"}


class AsyncEdge(httpx2.AsyncBaseTransport):
    """The stack as a transport of `httpx2.AsyncClient`. Closing it closes the stack, and `store` where one is given.

    Request headers `x-bbdistill-sample`, `-purpose`, `-prompt` and `-template` are for us and are not sent on; texts in
    them may be percent-encoded. Replies gain `x-bbdistill-cached` (0 or 1), `-cost-usd` and `-recorded-cost-usd`; an
    absent cost is unknown. HTTP errors are ordinary responses, other faults exceptions of `httpx2`. ReplayMiss,
    BudgetExceeded and StoreError are raised as they are, which some SDKs pass on and some wrap: `unwrap` finds them.
    """

    def __init__(self, stack: Stack, *, store: Store | None = None) -> None:
        self._stack, self._store = stack, store
        redact_logs()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await _handle(self._stack, request, await request.aread())

    async def aclose(self) -> None:
        await self._stack.aclose()
        if self._store is not None:
            self._store.close()


class SyncEdge(httpx2.BaseTransport):
    """The same for `httpx2.Client`: the stack runs on a loop in a thread of its own."""

    def __init__(self, stack: Stack, *, store: Store | None = None) -> None:
        self._edge, self._stack = AsyncEdge(stack, store=store), stack
        self._loop = LoopThread()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return self._loop.run(_read(_handle(self._stack, request, request.read())))

    def close(self) -> None:
        self._loop.run(self._edge.aclose())
        self._loop.close()


def http_client(
    store_path: str | Path, *, mode: Mode = "auto", run: str | None = None, **settings: Any
) -> httpx2.AsyncClient:
    """For `AsyncOpenAI(http_client=...)` or `AsyncAnthropic(http_client=...)`, with `max_retries=0`.

    `settings` are the fields of `ClientSettings`. `run` is who uses the calls; in mode `replay`, the run to repeat.
    """
    stack, store, wishes = _open(store_path, mode, run, settings)
    transport = AsyncEdge(stack, store=store)
    return httpx2.AsyncClient(transport=transport, timeout=wishes.timeout_s, follow_redirects=True)


def sync_http_client(
    store_path: str | Path, *, mode: Mode = "auto", run: str | None = None, **settings: Any
) -> httpx2.Client:
    """The same as `http_client` for `OpenAI` and `Anthropic`."""
    stack, store, wishes = _open(store_path, mode, run, settings)
    transport = SyncEdge(stack, store=store)
    return httpx2.Client(transport=transport, timeout=wishes.timeout_s, follow_redirects=True)


def unwrap(error: BaseException) -> BBDistillError | Fault | None:
    """Our own error at the root of one that an SDK raised; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BBDistillError | Fault):
        cause = cause.__cause__
    return cause


def _open(
    path: str | Path, mode: Mode, run: str | None, settings: dict[str, Any]
) -> tuple[Stack, Store | None, ClientSettings]:
    wishes = ClientSettings(**settings)
    store = None if mode == "off" else Store(path, read_only=mode == "replay")
    replayed = run if mode == "replay" else None
    return open_stack(store, mode=mode, run=run, source_run=replayed, settings=wishes), store, wishes


async def _handle(stack: Stack, request: httpx2.Request, body: bytes) -> httpx2.Response:
    if request.method != "POST" or wire.endpoint(request.url.path) is None:
        return await _straight_through(stack, request, body)
    try:
        return _response(await stack(_call(request, body)))
    except Fault as fault:
        if fault.reply is not None and fault.reply.status >= 300:
            return _response(fault.reply)
        _raise(fault, request)


def _call(request: httpx2.Request, body: bytes) -> Call:
    headers = dict(request.headers)
    sample = headers.get(_OURS + "sample", "0")
    if not sample.isdecimal():
        raise ConfigError(f"header `{_OURS}sample` must be a number from 0 up, got `{sample}`")
    return Call(
        method=request.method,
        url=str(request.url),
        headers={name: value for name, value in headers.items() if not name.startswith(_OURS)},
        body=body,
        sample=int(sample),
        tags={tag: unquote(headers[_OURS + name]) for name, tag in _TAGS.items() if _OURS + name in headers},
        timeouts=request.extensions.get("timeout", {}),
    )


def _response(reply: Reply) -> httpx2.Response:
    # As a replay would have them: the SDKs log the headers of replies, and some say whose account it is.
    headers = kept(reply.headers) | {name: reply.headers[name] for name in _FORM if name in reply.headers}
    headers[_OURS + "cached"] = str(int(reply.cached))
    for name, dollars in (("cost-usd", reply.cost_usd), ("recorded-cost-usd", reply.recorded_cost_usd)):
        if dollars is not None:
            headers[_OURS + name] = repr(dollars)
    return httpx2.Response(reply.status, headers=headers, content=reply.body)


def _raise(fault: Fault, request: httpx2.Request) -> NoReturn:
    """As the exception it was, so that the SDKs tell a timeout from a lost connection."""
    cause = fault.__cause__
    kind = type(cause) if isinstance(cause, httpx2.RequestError) else httpx2.RemoteProtocolError
    raise kind(fault.reason, request=request) from fault


async def _straight_through(stack: Stack, request: httpx2.Request, body: bytes) -> httpx2.Response:
    if stack.direct is None:
        raise ReplayMiss(f"{request.method} {request.url.path} is never recorded, so a replay cannot answer it")
    onward = httpx2.Request(
        request.method,
        request.url,
        headers=[(name, value) for name, value in request.headers.multi_items() if not name.startswith(_OURS)],
        content=body,
        extensions=request.extensions,
    )
    response = await stack.direct.send(onward, stream=True)
    return httpx2.Response(
        response.status_code, headers=response.headers, stream=response.stream, extensions=response.extensions
    )


async def _read(pending: Coroutine[Any, Any, httpx2.Response]) -> httpx2.Response:
    """A response whose body needs no loop any more."""
    response = await pending
    if response.is_stream_consumed:
        return response
    raw = b"".join([part async for part in response.aiter_raw()])
    return httpx2.Response(response.status_code, headers=response.headers, content=raw)
