"""OpenAI Chat Completions, and every server that speaks it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx2
import openai

from bbdistill.teacher.base import JsonSchema, RawReply, SchemaForm
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
        max_tokens: int,
        temperature: float | None,
    ) -> None:
        self._model = model
        self._sdk = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=0, http_client=http_client)
        # Compatible servers know only the older name; the official one refuses it for reasoning models.
        self._official = self._sdk.base_url.host == "api.openai.com"
        limit = "max_completion_tokens" if self._official else "max_tokens"
        self._options: dict[str, Any] = {limit: max_tokens}
        if temperature is not None:
            self._options["temperature"] = temperature

    async def send(
        self, messages: Sequence[Message], options: Mapping[str, Any], headers: Mapping[str, str]
    ) -> RawReply:
        create = cast(Any, self._sdk.chat.completions.with_raw_response.create)
        # Requests that begin alike go where that beginning is cached. Other servers may refuse the field.
        template = headers.get("x-bbdistill-template") if self._official else None
        cache = {"prompt_cache_key": template} if template else {}
        reply = await create(
            model=self._model,
            messages=list(messages),
            extra_headers=dict(headers),
            **self._options,
            **cache,
            **options,
        )
        return RawReply(path=PATH, headers=reply.headers, body=reply.content)

    async def close(self) -> None:
        await self._sdk.close()
