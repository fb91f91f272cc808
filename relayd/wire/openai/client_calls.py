"""Shells and patches: OpenAI's tools that the client runs, as functions that any model can call, and back.

Rule: the same call has the same form on the way out (`call_members`) and in (`call_input`); what the model left out of
an input is absent, never invented.

Source: OpenAI API reference, "Shell", "Local shell", "Apply patch"; types of the `openai` SDK 3.54.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.openai.fields import Json, an_object, refuse_field
from relayd.wire.openai.shapes import CallForm

BUILT_IN: tuple[CallForm, ...] = ("shell", "local_shell", "apply_patch")
# The type of a call's item, by form; that of its result has "_output" behind it.
ITEM: Mapping[CallForm, str] = MappingProxyType(
    {
        "function": "function_call",
        "custom": "custom_tool_call",
        "shell": "shell_call",
        "local_shell": "local_shell_call",
        "apply_patch": "apply_patch_call",
    }
)
FORM: Mapping[str, CallForm] = MappingProxyType({kind: form for form, kind in ITEM.items()})

_TEXT: Json = {"type": "string"}
_TEXTS: Json = {"type": "array", "items": _TEXT}
_TIMEOUT: Json = {"type": "integer", "description": "Milliseconds after which it is stopped."}


def _function(description: str, required: list[str], **properties: Json) -> Json:
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"description": description, "parameters": parameters}


# What the model is told of each.
DECLARED: Mapping[str, Json] = MappingProxyType(
    {
        "shell": _function(
            "Runs shell commands on the user's machine and returns what each prints and its exit code.",
            ["commands"],
            commands={**_TEXTS, "description": "Command lines. They run side by side; chain with && what must wait."},
            timeout_ms=_TIMEOUT,
            max_output_length={"type": "integer", "description": "Characters of output that are wanted at most."},
        ),
        "local_shell": _function(
            "Runs one command on the user's machine and returns what it prints.",
            ["command"],
            command={**_TEXTS, "description": 'The program and its arguments, such as ["bash", "-lc", "ls"].'},
            working_directory=_TEXT,
            timeout_ms=_TIMEOUT,
            env={"type": "object", "additionalProperties": _TEXT, "description": "Environment variables to add."},
        ),
        "apply_patch": _function(
            "Creates, changes or deletes one file of the user's.",
            ["type", "path"],
            type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
            path=_TEXT,
            diff={
                "type": "string",
                "description": "The change in V4A format, without a header: of a new file each line behind a +; of a "
                "known one, for each place, @@ and a line that names it, some lines behind a space as context, removed "
                "lines behind a -, added ones behind a +.",
            },
        ),
    }
)


def call_members(form: CallForm, text: str) -> Json:
    """The members of a call's item that say what to do. `text`: the input as JSON."""
    match form:
        case "function":
            return {"arguments": text}
        case "custom":
            return {"input": free_text(text)}
        case "shell":
            given = _given(text)
            return {"action": {"commands": _texts(given, "commands")} | _numbers(given)}
        case "local_shell":
            given = _given(text)
            env = given.get("env")
            action = {"type": "exec", "command": _texts(given, "command"), "env": env if isinstance(env, dict) else {}}
            where = given.get("working_directory")
            action |= {"working_directory": where} if isinstance(where, str) else {}
            return {"action": action | _numbers(given)}
        case "apply_patch":
            given = _given(text)
            kind = given.get("type") if given.get("type") in ("create_file", "delete_file") else "update_file"
            operation = {"type": kind, "path": _word(given, "path")}
            return {"operation": operation if kind == "delete_file" else {**operation, "diff": _word(given, "diff")}}


def call_input(form: CallForm, item: Json, where: str) -> Json:
    """The function's input from an item of these forms. Raises: Refusal (400)."""
    name = "operation" if form == "apply_patch" else "action"
    given = an_object(item.get(name), f"{where}.{name}")
    if form != "apply_patch" and not isinstance(given.get("commands" if form == "shell" else "command"), list):
        refuse_field(f"{where}.{name}", "expected the commands as an array")
    known = an_object(an_object(DECLARED[form]["parameters"], where)["properties"], where)
    return {key: value for key, value in given.items() if key in known and value is not None}


class _FreeText(msgspec.Struct):
    input: str


def free_text(text: str) -> str:
    """What a custom tool is given: the one string in its input, or, where the model wrote something else, all of it."""
    if not text:
        return ""
    try:
        return msgspec.json.decode(text, type=_FreeText).input
    except NOT_JSON:
        return text


def _given(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except NOT_JSON:
        return {}


def _word(given: Json, name: str) -> str:
    value = given.get(name)
    return value if isinstance(value, str) else ""


def _texts(given: Json, name: str) -> list[str]:
    """A list of strings; models sometimes write the only one bare."""
    value = given.get(name)
    return [value] if isinstance(value, str) else [str(one) for one in value] if isinstance(value, list) else []


def _numbers(given: Json) -> Json:
    names = ("timeout_ms", "max_output_length")
    return {name: given[name] for name in names if isinstance(given.get(name), int)}
