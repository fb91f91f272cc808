"""Tools of a Responses request, and the choice among them.

Rule: a tool that the client runs is an ordinary tool upstream, whatever it is called there; one that OpenAI runs itself
is the Claude API's own where that has it, else named as ignored or refused.

Theory: namespaces, free-text ("custom") tools, shells and patches have no counterpart. Each travels as a function, and
gets its name and its form back in the answer (Hints.names, client_calls.py).
Source: OpenAI API reference, "Using tools"; types of the `openai` SDK 3.54.
"""

from __future__ import annotations

import attrs

from relayd.wire.openai.chat import named_choice
from relayd.wire.openai.client_calls import BUILT_IN, DECLARED
from relayd.wire.openai.fields import Json, a_list, a_name, an_object, shown, unsupported
from relayd.wire.openai.request import RequestDraft, function_tool
from relayd.wire.openai.shapes import CallForm, ToolName
from relayd.wire.openai.web_search import SEARCHES, search_tool

# Tools that OpenAI runs itself. Without one of these the model answers from what it knows, and the header says so;
# others stand for data or a machine that the answer could not do without.
_DISPENSABLE_TOOLS = ("image_generation", "tool_search")


@attrs.define
class ToolNames:
    """The upstream's names of tools, and what the client calls them."""

    by_upstream: dict[str, ToolName] = attrs.field(factory=dict)

    def upstream(self, name: str, namespace: object = "") -> str:
        """The name that a tool has upstream: its own, or joined with its namespace."""
        return f"{namespace}__{name}" if isinstance(namespace, str) and namespace else name

    def learn(self, name: str, namespace: str, form: CallForm) -> str:
        """Note a tool of this request; returns its upstream name."""
        joined = self.upstream(name, namespace)
        if namespace or form != "function":
            self.by_upstream[joined] = ToolName(name=name, namespace=namespace, form=form)
        return joined


def collect_tools(draft: RequestDraft, value: object, names: ToolNames, where: str = "tools") -> None:
    """Tools into the draft; one of a name that is there already takes its place. Raises: Refusal (400)."""
    for index, item in enumerate(a_list(value or [], where)):
        at = f"{where}[{index}]"
        tool = an_object(item, at)
        if tool.get("type") == "namespace":
            namespace = a_name(tool.get("name"), f"{at}.name")
            for inner, part in enumerate(a_list(tool.get("tools"), f"{at}.tools")):
                within = f"{at}.tools[{inner}]"
                _collect_tool(draft, an_object(part, within), within, names, namespace)
        else:
            _collect_tool(draft, tool, at, names, "")


def _collect_tool(draft: RequestDraft, tool: Json, where: str, names: ToolNames, namespace: str) -> None:
    match tool.get("type"):
        case "function" | "custom" as kind:
            name = names.learn(a_name(tool.get("name"), f"{where}.name"), namespace, kind)
            _put(draft, function_tool(_free_text(tool) if kind == "custom" else tool, where, name))
        case "shell" | "local_shell" | "apply_patch" as kind:
            environment = tool.get("environment")
            if isinstance(environment, dict) and environment.get("type") != "local":
                unsupported(f"{where}.environment", "there is no machine behind this relay; only `local` is possible")
            _put(draft, function_tool(DECLARED[kind], where, names.learn(kind, namespace, kind)))
        case str() as kind if kind.startswith(SEARCHES):
            _put(draft, search_tool(draft, tool, where))
        case str() as kind if kind.startswith(_DISPENSABLE_TOOLS):
            draft.ignored.append(f"tools.{next(name for name in _DISPENSABLE_TOOLS if kind.startswith(name))}")
        case kind:
            unsupported(f"{where}.type", f"tools of type {shown(kind)} are not possible here")


def _put(draft: RequestDraft, tool: Json | None) -> None:
    """A tool into the draft, in the place of an older one of its name: the API takes each name once."""
    if tool is None:
        return
    for index, known in enumerate(draft.tools):
        if known.get("name") == tool.get("name"):
            draft.tools[index] = tool
            return
    draft.tools.append(tool)


def _free_text(tool: Json) -> Json:
    """A custom tool as a function of one string. A grammar cannot be enforced; the model is told of it."""
    description = tool.get("description") if isinstance(tool.get("description"), str) else ""
    shape = tool.get("format")
    if isinstance(shape, dict) and isinstance(shape.get("definition"), str):
        description = f"{description}\n\nThe input follows this {shape.get('syntax')} grammar:\n{shape['definition']}"
    text = {"type": "string", "description": "The tool's whole input, as it is."}
    parameters = {"type": "object", "properties": {"input": text}, "required": ["input"]}
    return {"description": (description or "").strip(), "parameters": parameters}


def collect_choice(draft: RequestDraft, value: object, names: ToolNames) -> None:
    """`tool_choice` into the draft, once its tools are known. Raises: Refusal (400)."""
    if value is None:
        return
    if not isinstance(value, dict):
        draft.choice = named_choice(value, "tool_choice")
        return
    match value.get("type"):
        case "auto" | "none" | "required" as word:
            draft.choice = named_choice(word, "tool_choice.type")
        case "allowed_tools":
            tools = a_list(value.get("tools"), "tool_choice.tools")
            allowed = [
                _chosen(an_object(tool, f"tool_choice.tools[{index}]"), f"tool_choice.tools[{index}]", names)
                for index, tool in enumerate(tools)
            ]
            draft.tools = [tool for tool in draft.tools if tool["name"] in allowed]
            draft.choice = named_choice(value.get("mode"), "tool_choice.mode")
        case "function" | "custom":
            draft.choice = {"type": "tool", "name": _chosen(value, "tool_choice", names)}
        case str() if any(
            tool["name"] == _chosen({"name": "?", **value}, "tool_choice", names) for tool in draft.tools
        ):
            draft.choice = {"type": "tool", "name": _chosen(value, "tool_choice", names)}
        case kind:
            unsupported("tool_choice.type", f"tools of type {shown(kind)} are not possible here")


def _chosen(tool: Json, where: str, names: ToolNames) -> str:
    kind = tool.get("type")
    if isinstance(kind, str) and kind in BUILT_IN:
        return names.upstream(kind, tool.get("namespace"))
    if isinstance(kind, str) and kind.startswith(SEARCHES):
        return "web_search"
    return names.upstream(a_name(tool.get("name"), f"{where}.name"), tool.get("namespace"))
