"""What servers say in reply headers about waiting and about their rate limits, in every spelling in use. Pure."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, get_args

Kind = Literal["requests", "tokens", "input-tokens", "output-tokens"]
"""What a limit counts, per minute unless the server's reset says otherwise."""

KINDS: tuple[Kind, ...] = get_args(Kind)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One limit as the server told it; `reset_s` are the seconds until it is whole again, None if untold."""

    limit: int
    remaining: int
    reset_s: float | None


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that the server asks to wait, from `now`; None if it does not ask."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    return _wait(headers.get("retry-after"), headers, now)


def told(headers: Mapping[str, str], now: datetime) -> dict[Kind, Told]:
    """The limits in the headers of OpenAI (and whoever copies them) or of Anthropic."""
    found: dict[Kind, Told] = {}
    for kind in KINDS:
        for pattern in ("x-ratelimit-{}-" + kind, f"anthropic-ratelimit-{kind}-" + "{}"):
            limit = _number(headers.get(pattern.format("limit")))
            remaining = _number(headers.get(pattern.format("remaining")))
            if limit is not None and remaining is not None and limit > 0:
                reset_s = _wait(headers.get(pattern.format("reset")), headers, now)
                found[kind] = Told(limit=int(limit), remaining=max(0, int(remaining)), reset_s=reset_s)
    # Anthropic repeats the tightest of its limits under `tokens`.
    if "input-tokens" in found or "output-tokens" in found:
        found.pop("tokens", None)
    return found


def _wait(text: str | None, headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds from a number, a duration such as `6m0s`, or a date (HTTP or RFC 3339)."""
    text = (text or "").strip()
    seconds = _number(text)
    if seconds is None:
        seconds = _duration(text)
    if seconds is None:
        due = _date(text)
        if due is None:
            return None
        # Counted on the server's clock, where it tells it: ours may be wrong.
        seconds = (due - (_date(headers.get("date")) or now)).total_seconds()
    return max(0.0, seconds)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _duration(text: str) -> float | None:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _date(text: str | None) -> datetime | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = read(text or "")
        except (ValueError, TypeError):
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None
