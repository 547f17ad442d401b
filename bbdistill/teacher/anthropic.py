"""Anthropic Messages."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import anthropic
import httpx2

from bbdistill.client.values import as_object
from bbdistill.teacher.base import (
    BatchReply,
    BatchRequest,
    BatchStatus,
    JsonSchema,
    RawReply,
    SchemaForm,
    Sighting,
    json_lines,
    to_bytes,
)
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
        temperature: float | None,
    ) -> None:
        self._model = model
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
        self.batches = AnthropicBatches(self._sdk)

    async def send(
        self, messages: Sequence[Message], options: Mapping[str, Any], headers: Mapping[str, str], max_tokens: int
    ) -> RawReply:
        systems = [str(message["content"]) for message in messages if message["role"] == "system"]
        turns = [message for message in messages if message["role"] != "system"]
        system = {"system": _marked("\n\n".join(systems))} if systems else {}
        create = cast(Any, self._sdk.messages.with_raw_response.create)
        reply = await create(
            model=self._model,
            max_tokens=max_tokens,
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


class AnthropicBatches:
    """Batches of messages. They carry no mark of ours but the `custom_id` of each request, told only in the results."""

    max_requests: int = 100_000
    max_bytes: int = 256_000_000

    def __init__(self, sdk: anthropic.AsyncAnthropic) -> None:
        self._sdk = sdk

    async def stage(self, batch_id: str, requests: Sequence[BatchRequest]) -> Sequence[BatchRequest]:
        return requests

    async def submit(self, batch_id: str, run: str, staged: Sequence[BatchRequest]) -> str:
        requests = [{"custom_id": request.custom_id, "params": request.body} for request in staged]
        return (await self._sdk.messages.batches.create(requests=cast(Any, requests))).id

    async def find(self, batch_id: str, size: int, *, since: datetime, known: Collection[str]) -> Sighting:
        """Uncertain as long as a batch of the same size is in progress: what it holds is told at its end."""
        certain = True
        async for batch in self._sdk.messages.batches.list(limit=100):  # the newest first
            if batch.created_at < since:
                break
            counts = batch.request_counts
            told = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if batch.id in known or told != size:
                continue
            if batch.processing_status != "ended":
                certain = False
            elif any(reply.custom_id.startswith(f"{batch_id}-") for reply in await self.replies(batch.id)):
                return Sighting(remote_id=batch.id, certain=True)
        return Sighting(remote_id=None, certain=certain)

    async def status(self, remote_id: str) -> BatchStatus:
        batch = await self._sdk.messages.batches.retrieve(remote_id)
        counts = batch.request_counts
        done = counts.succeeded + counts.errored + counts.canceled + counts.expired
        return BatchStatus(ended=batch.processing_status == "ended", done=done)

    async def replies(self, remote_id: str) -> list[BatchReply]:
        # By path and not by the address in the batch: the key goes to the provider's own host alone.
        response = await self._sdk.get(f"/v1/messages/batches/{remote_id}/results", cast_to=httpx2.Response)
        return [_batch_reply(line) for line in json_lines(response.content)]


def _batch_reply(line: Mapping[str, Any]) -> BatchReply:
    result = as_object(line.get("result"))
    if result.get("type") == "succeeded":
        return BatchReply(custom_id=str(line.get("custom_id")), status=200, body=to_bytes(result.get("message")))
    # Neither errors nor what expired or was cancelled are billed. An invalid request would be so again.
    error = as_object(as_object(result.get("error")).get("error")) or {"type": result.get("type")}
    return BatchReply(
        custom_id=str(line.get("custom_id")),
        status=400 if error.get("type") == "invalid_request_error" else 503,
        body=to_bytes({"type": "error", "error": error}),
    )
