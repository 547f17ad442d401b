"""What every provider gives the verbs: send a conversation, get the raw reply back. No torch, no retries."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from bbdistill.client.call import Handler
from bbdistill.client.values import Json, as_object, parse
from bbdistill.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """A frozen schema of ours. Sent as it stands, so that request keys survive SDK upgrades."""

    name: str
    schema: Mapping[str, Any]


SchemaForm: TypeAlias = Callable[[JsonSchema], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawReply:
    """Bytes of a reply the client stack has already found well-formed."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """One request of a batch, and the body it would have by itself."""

    custom_id: str
    body: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    ended: bool
    done: int
    """Requests that came to an end, well or not."""
    failure: str | None = None
    """Why the provider refused the batch as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReply:
    """What one request of a batch was answered, as it would have been by itself."""

    custom_id: str
    status: int
    body: bytes
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A batch looked for at the provider. Without a `remote_id` it is not there, if that is `certain`."""

    remote_id: str | None
    certain: bool


class BatchApi(Protocol):
    """A provider's batches. Every method raises the SDK's exceptions."""

    max_requests: int
    max_bytes: int

    async def stage(self, batch_id: str, requests: Sequence[BatchRequest]) -> Any:
        """Whatever can be done before the request that counts; doing it twice costs nothing."""
        ...

    async def submit(self, batch_id: str, run: str, staged: Any) -> str:
        """The provider's own id of the batch."""
        ...

    async def find(self, batch_id: str, size: int, *, since: datetime, known: Collection[str]) -> Sighting:
        """Looks among the batches made after `since`, less the `known` ones, for the one submitted as `batch_id`."""
        ...

    async def status(self, remote_id: str) -> BatchStatus: ...

    async def replies(self, remote_id: str) -> list[BatchReply]:
        """Of an ended batch; requests may be missing, and what cannot be read is left out."""
        ...


class InProcess(Handler, Protocol):
    """A model in this process, which answers in the place of the network."""

    @property
    def id(self) -> str:
        """Names its very weights."""
        ...


class Provider(Protocol):
    schema_forms: Sequence[SchemaForm]
    """The ways to ask for structured output, the official one first. A server may know only a later one, or none."""

    @property
    def batches(self) -> BatchApi: ...

    async def send(
        self, messages: Sequence[Message], options: Mapping[str, Any], headers: Mapping[str, str], max_tokens: int
    ) -> RawReply:
        """One call of at most `max_tokens` in its reply.

        `options` go into the body as they are; `headers` carry what the store notes beside the reply.

        Raises the SDK's exceptions.
        """
        ...

    async def close(self) -> None: ...


def json_lines(content: bytes) -> Iterator[Json]:
    """The objects of a JSONL file."""
    return (as_object(parse(line)) for line in content.splitlines() if line.strip())


def to_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
