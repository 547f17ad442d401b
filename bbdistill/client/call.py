"""What travels through the stack: a `Call` down, a `Reply` up, a `Fault` where there is no usable reply."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol
from urllib.parse import urlsplit

from bbdistill.types import Usage

Mode = Literal["auto", "record", "replay", "off"]
Repeat = Literal["same", "sequence"]
"""What an identical request gets: the same reply, or in its turn the next of the recorded ones."""
Kind = Literal["ok", "refusal", "length"]

_MAY_HAVE_RUN = {408, 499, 502, 504, 524}
"""Answered by something in between: whether the model ran, and is billed, is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to an API, without anything that belongs to a particular HTTP library."""

    method: str
    url: str
    headers: Mapping[str, str]
    """Lower-case names; whatever was meant for this client is already taken out."""
    body: bytes
    sample: int = 0
    """Tells n samples of one request apart; part of the key."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """`purpose`, `prompt_id`, `template`: kept beside the reply, never sent."""
    timeouts: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Seconds for `connect`, `read`, `write`, `pool`, as the SDK asked; None or absent = no wish."""
    attempt: int = 1
    """Which try this is."""
    key: str = ""
    """Of the request in the record, once it has been looked for there."""

    @property
    def path(self) -> str:
        return urlsplit(self.url).path


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a well-formed reply says, the same for every endpoint."""

    kind: Kind
    text: str
    """The answer alone; of several choices, the first."""
    usage: Usage
    model: str | None
    metered: bool
    """False where the reply told no usage: its cost is then unknown, not 0."""
    terms: Mapping[str, str] = field(default_factory=dict[str, str])
    """What else decides the price, such as `service_tier`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A complete reply; the body is decoded of any transfer or content encoding."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    latency_s: float = 0.0
    """From sending to the last byte, of this attempt alone."""
    reading: Reading | None = None
    cached: bool = False
    cost_usd: float | None = None
    """What it cost now: 0 when it comes from the record; None = unknown."""
    recorded_cost_usd: float | None = None
    """What it cost when it was bought."""
    unknown_usd: float | None = None
    """Where that is unknown, what it is taken to have cost: the worst case, if that has a bound."""


class Handler(Protocol):
    """One layer of the stack. Raises `Fault` where there is no usable reply."""

    async def __call__(self, call: Call, /) -> Reply: ...


class Fault(Exception):
    """No usable reply: an HTTP error, a lost connection, or a reply that is not what the endpoint promises."""

    def __init__(
        self,
        reason: str,
        *,
        reply: Reply | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        unreachable: bool = False,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.unreachable = unreachable
        """No connection was made: nothing was sent."""
        self.latency_s = latency_s
        self.unknown_usd: float | None = None
        """What it is taken to have cost where nobody knows: the worst case; None where it is free or has no bound."""

    @property
    def status(self) -> int | None:
        return None if self.reply is None else self.reply.status

    @property
    def free(self) -> bool:
        """Whether it is certain that nothing is billed."""
        status = self.status
        return self.unreachable or (status is not None and status >= 300 and status not in _MAY_HAVE_RUN)


class Malformed(Fault):
    """A reply with a good status that is not what the endpoint promises."""


class WebPage(Malformed):
    """A page for people where an API should be: most likely the address is wrong, and will be so the next time."""
