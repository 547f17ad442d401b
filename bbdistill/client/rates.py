"""The rate limits of one lane: those the user stated and those the server tells, as buckets, and what is out on them.

What a call takes is taken before it is sent. Input and output tokens are settled by what was really used, as Anthropic
counts them; a limit on both together stays charged as reserved, as OpenAI charges it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from bbdistill.client.buckets import Amounts, Bucket, Heard
from bbdistill.client.headers import KINDS, Kind, told

_SETTLED: tuple[Kind, ...] = ("input-tokens", "output-tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Leave to send one attempt."""

    amounts: Amounts
    sent_at: float
    """On the loop's clock."""
    taken: Amounts
    """Sums taken from each kind of limit so far, this attempt's own included."""
    out: Amounts
    """Of those, what other attempts had taken that were not back yet when this one was sent."""


class Rates:
    """Bookkeeping without any waiting; `now` is the loop's clock."""

    def __init__(self, per_minute: Mapping[Kind, int], now: float) -> None:
        self._stated: dict[Kind, Bucket] = {kind: Bucket(limit, now) for kind, limit in per_minute.items()}
        self._learned: dict[Kind, Bucket] = {}
        self._taken = defaultdict[Kind, float](float)
        self._out = defaultdict[Kind, float](float)

    def wait_s(self, amounts: Amounts, now: float) -> float:
        """Seconds until every limit has room for `amounts`; 0 or less = now."""
        return max((bucket.wait_s(amounts[kind], now) for kind, bucket in self._buckets()), default=0.0)

    def take(self, amounts: Amounts, now: float) -> Ticket:
        for kind, bucket in self._buckets():
            bucket.take(amounts[kind], now)
        out = dict(self._out)
        for kind in KINDS:
            self._taken[kind] += amounts[kind]
            self._out[kind] += amounts[kind]
        return Ticket(amounts=amounts, sent_at=now, taken=dict(self._taken), out=out)

    def close(self, ticket: Ticket, used: Amounts | None) -> None:
        """The attempt is over. What it used less than it took is given back; None = not known, and nothing is."""
        for kind in KINDS:
            self._out[kind] -= ticket.amounts[kind]
        if used is None:
            return
        for kind, bucket in self._buckets():
            if kind in _SETTLED:
                bucket.give_back(ticket.amounts[kind] - used[kind])
        for kind in _SETTLED:
            self._taken[kind] -= ticket.amounts[kind] - used[kind]

    def learn(self, ticket: Ticket, headers: Mapping[str, str], now: float, *, throttled: bool) -> None:
        """Takes the server's word for what remains; its limits are known from the first reply that tells them."""
        for kind, limit in told(headers, datetime.now(UTC)).items():
            known = kind in self._learned
            bucket = self._learned.setdefault(kind, Bucket(limit.limit, now))
            heard = Heard(
                told=limit,
                now=now,
                elapsed_s=now - ticket.sent_at,
                unseen=self._taken[kind] - ticket.taken[kind],
                maybe_unseen=ticket.out.get(kind, 0.0),
                level_is_known=known and not throttled,
            )
            bucket.learn(heard)

    def _buckets(self) -> Iterator[tuple[Kind, Bucket]]:
        yield from self._stated.items()
        yield from self._learned.items()
