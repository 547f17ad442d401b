"""When an attempt may go out: a limit on the calls at once, rate limits, and one pause for all when the server says so.

Every attempt passes, first come first served. A waiting retry holds no place, since Retry sits above; when it comes
back it goes before the calls that were never tried. Each endpoint, key and model has a lane of its own, known in memory
only. Waiting is done on the event loop's clock.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from bbdistill.client.bounds import BYTES_PER_TOKEN, output_limit
from bbdistill.client.buckets import Amounts
from bbdistill.client.call import Call, Fault, Handler, Reply
from bbdistill.client.headers import Kind
from bbdistill.client.lane import Lane
from bbdistill.client.limits import Change
from bbdistill.client.secrets import secrets_of
from bbdistill.client.values import Json, as_object, parse


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitHistory:
    """How the limit on calls at once to one model came about, the last change being the limit now."""

    endpoint: str
    model: str
    changes: Sequence[Change]


class Gate:
    """Lets attempts through as fast as the server takes them.

    `ceiling` is the most calls at once; `per_minute` the limits the user knows of, beside those the server tells. A
    pause longer than `patience_s` is not waited out: calls then fail with the fault that asked for it.
    """

    def __init__(self, inner: Handler, *, ceiling: int, per_minute: Mapping[Kind, int], patience_s: float) -> None:
        self._inner = inner
        self._ceiling, self._per_minute, self._patience_s = ceiling, per_minute, patience_s
        self._lanes: dict[tuple[str, str, str], Lane] = {}

    async def __call__(self, call: Call, /) -> Reply:
        body = as_object(parse(call.body))
        lane = self._lane(call, str(body.get("model")))
        ticket = await lane.enter(_amounts(call, body), first_try=call.attempt == 1)
        outcome: Reply | Fault | None = None
        try:
            outcome = await self._inner(call)
            return outcome
        except Fault as fault:
            outcome = fault
            raise
        finally:
            lane.leave(ticket, outcome)

    @property
    def history(self) -> Sequence[LimitHistory]:
        return [
            LimitHistory(endpoint=endpoint, model=model, changes=tuple(lane.limit.history))
            for (endpoint, _, model), lane in self._lanes.items()
        ]

    def _lane(self, call: Call, model: str) -> Lane:
        address = urlsplit(call.url)
        endpoint = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
        name = (endpoint, _fingerprint(call), model)
        if name not in self._lanes:
            self._lanes[name] = Lane(ceiling=self._ceiling, per_minute=self._per_minute, patience_s=self._patience_s)
        return self._lanes[name]


def _fingerprint(call: Call) -> str:
    return hashlib.sha256("\n".join(sorted(secrets_of(call))).encode()).hexdigest()


def _amounts(call: Call, body: Json) -> Amounts:
    """What the attempt takes of each limit: its input by size, its output as long as allowed."""
    sent, made = max(1, len(call.body) // BYTES_PER_TOKEN), output_limit(body) or 0
    return {"requests": 1, "tokens": sent + made, "input-tokens": sent, "output-tokens": made}
