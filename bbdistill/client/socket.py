"""The bottom of the stack: one attempt over the network, through `httpx2`. Environment proxies are honoured."""

import time
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from bbdistill.client.call import Call, Fault, Handler, Reply
from bbdistill.client.faults import examine
from bbdistill.client.flights import to_the_end
from bbdistill.client.secrets import redact, secrets_of

_CONNECT_S = 15.0
_NOTHING_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_HOPELESS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
_ENCODING = {"content-encoding", "content-length", "transfer-encoding", "connection"}

_address = lru_cache(maxsize=256)(httpx2.URL)
"""A parsed address; there are few, and every call has one."""


class Socket:
    """Sends a call once and reads the reply to its end."""

    def __init__(self, *, concurrency: int, timeout_s: float) -> None:
        self._trusted = httpx2.create_ssl_context()  # once for all: it reads a file of certificates
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency)
        self.client = httpx2.AsyncClient(limits=limits, timeout=timeout_s, verify=self._trusted)
        """For traffic that is not recorded."""
        # Calls go to bare transports: a client above the SDK's own would do its work a second time. Each holds one
        # connection, the last one used first: a pool of many looks at all of them twice in every call.
        self._idle: dict[tuple[str, str], list[httpx2.AsyncHTTPTransport]] = {}
        self._timeout_s = timeout_s

    async def __call__(self, call: Call, /) -> Reply:
        request = httpx2.Request(
            call.method,
            _address(call.url),
            headers=dict(call.headers),
            content=call.body,
            extensions={"timeout": self._timeouts(call)},
        )
        idle = self._idle.setdefault(_origin(call.url), [])
        transport = idle.pop() if idle else self._transport(call.url)
        started = time.monotonic()
        try:
            response = await transport.handle_async_request(request)
            try:
                body = await response.aread()
            finally:
                await response.aclose()
        except httpx2.RequestError as error:
            raise Fault(
                redact(f"{type(error).__name__}: {error}".rstrip(": "), secrets_of(call)),
                retryable=not isinstance(error, _HOPELESS),
                unreachable=isinstance(error, _NOTHING_SENT),
                latency_s=time.monotonic() - started,
            ) from error
        finally:
            idle.append(transport)
        return examine(
            call,
            Reply(
                status=response.status_code,
                # The body is decoded, so what described its encoding is no longer true.
                headers={name: value for name, value in response.headers.items() if name not in _ENCODING},
                body=body,
                latency_s=time.monotonic() - started,
            ),
        )

    async def aclose(self) -> None:
        await self.client.aclose()
        for idle in self._idle.values():
            while idle:
                await idle.pop().aclose()

    def _transport(self, url: str) -> httpx2.AsyncHTTPTransport:
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx2.AsyncHTTPTransport(limits=limits, proxy=_proxy_for(urlsplit(url)), verify=self._trusted)

    def _timeouts(self, call: Call) -> dict[str, float | None]:
        wishes = {name: call.timeouts.get(name) or self._timeout_s for name in ("connect", "read", "write", "pool")}
        most = {"connect": min(self._timeout_s, _CONNECT_S)}
        return {name: min(wish, most.get(name, self._timeout_s)) for name, wish in wishes.items()}


class Finish:
    """Reads on when the caller is gone: what is on the wire is paid for, and can still be recorded."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner

    async def __call__(self, call: Call, /) -> Reply:
        with to_the_end():
            return await self._inner(call)


def _origin(url: str) -> tuple[str, str]:
    address = urlsplit(url)
    return address.scheme, address.netloc


def _proxy_for(address: SplitResult) -> str | None:
    """As the environment says: HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, unless NO_PROXY names the host."""
    proxies = getproxies()
    if not proxies or proxy_bypass(address.netloc.rpartition("@")[2]):
        return None
    proxy = proxies.get(address.scheme) or proxies.get("all")
    return proxy and (proxy if "://" in proxy else f"http://{proxy}")
