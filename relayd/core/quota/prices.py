"""Prices: what a Usage costs, exactly.

Rule: integers from the first to the last step; one rounding, half up, to a whole micro-USD at the very end. An unknown
model has no cost: it is never priced as another. A refusal that is not billed costs nothing.

Theory: a price in USD per million tokens is micro-USD per token, so with prices kept in micro-USD per million tokens a
cost is `tokens * price / 1,000,000` micro-USD. Percentages (batch, region, speed) multiply numerator and denominator.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from relayd.config.model.values import money
from relayd.config.snapshot import LongContext, Price
from relayd.wire.usage import Usage

_DATED = re.compile(r"-\d{8}\Z")  # claude-opus-4-5-20251101 is a dated claude-opus-4-5 (API docs, "Model versions")
_MONEY = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read", "web_search")


@cache
def shipped() -> Mapping[str, Price]:
    """The price table that comes with relayd, by model, read when first asked for."""
    return {model: _price(table) for model, table in _document()["models"].items()}


@cache
def dated() -> frozenset[str]:
    """Dated ids of shipped models that the API lists. They have the price of their base id."""
    return frozenset(_document()["dated"])


@cache
def retired() -> frozenset[str]:
    """Shipped models that the API has retired."""
    return frozenset(_document()["retired"])


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("prices.toml").read_text(encoding="utf-8"))


def _price(table: dict[str, Any]) -> Price:
    values = _amounts(table)
    if "long_context" in values:
        values["long_context"] = LongContext(**_amounts(values["long_context"]))
    return Price(**values)


def _amounts(table: dict[str, Any]) -> dict[str, Any]:
    return {name: money(value) if name in _MONEY else value for name, value in table.items()}


@lru_cache(maxsize=1024)
def undated(model: str) -> str:
    """The base id of a dated one; others are their own."""
    return _DATED.sub("", model)


def price_of(model: str, overrides: Mapping[str, Price]) -> Price | None:
    """The price of a model, the operator's before the shipped one; a dated id has the price of its base id.

    Args:
        overrides: `Snapshot.prices`.
    """
    base = undated(model)
    for table in (overrides, shipped()):
        found = table.get(model) or table.get(base)
        if found is not None:
            return found
    return None


def served_model(sent: str, answered: str, overrides: Mapping[str, Price]) -> str:
    """The model whose price and line in the books a call has.

    It is the one that the answer says it is from, where that has a price and is not the sent one under its dated name:
    a fallback may have answered in its place.
    """
    another = answered != sent and undated(answered) != undated(sent)
    return answered if another and price_of(answered, overrides) is not None else sent


def cost(usage: Usage, model: str, overrides: Mapping[str, Price]) -> int | None:
    """What a call cost, in micro-USD; None where nothing of it has a price.

    Batches, inference kept in the US, fast mode and a prompt above the long-context bound change the price of all
    tokens; web searches cost the same everywhere, web fetches nothing. Source: API docs, "Pricing". Each inference of
    another model is priced as that model's, and each is long or short by its own prompt.

    Args:
        model: of what is in no part, and of the parts that name none: `served_model`.
    """
    if not usage.parts:
        price = price_of(model, overrides)
        return None if price is None else cost_at(usage, price)
    known = [(one, price) for one, price in _priced(usage, model, overrides) if price is not None]
    return _rounded(sum(_numerator(one, price) for one, price in known)) if known else None


def has_unpriced_part(usage: Usage, model: str, overrides: Mapping[str, Price]) -> bool:
    """Whether a model without a price was at work too: what it consumed is counted, and is not in the cost."""
    if not usage.parts:
        return (usage.total > 0 or usage.web_searches > 0) and price_of(model, overrides) is None
    return any(price is None and (one.total or one.web_searches) for one, price in _priced(usage, model, overrides))


def _priced(usage: Usage, model: str, overrides: Mapping[str, Price]) -> list[tuple[Usage, Price | None]]:
    parts = [(part.usage, price_of(part.model or model, overrides)) for part in usage.parts]
    return [(usage.rest, price_of(model, overrides)), *parts]


def cost_at(usage: Usage, price: Price) -> int:
    """What one inference cost at that price, in micro-USD."""
    return _rounded(_numerator(usage, price))


_DENOMINATOR = 1_000_000 * 100**3


def _rounded(numerator: int) -> int:
    return (2 * numerator + _DENOMINATOR) // (2 * _DENOMINATOR)


def _numerator(usage: Usage, price: Price) -> int:
    """The cost, not yet divided by _DENOMINATOR."""
    long = price.long_context
    rates = long if long.above and usage.prompt > long.above else price
    tokens = (
        usage.input * rates.input
        + usage.output * rates.output
        + usage.cache_write_5m * rates.cache_write_5m
        + usage.cache_write_1h * rates.cache_write_1h
        + usage.cache_read * rates.cache_read
    )
    percent = 1
    for applies, share in (
        (usage.service_tier == "batch", price.batch_percent),
        (usage.inference_geo == "us", price.us_percent),
        (usage.speed == "fast", price.fast_percent),
    ):
        percent *= share if applies else 100
    # tokens / 1e6 * percent / 100^3 + searches * price / 1000, over one denominator
    return (0 if usage.free else tokens * percent) + usage.web_searches * price.web_search * 1_000_000_000
