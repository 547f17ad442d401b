"""Dollars of a call, from genai-prices or from the user. An unknown price is None, never 0."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from bbdistill.types import Usage

Override: TypeAlias = tuple[float, float] | tuple[float, float, float]
"""Dollars per million tokens: input, output, and cached input where it is cheaper."""


def price(
    model: str, provider: str, usage: Usage, override: Override | None = None, terms: Mapping[str, str] | None = None
) -> float | None:
    """Dollars for `usage`; `provider` is an id such as `openai` or the URL called; None if the price is not known.

    `terms` are what the table knows beside tokens: `service_tier`, `speed`, `processing`.
    """
    if override is not None:
        cached_price = override[2] if len(override) == 3 else override[0]
        fresh = usage.input_tokens - usage.cached_tokens
        return (fresh * override[0] + usage.output_tokens * override[1] + usage.cached_tokens * cached_price) / 1e6
    return _listed(model, provider, usage, terms)


def saving(
    model: str, provider: str, usage: Usage, override: Override | None = None, terms: Mapping[str, str] | None = None
) -> float | None:
    """Dollars that the provider's prompt cache saved: `usage` without it, less `usage` with it.

    Below 0 where more was paid for writing to the cache than reading from it saved; None if the price is not known.
    """
    if not usage.cached_tokens and not usage.cache_write_tokens:
        return 0.0
    plain = replace(usage, cached_tokens=0, cache_write_tokens=0, cache_write_1h_tokens=0)
    without, paid = (price(model, provider, used, override, terms) for used in (plain, usage))
    return None if without is None or paid is None else without - paid


def _listed(model: str, provider: str, usage: Usage, terms: Mapping[str, str] | None) -> float | None:
    import genai_prices  # loads its whole table: 0.3 s that only those who pay should wait for

    try:
        counts = genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
        )
        if "://" in provider:
            found = genai_prices.calc_price(counts, model, provider_api_url=provider, price_context=terms)
        else:
            found = genai_prices.calc_price(counts, model, provider_id=provider, price_context=terms)
    except (LookupError, ValueError):
        return None
    return float(found.total_price)
