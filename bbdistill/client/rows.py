"""Rows of the store as the rest of the package sees them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

from bbdistill.errors import StoreError
from bbdistill.types import Prompt, Rollout, StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """One version of one recorded call. JSON columns are text; the store gives `id`, `version` and `created_at`."""

    id: int = 0
    key: str
    version: int = 0
    sample: int
    teacher: str
    path: str
    request: str
    """Canonical request, JSON: what the key is made of."""
    status: int | None
    content_type: str | None
    headers: str
    """Reply headers worth keeping, JSON."""
    reply: str | None
    kind: Literal["ok", "refusal", "length", "fault"]
    fault: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cost_usd: float | None
    purpose: str | None
    prompt_id: str | None
    template: str | None
    latency_s: float | None
    created_at: str = ""
    """UTC, ISO 8601."""

    def brief(self) -> dict[str, Any]:
        """For a listing; what is not known is an empty text."""
        names = ("id", "kind", "purpose", "prompt_id", "sample", "model", "cost_usd", "created_at", "key")
        row = asdict(self)
        return {name: "" if row[name] is None else row[name] for name in names}

    def full(self) -> dict[str, Any]:
        """Every column, JSON texts as the values they hold. StoreError where they hold none."""
        try:
            request, headers = json.loads(self.request), json.loads(self.headers)
        except ValueError:
            raise StoreError(f"call {self.id} is damaged: it is not JSON; see `bbdistill cache verify`") from None
        return asdict(self) | {"request": request, "headers": headers, "reply": self._reply()}

    def _reply(self) -> Any:
        try:
            return json.loads(self.reply or "null")
        except ValueError:
            return self.reply


CALL_COLUMNS = tuple(column.name for column in fields(CallRow))


class AnswerRow(NamedTuple):
    """What is needed to answer with a recorded call; columns as in `CallRow`. A tuple, which is quick to make."""

    id: int
    status: int | None
    content_type: str | None
    headers: str
    reply: str | None
    kind: Literal["ok", "refusal", "length", "fault"]
    fault: str | None
    cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run and how many calls it used."""

    id: str
    started_at: str
    config: Mapping[str, Any]
    finished_at: str | None
    note: str | None
    calls: int

    def brief(self) -> dict[str, Any]:
        """For a listing."""
        return {"id": self.id, "started_at": self.started_at, "finished_at": self.finished_at, "calls": self.calls}


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """A rollout without its prompt, which is in the data and not in the store."""

    prompt_id: str
    sample: int
    completion: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_version: int
    stop_reason: StopReason

    def rollout(self, prompt: Prompt) -> Rollout:
        """The rollout it was before it was stored."""
        assert prompt.id == self.prompt_id, f"{prompt.id=} {self.prompt_id=}"
        return Rollout(
            prompt=prompt,
            sample=self.sample,
            completion=self.completion,
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            policy_version=self.policy_version,
            stop_reason=self.stop_reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """Sums over the calls of one purpose in one run; dollars are over what has a price."""

    purpose: str
    calls: int
    cached: int
    input_tokens: int
    output_tokens: int
    usd: float
    """Paid by this run, attempts of unknown cost at their worst case."""
    recorded_usd: float
    """Paid for the replies by whichever run bought them."""
    unpriced: int
    """Calls paid by this run of which not even the worst case is known."""
    uncertain_usd: float
    """Of `usd`, the worst case of attempts that nobody knows the cost of."""
