"""Structuring: from a TOML table to a noun of snapshot.py, or a finding for every key that is wrong.

Rule: driven by snapshot.py alone; nothing here knows single keys, and nothing is coerced. The only module
that imports cattrs, which generates one function for each noun from its fields.
"""

from __future__ import annotations

import difflib
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.cols import homogenous_tuple_structure_factory, mapping_structure_factory
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from relayd.config.model.types import FORMS, SCALARS, write
from relayd.config.model.values import HIDE, Bad, quote
from relayd.config.snapshot import KeyPath
from relayd.noun import noun

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]


@noun(kw_only=True)
class Finding:
    """What is wrong with the key at `path`. `secret`: what is assigned there is not to be shown."""

    path: KeyPath
    code: str
    message: str
    hint: str = ""
    at: Literal["key", "value"] = "value"
    secret: bool = False


def structure(noun: type[T], table: Mapping[str, Any]) -> T | list[Finding]:
    """Make the noun of a table.

    Args:
        noun: a class of snapshot.py.
        table: as tomllib gave it.
    Returns: the noun, or every finding.
    """
    try:
        made: T = _converter().structure(table, noun)
        return made
    except ClassValidationError as error:
        return list(_findings(error, (), noun, table, secret=False))


def dotted(path: KeyPath) -> str:
    """A path as people write it: `limits.windows[1].cost`."""
    text = ""
    for item in path:
        if isinstance(item, int):
            text += f"[{item}]"
        else:
            name = item if item and all(c.isascii() and (c.isalnum() or c in "_-") for c in item) else quote(item)
            text += f".{name}" if text else name
    return text if len(text) <= 120 else text[:119] + "..."


def field_type(field: attrs.Attribute[Any]) -> Any:
    """The type of a field with its `form` put in place of `str`."""
    form = field.metadata.get("form")
    if not form:
        return field.type
    return FORMS[form] if field.type is str else types.GenericAlias(tuple, (FORMS[form], ...))


def _findings(
    error: BaseException, path: KeyPath, noun: type, table: Mapping[str, Any], *, secret: bool
) -> Iterator[Finding]:
    """Flatten cattrs' tree of exceptions. Its notes carry the names and indexes that lead to each one."""
    match error:
        case ClassValidationError():
            noted, others = error.group_exceptions()
            for inner, note in noted:
                hidden = secret or _is_secret(error.cl, note.name)
                yield from _findings(inner, (*path, note.name), noun, table, secret=hidden)
            for other in others:
                yield from _findings(other, path, noun, table, secret=secret)
        case IterableValidationError():
            for inner, element in error.group_exceptions()[0]:
                yield from _findings(inner, (*path, element.index), noun, table, secret=secret)
        case ForbiddenExtraKeysError():
            for name in sorted(error.extra_fields):
                yield _unknown_key(error.cl, name, path, noun, _at(table, (*path, name)))
        case KeyError():
            yield Finding(
                path=path[:-1], code="E-MISSING-KEY", message=f"the key `{dotted(path)}` is missing", at="key"
            )
        case Bad():
            hidden = secret or error.value is HIDE
            message = f"{dotted(path)}: {error.what if hidden else error.message()}"
            yield Finding(path=path, code=error.code, message=message, hint=error.hint, secret=hidden)
        case _:
            raise error


def _is_secret(noun: type, name: str) -> bool:
    return bool(attrs.fields_dict(noun)[name].metadata.get("secret"))


def _at(table: Any, path: KeyPath) -> Any:
    for item in path:
        table = table[item]
    return table


def _unknown_key(cl: type, name: str, path: KeyPath, noun: type, value: Any) -> Finding:
    """A key that the schema does not have. Its value may be a secret under a wrong name, so only numbers are shown."""
    where = f" in [{dotted(path)}]" if path else ""
    return Finding(
        path=(*path, name),
        code="E-UNKNOWN-KEY",
        message=f"unknown key `{dotted((name,))}`{where}",
        hint=_suggestion(cl, name, noun),
        at="key",
        secret=type(value) not in (int, float, bool),
    )


_CREDENTIAL_WORDS = ("api_key", "apikey", "api-key", "key", "token", "secret", "session_key", "password", "value")


def _suggestion(cl: type, name: str, noun: type) -> str:
    """What was probably meant by an unknown key."""
    known = [field.name for field in attrs.fields(cl) if field.name != "id"]
    if name == "id" and any(field.name == "id" for field in attrs.fields(cl)):
        return "the id is the name of the file"
    if close := difflib.get_close_matches(name.lower().replace("-", "_"), known, 1, 0.7):
        return f"did you mean `{close[0]}`?"
    if homes := _homes(noun).get(name):
        return f"it belongs {homes[0] if homes[0] == _TOP else ' or '.join(homes[:2])}"
    if name in _CREDENTIAL_WORDS and noun.__name__ == "Account":
        return "a credential is never in clear: [credential] has `sealed` and `file`"
    return f"known here: {', '.join(known)}" if len(known) <= 8 else ""


_TOP = "at the top level, before the first table"


@functools.cache
def _homes(noun: type) -> dict[str, list[str]]:
    """For each key of a schema the tables that have it."""
    homes: dict[str, list[str]] = {}

    def walk(cl: type, place: str) -> None:
        for field in attrs.fields(attrs.resolve_types(cl)):
            homes.setdefault(field.name, []).append(f"in [{place}]" if place else _TOP)
            if attrs.has(field.type):
                walk(field.type, f"{place}.{field.name}" if place else field.name)

    walk(noun, "")
    return homes


@functools.cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=True)
    for kind, scalar in SCALARS.items():
        converter.register_structure_hook(kind, _scalar_hook(scalar.parse))
    converter.register_structure_hook_func(lambda kind: _origin(kind) is Literal, _word)
    converter.register_structure_hook_func(_is_choice, _number_or_word)
    converter.register_structure_hook_factory(_is_optional)(_optional_hook)
    converter.register_structure_hook_factory(lambda kind: _origin(kind) is tuple)(_array_hook)
    converter.register_structure_hook_factory(_is_mapping)(_mapping_hook)
    converter.register_structure_hook_factory(attrs.has)(_noun_hook)
    return converter


def _origin(kind: Any) -> Any:
    return get_origin(kind)


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_optional(kind: Any) -> bool:
    return _is_union(kind) and type(None) in get_args(kind)


def _is_choice(kind: Any) -> bool:
    return _is_union(kind) and type(None) not in get_args(kind)


def _scalar_hook(parse: Callable[[Any], Any]) -> Hook:
    return lambda value, _: parse(value)


def _optional_hook(kind: Any, converter: Converter) -> Hook:
    """TOML has no null: a key that is there has a value."""
    (inner,) = (arg for arg in get_args(kind) if arg is not type(None))
    hook = converter.get_structure_hook(inner)
    return lambda value, _: hook(value, inner)


def _word(value: Any, kind: Any) -> Any:
    words = get_args(kind)
    if type(value) is str and value in words:
        return value
    close = difflib.get_close_matches(value, words, 1, 0.6) if type(value) is str else []
    hint = f'did you mean "{close[0]}"?' if close else ""
    raise Bad("E-CHOICE", f"expected {' or '.join(quote(word) for word in words)}", value, hint)


def _number_or_word(value: Any, kind: Any) -> Any:
    """For `int | Literal[...]`, the one kind of union in the schema."""
    words = [word for arg in get_args(kind) for word in get_args(arg)]
    if type(value) is str and value in words:
        return value
    if type(value) is not int:
        raise Bad("E-TYPE", f"expected an integer or {' or '.join(quote(word) for word in words)}", value)
    return SCALARS[int].parse(value)


def _array_hook(kind: Any, converter: Converter) -> Hook:
    inner = homogenous_tuple_structure_factory(kind, converter)

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise Bad("E-TYPE", "expected an array", value, "put it in brackets: [...]")
        return inner(value, kind)

    return hook


def _mapping_hook(kind: Any, converter: Converter) -> Hook:
    inner = mapping_structure_factory(kind, converter)

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise Bad("E-TYPE", "expected a table", value)
        return MappingProxyType(inner(value, kind))

    return hook


def _noun_hook(noun: Any, converter: Converter) -> Hook:
    attrs.resolve_types(noun)
    overrides: dict[str, Any] = {
        field.name: override(struct_hook=_field_hook(field, converter))
        for field in attrs.fields(noun)
        if field.metadata.get("form") or field.metadata.get("low") is not None or field.metadata.get("high") is not None
    }
    inner = make_dict_structure_fn(
        noun, converter, _cattrs_forbid_extra_keys=True, _cattrs_use_linecache=False, **overrides
    )

    def hook(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise Bad("E-TYPE", "expected a table", value)
        return inner(value, noun)

    return hook


def _field_hook(field: attrs.Attribute[Any], converter: Converter) -> Hook:
    """The hook of a field that has a form or bounds."""
    kind, low, high = field_type(field), field.metadata.get("low"), field.metadata.get("high")
    inner = converter.get_structure_hook(kind)

    def hook(value: Any, _: Any) -> Any:
        made = inner(value, kind)
        if isinstance(made, int | float) and not (low is None or made >= low) & (high is None or made <= high):
            raise Bad("E-RANGE", f"expected {bounds(kind, low, high)}", value)
        return made

    return hook


def bounds(kind: Any, low: float | None, high: float | None) -> str:
    """Bounds in the unit of the field, for people."""
    least = "" if low is None else str(write(kind, low))
    most = "" if high is None else str(write(kind, high))
    return f"{least} to {most}" if least and most else f"at least {least}" if least else f"at most {most}"
