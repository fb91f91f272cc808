"""Messages: every text of the pages, in each language.

Rule: one catalogue per language, with the same keys (a test holds them together); a template names a key and never has
a text of its own. English is the source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

LANGUAGES = {"en": "English", "ko": "한국어"}
DEFAULT = "en"


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """All messages of a language, by `area.name`."""
    text = (resources.files(__package__) / "messages" / f"{language}.toml").read_text("utf-8")
    return {f"{area}.{name}": words for area, table in tomllib.loads(text).items() for name, words in table.items()}


def translator(language: str) -> Callable[..., str]:
    """A function from a key, and what its {places} stand for, to a text. Raises: KeyError for an unknown key."""
    messages = catalogue(language)

    def translate(key: str, **places: Any) -> str:
        return messages[key].format(**places) if places else messages[key]

    return translate


def preferred(accepted: str, chosen: str = "") -> str:
    """The language to answer in.

    Args:
        accepted: Accept-Language. Source: RFC 9110 section 12.5.4.
        chosen: what the visitor chose before; "" nothing.
    """
    if chosen in LANGUAGES:
        return chosen
    wishes: list[tuple[float, int, str]] = []
    for position, wish in enumerate(accepted.split(",")[:20]):
        tag, _, weight = wish.partition(";")
        language = tag.strip().lower().partition("-")[0]
        if language in LANGUAGES and (quality := _quality(weight)) > 0:
            wishes.append((-quality, position, language))
    return min(wishes)[2] if wishes else DEFAULT


def _quality(weight: str) -> float:
    name, _, value = weight.strip().partition("=")
    if not name:
        return 1.0
    try:
        return min(1.0, float(value)) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0
