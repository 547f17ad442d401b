"""What every provider gives the verbs: send a conversation, get the raw reply back. No torch, no retries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

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


class Provider(Protocol):
    schema_forms: Sequence[SchemaForm]
    """The ways to ask for structured output, the official one first. A server may know only a later one, or none."""

    async def send(
        self, messages: Sequence[Message], options: Mapping[str, Any], headers: Mapping[str, str]
    ) -> RawReply:
        """One call. `options` go into the body as they are; `headers` carry what the store notes beside the reply.

        Raises the SDK's exceptions.
        """
        ...

    async def close(self) -> None: ...
