"""The bottom of the stack: one attempt over the network, through `httpx2`. Environment proxies are honoured."""

import time

import httpx2

from bbdistill.client.call import Call, Fault, Handler, Reply
from bbdistill.client.faults import examine
from bbdistill.client.flights import to_the_end
from bbdistill.client.secrets import redact, secrets_of

_CONNECT_S = 15.0
_NOTHING_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_HOPELESS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
_ENCODING = {"content-encoding", "content-length", "transfer-encoding", "connection"}


class Socket:
    """Sends a call once and reads the reply to its end."""

    def __init__(self, *, concurrency: int, timeout_s: float) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency)
        # A client and not a bare transport: it is what knows proxies and NO_PROXY.
        self.client = httpx2.AsyncClient(limits=limits, timeout=timeout_s)
        self._timeout_s = timeout_s

    async def __call__(self, call: Call, /) -> Reply:
        request = httpx2.Request(
            call.method,
            call.url,
            headers=dict(call.headers),
            content=call.body,
            extensions={"timeout": self._timeouts(call)},
        )
        started = time.monotonic()
        try:
            response = await self.client.send(request)
        except httpx2.RequestError as error:
            raise Fault(
                redact(f"{type(error).__name__}: {error}".rstrip(": "), secrets_of(call)),
                retryable=not isinstance(error, _HOPELESS),
                unreachable=isinstance(error, _NOTHING_SENT),
                latency_s=time.monotonic() - started,
            ) from error
        return examine(
            call,
            Reply(
                status=response.status_code,
                # The body is decoded, so what described its encoding is no longer true.
                headers={name: value for name, value in response.headers.items() if name not in _ENCODING},
                body=response.content,
                latency_s=time.monotonic() - started,
            ),
        )

    async def aclose(self) -> None:
        await self.client.aclose()

    def _timeouts(self, call: Call) -> dict[str, float | None]:
        wishes = {name: call.timeouts.get(name) or self._timeout_s for name in ("connect", "read", "write", "pool")}
        most = {"connect": min(self._timeout_s, _CONNECT_S)}
        return {name: min(wish, most.get(name, self._timeout_s)) for name, wish in wishes.items()}


class Finish:
    """Reads on when the caller is gone: what is on the wire is paid for, and can still be recorded."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner

    async def __call__(self, call: Call, /) -> Reply:
        return await to_the_end(self._inner(call))
