"""Structured output: asked for in the first form that a server takes, or in words alone."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bbdistill.client.edge import unwrap
from bbdistill.errors import ReplayMiss
from bbdistill.teacher.base import JsonSchema, Provider, RawReply, SchemaForm
from bbdistill.teacher.faults import refuses_schema
from bbdistill.types import Message


class Structured:
    """Remembers the form that the server of one teacher takes.

    It is found by the first call that wants one, while the others wait. In a replay another call may be the first: then
    the form is the one that it was recorded with.
    """

    def __init__(self) -> None:
        self._form: SchemaForm | None = None
        self._probing = asyncio.Lock()

    async def send(
        self,
        provider: Provider,
        messages: Sequence[Message],
        schema: JsonSchema | None,
        headers: Mapping[str, str],
        max_tokens: int,
        plain: Mapping[str, Any],
    ) -> RawReply:
        """One call; without a `schema` for plain text, with `plain` in the body. Raises the SDK's exceptions."""
        if schema is None:
            return await provider.send(messages, plain, headers, max_tokens)
        if self._form is None:
            async with self._probing:
                if self._form is None:
                    return await self._probe(provider, messages, schema, headers, max_tokens)
        return await provider.send(messages, self._form(schema), headers, max_tokens)

    async def _probe(
        self,
        provider: Provider,
        messages: Sequence[Message],
        schema: JsonSchema,
        headers: Mapping[str, str],
        max_tokens: int,
    ) -> RawReply:
        missed: Exception | None = None
        for form in provider.schema_forms:
            try:
                reply = await provider.send(messages, form(schema), headers, max_tokens)
            except Exception as fault:
                if isinstance(unwrap(fault), ReplayMiss):
                    missed = missed or fault
                elif not refuses_schema(fault):
                    raise
            else:
                self._form = form
                return reply
        self._form = _in_words
        try:
            return await provider.send(messages, {}, headers, max_tokens)
        except Exception:
            if missed is not None:  # not recorded in any form
                raise missed from None
            raise


def _in_words(_: JsonSchema) -> dict[str, Any]:
    return {}
