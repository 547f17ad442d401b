"""OpenAI Chat Completions, and every server that speaks it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast

import httpx2
import openai

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

PATH = "/chat/completions"
KEY_ENV = "OPENAI_API_KEY"


def json_schema(schema: JsonSchema) -> dict[str, Any]:
    """Structured output as OpenAI has it."""
    wanted = {"name": schema.name, "schema": schema.schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def json_object(schema: JsonSchema) -> dict[str, Any]:
    """Structured output as some local servers have it."""
    return {"response_format": {"type": "json_object", "schema": schema.schema}}


class OpenAIChat:
    """Sends one conversation. The SDK's own retries are off: the client stack below it owns them."""

    schema_forms: Sequence[SchemaForm] = (json_schema, json_object)

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
        self._sdk = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=0, http_client=http_client)
        self.batches = OpenAIBatches(self._sdk)
        # Compatible servers know only the older name; the official one refuses it for reasoning models.
        self._official = self._sdk.base_url.host == "api.openai.com"
        self._limit = "max_completion_tokens" if self._official else "max_tokens"
        self._options: dict[str, Any] = {} if temperature is None else {"temperature": temperature}

    async def send(
        self, messages: Sequence[Message], options: Mapping[str, Any], headers: Mapping[str, str], max_tokens: int
    ) -> RawReply:
        create = cast(Any, self._sdk.chat.completions.with_raw_response.create)
        # Requests that begin alike go where that beginning is cached. Other servers may refuse the field.
        template = headers.get("x-bbdistill-template") if self._official else None
        cache = {"prompt_cache_key": template} if template else {}
        reply = await create(
            model=self._model,
            messages=list(messages),
            extra_headers=dict(headers),
            **{self._limit: max_tokens, **self._options, **cache, **options},
        )
        return RawReply(path=PATH, headers=reply.headers, body=reply.content)

    async def close(self) -> None:
        await self._sdk.close()


class OpenAIBatches:
    """Batches of chat completions: a file of requests goes up, a file of replies and one of errors come down."""

    max_requests: int = 50_000
    max_bytes: int = 200_000_000
    _endpoint: Literal["/v1/chat/completions"] = "/v1/chat/completions"
    _mark = "bbdistill_batch"

    def __init__(self, sdk: openai.AsyncOpenAI) -> None:
        self._sdk = sdk

    async def stage(self, batch_id: str, requests: Sequence[BatchRequest]) -> str:
        """The id of the uploaded file. A file without a batch costs nothing."""
        lines = (
            {"custom_id": request.custom_id, "method": "POST", "url": self._endpoint, "body": request.body}
            for request in requests
        )
        content = b"".join(to_bytes(line) + b"\n" for line in lines)
        return (await self._sdk.files.create(file=(f"{batch_id}.jsonl", content), purpose="batch")).id

    async def submit(self, batch_id: str, run: str, staged: str) -> str:
        made = await self._sdk.batches.create(
            input_file_id=staged,
            endpoint=self._endpoint,
            completion_window="24h",
            metadata={self._mark: batch_id, "bbdistill_run": run},
        )
        return made.id

    async def find(self, batch_id: str, size: int, *, since: datetime, known: Collection[str]) -> Sighting:
        async for batch in self._sdk.batches.list(limit=100):  # the newest first
            if batch.created_at < since.timestamp():
                break
            if (batch.metadata or {}).get(self._mark) == batch_id:
                return Sighting(remote_id=batch.id, certain=True)
        return Sighting(remote_id=None, certain=True)

    async def status(self, remote_id: str) -> BatchStatus:
        batch = await self._sdk.batches.retrieve(remote_id)
        counts = batch.request_counts
        told = [error.message or error.code or "" for error in (batch.errors and batch.errors.data) or []]
        return BatchStatus(
            ended=batch.status in ("completed", "expired", "cancelled"),
            done=counts.completed + counts.failed if counts else 0,
            failure="; ".join(told[:3]) or "no reason given" if batch.status == "failed" else None,
        )

    async def replies(self, remote_id: str) -> list[BatchReply]:
        batch = await self._sdk.batches.retrieve(remote_id)
        files = [name for name in (batch.output_file_id, batch.error_file_id) if name]
        contents = [(await self._sdk.files.content(name)).content for name in files]
        return [_batch_reply(line) for content in contents for line in json_lines(content)]


def _batch_reply(line: Mapping[str, Any]) -> BatchReply:
    response = as_object(line.get("response"))
    body = response.get("body") or {"error": line.get("error")}
    return BatchReply(
        custom_id=str(line.get("custom_id")),
        # What was never asked (expired, cancelled) has no response; it may be asked again.
        status=int(response.get("status_code") or 503),
        body=to_bytes(body),
        request_id=str(response.get("request_id") or ""),
    )
