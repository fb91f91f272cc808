"""Model capabilities: what a model accepts, where a translated call would else be refused by the upstream.

Rule: the native route never asks here. The table is capabilities.toml beside this file, with its sources.

Theory: a model that has no row is new (or another vendor's name for one), so it is given what the newest models take.
Older rules would send it parameters that it refuses; the newest rules at worst leave one out, and say so. Where the
newest models take something more, what all models take is sent.
"""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from relayd.noun import noun


@noun(kw_only=True)
class Capabilities:
    """What one model accepts. The fields are explained at the head of capabilities.toml."""

    max_output: int  # tokens
    sampling: Literal["yes", "one", "no"]
    forced_tools: bool
    structured: bool
    thinking: Literal["none", "budget", "adaptive", "always"]
    effort: tuple[str, ...]
    prefill: bool
    system_turns: bool
    known: bool = True  # False: the model has no row, and the newest one's stands in


# "anthropic/claude-...", "us.anthropic.claude-...-v1:0", "claude-...@20250929", "-20250929", "-latest", "[1m]"
_PREFIX = re.compile(r"^.*[/.](?=claude-)")
_SUFFIX = re.compile(r"(?:-v\d+(?::\d+)?|\[\w+\]|[-@](?:\d{8}|latest|default))$")


def _load() -> dict[str, Capabilities]:
    table = tomllib.loads(Path(__file__).with_name("capabilities.toml").read_text(encoding="utf-8"))
    rows: dict[str, dict[str, Any]] = {"newest": table["newest"]}
    for name, row in table["models"].items():
        own = {key: value for key, value in row.items() if key != "like"}
        rows[name] = {**(rows[row["like"]] if "like" in row else {}), **own}
    rows["newest"] = {**rows["newest"], "known": False, "system_turns": False}
    return {name: Capabilities(**{**row, "effort": tuple(row["effort"])}) for name, row in rows.items()}


_ROWS = _load()


@functools.lru_cache(maxsize=1024)
def capabilities(model: str) -> Capabilities:
    """What `model` accepts, by its id with or without a date, a vendor prefix or a version suffix."""
    stem = _PREFIX.sub("", model.lower())
    while stem not in _ROWS:
        shorter = _SUFFIX.sub("", stem)
        if shorter == stem:
            return _ROWS["newest"]
        stem = shorter
    return _ROWS[stem]
