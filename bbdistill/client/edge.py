"""Where an SDK's HTTP client meets the stack: translates requests, replies and exceptions, and nothing else.

The SDKs of today sit on `httpx2`, older ones on `httpx`. Both packages have the same names and take any object with a
transport's methods, so one edge serves both: it makes the responses and exceptions of the one it is told.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, overload
from urllib.parse import unquote

import httpx2

from bbdistill.client import wire
from bbdistill.client.call import Call, Fault, Mode, Repeat, Reply
from bbdistill.client.http import ClientSettings, Stack, open_stack
from bbdistill.client.logs import redact_logs
from bbdistill.client.loop import LoopThread
from bbdistill.client.records import kept
from bbdistill.client.store import Store
from bbdistill.errors import BBDistillError, ConfigError, ReplayMiss

if TYPE_CHECKING:
    import httpx

Library = Literal["httpx2", "httpx"]
"""The HTTP package under the SDK: `httpx` is for openai before 3 and anthropic before 1."""
_Request: TypeAlias = "httpx2.Request | httpx.Request"
_Package: TypeAlias = ModuleType

_OURS = "x-bbdistill-"
_FORM = ("content-type", "location")
_TAGS = {"purpose": "purpose", "prompt": "prompt_id", "template": "template"}


class AsyncEdge(httpx2.AsyncBaseTransport):
    """The stack as a transport of an `AsyncClient`. Closing it closes the stack, and `store` where one is given.

    Request headers `x-bbdistill-sample`, `-purpose`, `-prompt` and `-template` are for us and are not sent on; texts in
    them may be percent-encoded. Replies gain `x-bbdistill-cached` (0 or 1), `-cost-usd` and `-recorded-cost-usd`; an
    absent cost is unknown. HTTP errors are ordinary responses, other faults exceptions of the library. ReplayMiss,
    BudgetExceeded and StoreError are raised as they are, which some SDKs pass on and some wrap: `unwrap` finds them.
    """

    def __init__(self, stack: Stack, *, store: Store | None = None, library: Library = "httpx2") -> None:
        self._stack, self._store, self._package = stack, store, import_module(library)
        redact_logs()

    async def handle_async_request(self, request: _Request) -> Any:
        body = await request.aread()
        if self._stack.offline is not None:
            return _replayed(self._stack.offline, request, body, self._package)
        return await _handle(self._stack, request, body, self._package, whole=self._package is not httpx2)

    async def aclose(self) -> None:
        await self._stack.aclose()
        if self._store is not None:
            self._store.close()


class SyncEdge(httpx2.BaseTransport):
    """The same for a `Client`: a replay answers on the calling thread, live calls run on a loop in another."""

    def __init__(self, stack: Stack, *, store: Store | None = None, library: Library = "httpx2") -> None:
        self._stack, self._store, self._package = stack, store, import_module(library)
        self._loop = LoopThread() if stack.offline is None else None
        redact_logs()

    def handle_request(self, request: _Request) -> Any:
        body = request.read()
        if self._stack.offline is not None:
            return _replayed(self._stack.offline, request, body, self._package)
        assert self._loop is not None
        return self._loop.run(_handle(self._stack, request, body, self._package, whole=True))

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run(self._stack.aclose())
            self._loop.close()
        if self._store is not None:
            self._store.close()


@overload
def http_client(
    store_path: str | Path,
    *,
    mode: Mode = ...,
    run: str | None = ...,
    repeat: Repeat = ...,
    library: Literal["httpx2"] = ...,
    **settings: Any,
) -> httpx2.AsyncClient: ...
@overload
def http_client(
    store_path: str | Path,
    *,
    mode: Mode = ...,
    run: str | None = ...,
    repeat: Repeat = ...,
    library: Literal["httpx"],
    **settings: Any,
) -> "httpx.AsyncClient": ...
def http_client(
    store_path: str | Path,
    *,
    mode: Mode = "auto",
    run: str | None = None,
    repeat: Repeat = "same",
    library: Library = "httpx2",
    **settings: Any,
) -> Any:
    """For `AsyncOpenAI(http_client=...)` or `AsyncAnthropic(http_client=...)`, with `max_retries=0`.

    `run` is who uses the calls; in mode `replay`, the run to repeat. With `repeat="sequence"` the n-th identical
    request gets the n-th recorded reply, which is for tests. A stream is read to its end before it is passed on.
    `settings` are the fields of `ClientSettings`.
    """
    wishes = ClientSettings(**settings)
    stack, store = _open(store_path, mode, run, repeat, wishes)
    return async_client(stack, store=store, library=library, timeout_s=wishes.timeout_s)


@overload
def sync_http_client(
    store_path: str | Path,
    *,
    mode: Mode = ...,
    run: str | None = ...,
    repeat: Repeat = ...,
    library: Literal["httpx2"] = ...,
    **settings: Any,
) -> httpx2.Client: ...
@overload
def sync_http_client(
    store_path: str | Path,
    *,
    mode: Mode = ...,
    run: str | None = ...,
    repeat: Repeat = ...,
    library: Literal["httpx"],
    **settings: Any,
) -> "httpx.Client": ...
def sync_http_client(
    store_path: str | Path,
    *,
    mode: Mode = "auto",
    run: str | None = None,
    repeat: Repeat = "same",
    library: Library = "httpx2",
    **settings: Any,
) -> Any:
    """The same as `http_client` for `OpenAI` and `Anthropic`."""
    wishes = ClientSettings(**settings)
    stack, store = _open(store_path, mode, run, repeat, wishes)
    return sync_client(stack, store=store, library=library, timeout_s=wishes.timeout_s)


def async_client(stack: Stack, *, store: Store | None, library: Library, timeout_s: float) -> Any:
    """An `AsyncClient` of `library` over `stack`; closing it closes both, and `store` where one is given."""
    edge = AsyncEdge(stack, store=store, library=library)
    return import_module(library).AsyncClient(transport=edge, timeout=timeout_s, follow_redirects=True)


def sync_client(stack: Stack, *, store: Store | None, library: Library, timeout_s: float) -> Any:
    """The same as a `Client`."""
    edge = SyncEdge(stack, store=store, library=library)
    return import_module(library).Client(transport=edge, timeout=timeout_s, follow_redirects=True)


def unwrap(error: BaseException) -> BBDistillError | Fault | None:
    """Our own error at the root of one that an SDK raised; None if there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, BBDistillError | Fault):
        cause = cause.__cause__
    return cause


def _open(
    path: str | Path, mode: Mode, run: str | None, repeat: Repeat, settings: ClientSettings
) -> tuple[Stack, Store | None]:
    store = None if mode == "off" else Store(path, read_only=mode == "replay")
    replayed = run if mode == "replay" else None
    return open_stack(store, mode=mode, run=run, source_run=replayed, repeat=repeat, settings=settings), store


def _replayed(recorded: Callable[[Call], Reply], request: _Request, body: bytes, package: _Package) -> Any:
    if not _is_generation(request):
        raise ReplayMiss(f"{request.method} {request.url.path} is never recorded, so a replay cannot answer it")
    try:
        return _response(recorded(_call(request, body)), package)
    except Fault as fault:
        return _failure(fault, request, package)


async def _handle(stack: Stack, request: _Request, body: bytes, package: _Package, *, whole: bool) -> Any:
    """With `whole` the response has its body already and needs no loop any more."""
    if not _is_generation(request):
        response = await _straight_through(stack, request, body)
        return await _read(response, package) if whole else response
    try:
        return _response(await stack(_call(request, body)), package)
    except Fault as fault:
        return _failure(fault, request, package)


def _is_generation(request: _Request) -> bool:
    return request.method == "POST" and wire.endpoint(request.url.path) is not None


def _call(request: _Request, body: bytes) -> Call:
    headers, ours = _headers(request)
    sample = ours.get("sample", "0")
    if not sample.isdecimal():
        raise ConfigError(f"header `{_OURS}sample` must be a number from 0 up, got `{sample}`")
    return Call(
        method=request.method,
        url=str(request.url),
        headers=headers,
        body=body,
        sample=int(sample),
        tags={tag: unquote(ours[name]) for name, tag in _TAGS.items() if name in ours},
        timeouts=request.extensions.get("timeout", {}),
    )


def _headers(request: _Request) -> tuple[dict[str, str], dict[str, str]]:
    """Those to send on, and ours. In one pass: `dict(request.headers)` looks every name up in all the others."""
    encoding = request.headers.encoding
    theirs: dict[str, str] = {}
    ours: dict[str, str] = {}
    for raw_name, raw_value in request.headers.raw:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode(encoding)
        if name.startswith(_OURS):
            ours[name.removeprefix(_OURS)] = value
        else:
            theirs[name] = f"{theirs[name]}, {value}" if name in theirs else value
    return theirs, ours


def _response(reply: Reply, package: _Package) -> Any:
    # As a replay would have them: the SDKs log the headers of replies, and some say whose account it is.
    headers = kept(reply.headers) | {name: reply.headers[name] for name in _FORM if name in reply.headers}
    headers["x-bbdistill-cached"] = "1" if reply.cached else "0"
    if reply.cost_usd is not None:
        headers["x-bbdistill-cost-usd"] = repr(reply.cost_usd)
    if reply.recorded_cost_usd is not None:
        headers["x-bbdistill-recorded-cost-usd"] = repr(reply.recorded_cost_usd)
    return package.Response(reply.status, headers=headers, content=reply.body)


def _failure(fault: Fault, request: _Request, package: _Package) -> Any:
    """The response of an HTTP error. Raises any other fault as the exception it was: a timeout, a lost connection."""
    if fault.reply is not None and fault.reply.status >= 300:
        return _response(fault.reply, package)
    _raise(fault, request, package)


def _raise(fault: Fault, request: _Request, package: _Package) -> NoReturn:
    cause = fault.__cause__
    name = type(cause).__name__ if isinstance(cause, httpx2.RequestError) else "RemoteProtocolError"
    raise getattr(package, name)(fault.reason, request=request) from fault


async def _straight_through(stack: Stack, request: _Request, body: bytes) -> httpx2.Response:
    assert stack.direct is not None
    onward = httpx2.Request(
        request.method,
        str(request.url),
        headers=[(name, value) for name, value in request.headers.multi_items() if not name.startswith(_OURS)],
        content=body,
        extensions=request.extensions,
    )
    response = await stack.direct.send(onward, stream=True)
    return httpx2.Response(
        response.status_code, headers=response.headers, stream=response.stream, extensions=response.extensions
    )


async def _read(response: httpx2.Response, package: _Package) -> Any:
    raw = b"".join([part async for part in response.aiter_raw()])
    return package.Response(response.status_code, headers=response.headers.multi_items(), content=raw)
