"""Reads a raw reply into what the verbs and the ledger use: text, usage, price."""

from bbdistill.client import wire
from bbdistill.client.call import Reading
from bbdistill.client.prices import saving
from bbdistill.client.records import PROCESSING
from bbdistill.config.models import TeacherConfig
from bbdistill.teacher.base import RawReply
from bbdistill.types import TeacherReply


def read_reply(raw: RawReply, config: TeacherConfig) -> TeacherReply:
    """The reply and its price, as the client noted it in the response headers."""
    reading = wire.read(raw.path, raw.body, raw.headers.get("content-type", "application/json"))
    stops = {"ok": "stop", "length": "length", "refusal": "refusal"}
    return TeacherReply(
        text=reading.text,
        stop=stops[reading.kind],  # pyright: ignore[reportArgumentType]
        usage=reading.usage,
        cost_usd=_dollars(raw, "x-bbdistill-cost-usd"),
        recorded_cost_usd=_dollars(raw, "x-bbdistill-recorded-cost-usd"),
        saved_usd=_saved(reading, raw, config),
        cached=raw.headers.get("x-bbdistill-cached") == "1",
    )


def _saved(reading: Reading, raw: RawReply, config: TeacherConfig) -> float | None:
    """What the provider's prompt cache saved, from the usage: so a replay knows it too."""
    provider, _, asked = config.model.partition(":")
    terms = dict(reading.terms)
    if PROCESSING in raw.headers:
        terms["processing"] = raw.headers[PROCESSING]
    names = dict.fromkeys(name for name in (reading.model, asked) if name)
    found = (saving(name, config.base_url or provider, reading.usage, config.prices, terms) for name in names)
    return next((dollars for dollars in found if dollars is not None), None)


def _dollars(raw: RawReply, header: str) -> float | None:
    value = raw.headers.get(header)
    return None if value is None else float(value)
