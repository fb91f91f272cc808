"""API paths: the spellings that base URLs lead to, and what a path that is not known was probably meant to be.

Rule: a path is matched by its own bytes: nothing is decoded, and neither dots nor letters of another case are forgiven.
Only slashes that stand twice or at the end, and the beginnings that clients are told to use as base URLs or make up
themselves, are taken off. What remains is one path, and every permission is decided on that.

Theory: a client puts a path of its own behind the base URL that a person typed. Some paths bring their /v1 along, some
base URLs have it already, some neither; so it counts as said however often it was.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from urllib.parse import unquote

_SLASHES = re.compile(r"//+")
_BASE = re.compile(r"(?:/api)?(?P<openai>/openai)?(?:/claude|/anthropic)?(?P<version>(?:/v1){0,2})(?=/|$)")
# What is known also without a /v1, by its first part.
_PARTS = frozenset({"messages", "chat", "responses", "models", "files", "skills"})
# Paths of OpenAI's API; who asks for one reads OpenAI's errors, whether it is served or not.
_OPENAI_PARTS = frozenset(
    {
        "chat", "responses", "completions", "embeddings", "images", "audio", "moderations", "assistants", "threads",
        "vector_stores", "fine_tuning", "batches", "conversations", "realtime", "uploads", "engines",
    }
)  # fmt: skip
_LONGEST = 100  # of a path that is compared with others
_ALIKE = 0.75


def canonical(path: str) -> str:
    """A path as the tables have it: `/v1/...`, or `/openai/v1/...` where it is said to be OpenAI's."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if len(path) > 1 and path.endswith("/"):
        path = path[:-1]
    base = _BASE.match(path)
    if base is not None:
        rest = path[base.end() :]
        if not rest:
            return "/"  # a base URL itself
        if base["version"] or _first(rest) in _PARTS:
            return f"{base['openai'] or ''}/v1{rest}"
    return path.removeprefix("/api") if path.startswith("/api/") else path


def speaks_openai(path: str) -> bool:
    """Whether a path's clients expect OpenAI's error shape."""
    path = canonical(path)
    return path.startswith("/openai/") or (path.startswith("/v1/") and _first(path[3:]) in _OPENAI_PARTS)


def meant(path: str, known: Collection[str]) -> str:
    """The path among `known` that an unknown one was probably meant to be; "" when there is none."""
    path = path[:_LONGEST]
    plain = canonical(unquote(path).lower())
    if plain in known:
        return plain
    ending = max((one for one in known if len(one) > 1 and plain.endswith(one)), key=len, default="")
    if ending or _first(plain.removeprefix("/v1")) in _OPENAI_PARTS - _PARTS:
        return ending
    return next(iter(get_close_matches(plain, known, n=1, cutoff=_ALIKE)), "")


def _first(rest: str) -> str:
    """The first part of a path that begins with a slash."""
    return rest[1:].partition("/")[0]
