"""Named models: the models that a request names besides its own, which may answer in its stead or be asked beside it.

Rule: wherever a body names a model, that model is found, also in fields that are not known yet: everything is looked
through but the places where `model` is a word of the client's own (FREE). What a doubled key says counts twice.

Theory: `fallbacks` name the models that answer when the asked one declines, an advisor tool the one that it consults,
and `messages` may define further tools. Of the large parts of a body, which are messages and schemas of tools, a few
byte searches tell that nothing is named there; so nearly all calls are done with after those.
Source: official SDK 2.12.0 (BetaFallbacksParam, BetaAdvisorTool20260301Param, BetaRequestToolAdditionBlockParam).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import msgspec

from relayd.noun import noun
from relayd.wire.json_escapes import NOT_JSON, may_be_escaped
from relayd.wire.refusal import Refusal

# Where a client's own words stand, at the top level and anywhere below it.
_FREE_FIELDS = frozenset({"model", "max_tokens", "speed", "messages", "system", "metadata", "stop_sequences"})
_FREE_MEMBERS = frozenset({"input_schema", "input_examples", "schema", "description"})
# What defines a tool within a content block of a message.
_DEFINES = frozenset({"tool", "tools", "definition", "tool_changes"})
_MODEL, _DEFINITION = b'model"', b'"definition"'
MOST_NAMED = 100  # a chain of fallbacks and an advisor name a handful
# Bytes that are looked through for models, which takes some 10 ms; fallbacks and the tools that name one have a few kB.
MOST_READ = 64 << 10
MOST_DEFINING = 4 << 20  # of messages, of which only the outermost parts are looked at

_items = msgspec.json.Decoder(list[msgspec.Raw])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


@noun(kw_only=True)
class NamedModels:
    """What a request names besides its own model.

    Args:
        models: by name, sorted.
        any_model: the upstream chooses one (`fallbacks: "default"`).
        max_tokens: the highest cap on output among them; None where there is none.
        fast: one of them asks for a `speed`, which may have its price.
    """

    models: tuple[str, ...] = ()
    any_model: bool = False
    max_tokens: int | None = None
    fast: bool = False


NOTHING_NAMED = NamedModels()


class _Object(list[tuple[str, Any]]):
    """A JSON object as it is written, doubled keys included."""


def named_models(found: Mapping[str, msgspec.Raw]) -> NamedModels:
    """What the members of a body's top level name. Raises: Refusal (400) for what cannot be read."""
    try:
        parts = [part for name, raw in found.items() if name not in _FREE_FIELDS for part in _naming(name, raw)]
        defining = _defining(found.get("messages"))
        if not parts and not defining:
            return NOTHING_NAMED
        _check_size(sum(memoryview(raw).nbytes for _, raw in parts), MOST_READ)
        _check_size(sum(memoryview(raw).nbytes for raw in defining), MOST_DEFINING)
        seen = _Seen()
        seen.look(_Object((name, _read(raw)) for name, raw in parts))
        seen.look_for_tools([_read(message) for message in defining])
    except NOT_JSON:
        raise Refusal(status=400, message="the models that the request body names cannot be read") from None
    return seen.told()


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise Refusal(status=400, message=f"more than {most >> 10} KiB of the request body may name models")


def _naming(name: str, raw: msgspec.Raw) -> list[tuple[str, msgspec.Raw]]:
    """Those parts of a member that may name a model."""
    data = bytes(raw)
    if name == "fallbacks" or name.endswith("model"):
        return [(name, raw)]
    if not _has(data, _MODEL):
        return []
    if name == "tools" and data.startswith(b"["):
        return [(name, tool) for tool in _items.decode(raw) if _has(bytes(tool), _MODEL) and _says_model(bytes(tool))]
    return [(name, raw)]


def _defining(messages: msgspec.Raw | None) -> list[msgspec.Raw]:
    """The messages that may define tools which name a model."""
    data = bytes(messages or b"")
    if messages is None or not data.startswith(b"[") or not _has(data, _DEFINITION) or not _has(data, _MODEL):
        return []
    return [one for one in _items.decode(messages) if _has(bytes(one), _DEFINITION) and _has(bytes(one), _MODEL)]


def _has(data: bytes, word: bytes) -> bool:
    """Whether a word stands in a JSON text, or may be there in another spelling."""
    return word in data or may_be_escaped(data)


def _says_model(tool: bytes) -> bool:
    """Whether a tool says `model` outside its schema, where nearly all that do have it as a parameter."""
    if not tool.startswith(b"{"):
        return True
    free = sum(bytes(raw).count(_MODEL) for name, raw in _members.decode(tool).items() if name in _FREE_MEMBERS)
    # What stands twice is found once: then the numbers differ, and it is looked at closely.
    return tool.count(_MODEL) != free or may_be_escaped(tool)


def _read(raw: msgspec.Raw | bytes) -> Any:
    return json.loads(bytes(raw), object_pairs_hook=_Object)


@attrs.define(eq=False)
class _Seen:
    """What has been found up to now."""

    models: set[str] = attrs.field(factory=set)
    caps: list[int] = attrs.field(factory=list)
    fast: bool = False
    any_model: bool = False

    def look(self, value: Any) -> None:
        """Look through a value that says what is to be done."""
        left = [value]
        while left:
            one = left.pop()
            if isinstance(one, _Object):
                left += self._members(one)
            elif isinstance(one, list):
                left += one

    def look_for_tools(self, messages: Any) -> None:
        """Look at the tools that content blocks define; all else in messages is words."""
        for message in _objects(messages):
            for name, content in message:
                for block in _objects(content) if name == "content" else ():
                    self.look([value for member, value in block if member in _DEFINES])

    def _members(self, one: _Object) -> Iterable[Any]:
        """Note what an object says. Gives what is to be looked at further."""
        for name, value in one:
            match value:
                case _ if name in _FREE_MEMBERS:
                    continue
                case str() if name.endswith("model"):
                    self.models.add(value)
                case str() if name == "fallbacks":
                    self.any_model = True
                case int() if name == "max_tokens":
                    self.caps.append(value)
                case str() if name == "speed":
                    self.fast = True
            yield value

    def told(self) -> NamedModels:
        """Raises: Refusal 400 for more models than anybody needs."""
        if len(self.models) > MOST_NAMED:
            raise Refusal(status=400, message=f"more than {MOST_NAMED} models are named")
        cap = max(self.caps, default=None)
        return NamedModels(models=tuple(sorted(self.models)), any_model=self.any_model, max_tokens=cap, fast=self.fast)


def _objects(value: Any) -> list[_Object]:
    """The objects in an array."""
    items = value if isinstance(value, list) and not isinstance(value, _Object) else ()
    return [one for one in items if isinstance(one, _Object)]
