"""Which failures are about one request (an abstention) and which about the teacher as a whole (an error that stops)."""

from typing import Any
from urllib.parse import urljoin, urlsplit

import anthropic
import httpx2
import openai

from bbdistill.client.call import Call, Fault, Reply, WebPage
from bbdistill.client.edge import unwrap
from bbdistill.client.faults import STRUCTURED_OUTPUT, examine
from bbdistill.client.secrets import redact_line
from bbdistill.config.models import TeacherConfig
from bbdistill.errors import BBDistillError, TeacherError

_StatusError = (openai.APIStatusError, anthropic.APIStatusError)
_LOST = (openai.APIConnectionError, anthropic.APIConnectionError, httpx2.TransportError, TimeoutError)
_ABOUT_THE_REQUEST = {400, 413, 422}
_ENDPOINTS = {"openai": "/chat/completions", "anthropic": "/v1/messages"}
"""What the SDKs put behind `base_url`."""
_HINTS = {
    401: "the key is wrong or missing; check `api_key_env`",
    402: "the account has no credit left",
    403: "this key may not use this model",
    404: "there is no such model or address; check `model` and `base_url`",
    429: "the account's quota or rate limit is used up; go on later",
}


def outcome_of(fault: Exception, config: TeacherConfig) -> str:
    """The reason for an abstention, where `fault` is about one request; otherwise raises what stops the run."""
    cause = unwrap(fault) or as_fault(fault)
    if isinstance(cause, BBDistillError):
        raise cause from fault
    where = config.base_url or "the provider's address"
    if isinstance(cause, WebPage):
        raise TeacherError(
            f"teacher `{config.model}` at {where} is no API: {cause.reason}; check `base_url` (is a `/v1` missing?)"
        ) from fault
    if isinstance(fault, _StatusError):
        status = fault.status_code
        if 300 <= status < 400:
            said = _redirect(fault.response, config)
            raise TeacherError(f"teacher `{config.model}` at {where} answered HTTP {status}: {said}") from fault
        if status in _ABOUT_THE_REQUEST or status >= 500:
            return cause.reason if isinstance(cause, Fault) else f"HTTP {status}"
        hint = _HINTS.get(status, "see the provider's documentation")
        raise TeacherError(f"teacher `{config.model}` answered HTTP {status}: {hint}") from fault
    if isinstance(cause, Fault):
        if cause.unreachable:
            raise TeacherError(f"teacher `{config.model}` cannot be reached at {where}: {cause.reason}") from fault
        return cause.reason
    raise fault


def _redirect(response: Any, config: TeacherConfig) -> str:
    """Where a redirect leads, without credentials, and the address to set instead."""
    target = urlsplit(urljoin(str(response.request.url), response.headers.get("location", "")))
    address = redact_line(f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}")
    endpoint = _ENDPOINTS[config.model.partition(":")[0]]
    base = address.removesuffix(endpoint)
    return f"it redirects to `{address}`; " + ("check `base_url`" if base == address else f"set `base_url` to `{base}`")


def as_fault(error: Exception) -> Fault | None:
    """What was raised by a call that is not recorded, by the rules for those that are; None if it was no such failure.

    Beside the SDKs' own exceptions these are httpx2's, of a body that broke off, and a time-out of ours.
    """
    if isinstance(error, _StatusError):
        sent = error.request
        call = Call(method=sent.method, url=str(sent.url), headers=dict(sent.headers), body=b"")
        content = error.response.content
        try:
            examine(call, Reply(status=error.status_code, headers=dict(error.response.headers), body=content))
        except Fault as fault:
            return fault
    if isinstance(error, _LOST):
        cause = error.__cause__ or error
        unreachable = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
        return Fault(f"{type(cause).__name__}: {cause}".rstrip(": "), retryable=True, unreachable=unreachable)
    return None


def refuses_schema(fault: Exception) -> bool:
    """Whether a server answered that it does not know this form of structured output (some say so with a 500)."""
    if not isinstance(fault, _StatusError) or fault.status_code in (401, 403, 404, 429):
        return False
    said = fault.response.text.lower()
    return any(word in said for word in STRUCTURED_OUTPUT)
