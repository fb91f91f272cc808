"""Resumed state: what a call takes up that an upstream keeps for it, and what its answer says is kept from now on.

Rule: only ids are read. A conversation on a server (`thread`) goes on under the id of its last answer; the container of
code execution has an id of its own, which the answer names; skills are uploaded ahead and loaded into a container.
Source: official SDK 2.12.0 (BetaMessageThreadParam, BetaContainerParams, BetaSkillParams, BetaMessage.container,
BetaRawMessageDeltaEvent).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from relayd.noun import noun
from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.refusal import Refusal

KeptType = Literal["threads", "containers", "skills"]


@noun(kw_only=True)
class Resumed:
    """What a call takes up.

    Args:
        thread: id of the answer after which a conversation goes on; "" for none.
        container: id of the container that is used again; "" for none.
        skills: ids of those that are loaded into it, but for the API's own.
        in_thread: the upstream keeps the conversation, so that one can go on after this answer too.
    """

    thread: str = ""
    container: str = ""
    skills: tuple[str, ...] = ()
    in_thread: bool = False

    def ids(self) -> dict[str, KeptType]:
        """Each id, and what it is."""
        found: dict[str, KeptType] = dict.fromkeys(self.skills, "skills")
        if self.thread:
            found[self.thread] = "threads"
        if self.container:
            found[self.container] = "containers"
        return found


NOTHING_RESUMED = Resumed()


class _Thread(msgspec.Struct):
    previous_message_id: str | None = None


class _Skill(msgspec.Struct):
    skill_id: str | None = None
    type: str | None = None


class _Container(msgspec.Struct):
    id: str | None = None
    skills: list[_Skill] | None = None


class _Made(msgspec.Struct):
    id: Any = None
    container: Any = None


_thread = msgspec.json.Decoder(_Thread | None)
_container = msgspec.json.Decoder(_Container | str | None)
_made = msgspec.json.Decoder(_Made)


def resumed(found: Mapping[str, msgspec.Raw]) -> Resumed:
    """What the members of a body's top level take up. Raises: Refusal (400) for ids that cannot be told."""
    thread, container = found.get("thread"), found.get("container")
    if thread is None and container is None:
        return NOTHING_RESUMED
    previous = _decoded("thread", thread, _thread, "previous_message_id")
    used = _decoded("container", container, _container, "id", "skills")
    loaded = used.skills or [] if isinstance(used, _Container) else []
    return Resumed(
        thread=previous.previous_message_id or "" if isinstance(previous, _Thread) else "",
        container=used or "" if isinstance(used, str | None) else used.id or "",
        skills=_uploaded(bytes(container or b""), loaded),
        in_thread=previous is not None,
    )


def _decoded(name: str, raw: msgspec.Raw | None, decoder: msgspec.json.Decoder[Any], *keys: str) -> Any:
    if raw is None:
        return None
    data = bytes(raw)
    try:
        # With an escape, or twice, the key of the id could say one thing here and another upstream.
        if data.startswith(b"{") and (b"\\" in data or any(data.count(b'"%b"' % key.encode()) > 1 for key in keys)):
            raise ValueError
        return decoder.decode(data)
    except NOT_JSON:
        message = f"{name}: expected an object with one {' and one '.join(keys)}, written without escapes"
        raise Refusal(status=400, message=message, param=name) from None


def _uploaded(container: bytes, loaded: list[_Skill]) -> tuple[str, ...]:
    """The skills that are somebody's. Raises: Refusal 400 where one has an id that may be read in two ways."""
    names = {one.skill_id: one.type for one in loaded if one.skill_id is not None}
    if container.count(b'"skill_id"') != sum(one.skill_id is not None for one in loaded):
        message = "container.skills: expected objects with one skill_id each"
        raise Refusal(status=400, message=message, param="container")
    sure = container.count(b'"type"') == len(loaded)  # else one may have two
    own = {name for name, kind in names.items() if sure and kind == "anthropic" and is_builtin(name)}
    return tuple(sorted(names.keys() - own))


def is_builtin(skill: str) -> bool:
    """Whether a skill's id is of the API's own (`pptx`); those of uploaded ones have an underscore (`skill_01...`)."""
    return "_" not in skill


def container_of(message: object) -> str:
    """The id of the container that a message, or the change of one, names; "" for none."""
    container = message.get("container") if isinstance(message, dict) else None
    return id_of(container)


def id_of(value: object) -> str:
    """The `id` of a JSON object; "" when it has none."""
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def made_by_message(body: bytes) -> tuple[str, str]:
    """The ids of a whole answer and of its container; "" where it names none."""
    try:
        made = _made.decode(body)
    except NOT_JSON:
        return "", ""
    return made.id if isinstance(made.id, str) else "", id_of(made.container)
