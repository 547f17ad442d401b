"""What every provider gives the verbs: send a conversation, get the raw reply back. No torch, no retries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bbdistill.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """A frozen schema of ours. Sent as it stands, so that request keys survive SDK upgrades."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawReply:
    """Bytes of a reply the client stack has already found well-formed."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Provider(Protocol):
    async def send(
        self, messages: Sequence[Message], schema: JsonSchema | None, headers: Mapping[str, str]
    ) -> RawReply:
        """One call. `headers` carry what the store notes beside it. Raises the SDK's exceptions."""
        ...

    async def close(self) -> None: ...
