"""Anthropic Messages."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import anthropic
import httpx2

from bbdistill.teacher.base import JsonSchema, RawReply, SchemaForm
from bbdistill.types import Message

PATH = "/messages"
KEY_ENV = "ANTHROPIC_API_KEY"
_CACHEABLE_BYTES = 1024
"""The least that a model caches are 1024 tokens, and no token is shorter than a byte."""


def output_config(schema: JsonSchema) -> dict[str, Any]:
    """Structured output as Anthropic has it."""
    return {"output_config": {"format": {"type": "json_schema", "schema": schema.schema}}}


class AnthropicMessages:
    """Sends one conversation. The SDK's own retries and its telemetry are off."""

    schema_forms: Sequence[SchemaForm] = (output_config,)

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None,
        api_key: str,
        http_client: httpx2.AsyncClient,
        max_tokens: int,
        temperature: float | None,
    ) -> None:
        self._model, self._max_tokens = model, max_tokens
        # Gone from the SDK's signature, and refused by current models; older models and local servers still take it.
        self._extra_body = None if temperature is None else {"temperature": temperature}
        # An explicit key keeps the SDK from looking for credentials in profiles on disk.
        self._sdk = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            http_client=http_client,
            open_telemetry=False,
            timeout=600,
        )

    async def send(
        self, messages: Sequence[Message], options: Mapping[str, Any], headers: Mapping[str, str]
    ) -> RawReply:
        systems = [str(message["content"]) for message in messages if message["role"] == "system"]
        turns = [message for message in messages if message["role"] != "system"]
        system = {"system": _marked("\n\n".join(systems))} if systems else {}
        create = cast(Any, self._sdk.messages.with_raw_response.create)
        reply = await create(
            model=self._model,
            max_tokens=self._max_tokens,
            messages=turns,
            extra_headers=dict(headers),
            extra_body=self._extra_body,
            **system,
            **options,
        )
        return RawReply(path=PATH, headers=reply.headers, body=await reply.read())

    async def close(self) -> None:
        await self._sdk.close()


def _marked(system: str) -> str | list[dict[str, Any]]:
    """The instructions, which many requests share, marked for the prompt cache where they are long enough for it."""
    if len(system.encode()) < _CACHEABLE_BYTES:
        return system
    return [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
