"""Conversation ids: what ties a call to earlier ones of the same client, so that they find their prompt cache again.

Rule: read-only and forgiving: a body that cannot be read has no conversation, and the upstream says what is wrong with
it. What is taken from a client is bounded in length.

Theory: a client that names its session is believed (`metadata.user_id` as Claude Code writes it, a session header, or
`prompt_cache_key`). Else the conversation is what stays the same while it grows: system prompt, tools and the first
message of the user. The last is needed, since every conversation of one program has the same prompt and tools.
`cache_control` is left out of it: clients move that mark to the newest message, so that the first one changes after its
turn. All dialects are known by the body that goes upstream, so that they agree.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from relayd.wire.http import Headers
from relayd.wire.json_escapes import NOT_JSON

# Headers in which clients name their session, the surest first. Seen in Claude Code, Codex, opencode, Open WebUI and
# gateways; a gateway's own comes last, since it may be one for many conversations.
_SESSION_HEADERS = {
    b"x-claude-code-session-id": 0,
    b"session-id": 1,
    b"session_id": 2,
    b"x-opencode-session": 3,
    b"x-openwebui-chat-id": 4,
    b"x-session-id": 5,
    b"thread-id": 6,
    b"x-conversation-id": 7,
    b"x-litellm-session-id": 8,
}
_OLD_MARK = "_session_"
# Shorter "sessions" ("default", "null", "1") do not name one conversation.
_SHORTEST = 8
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._:-]{8,128}")
# Of a long piece, its length and both ends are enough to tell conversations apart, at a bounded cost.
_START, _END = 16384, 4096


class _Session(msgspec.Struct):
    session_id: str | None = None


class _Turn(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()


class _Tool(msgspec.Struct):
    type: msgspec.Raw = msgspec.Raw()
    name: msgspec.Raw = msgspec.Raw()
    description: msgspec.Raw = msgspec.Raw()
    input_schema: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    system: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    messages: list[_Turn] = []  # msgspec copies it


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    source: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()


_session = msgspec.json.Decoder(_Session)
_body = msgspec.json.Decoder(_Body)
_words = msgspec.json.Decoder(str | list[_Block])
_tools = msgspec.json.Decoder(list[_Tool])


def conversation(headers: Headers, body: bytes, metadata_user_id: str, named: str = "") -> str:
    """A name for the conversation, of at most 130 characters; "" when there is nothing to tell it by.

    It is not scoped: two clients may come to the same name (core/balancing/affinity.py scopes it to the API key).

    Args:
        body: of a Messages call.
        metadata_user_id: `metadata.user_id` where that is text, else "".
        named: what the client calls the conversation elsewhere in its body (`prompt_cache_key`), else "".
    """
    for session in (session_of(metadata_user_id) or _header_session(headers), named):
        if _PLAIN_NAME.fullmatch(session):
            return f"s:{session}"
        if len(session) >= _SHORTEST:
            return "s:" + _digest(session.encode("utf-8", "surrogatepass"))
    return _opening(body)


def session_of(user_id: str) -> str:
    """The session in a `metadata.user_id`; "" when it names none.

    Claude Code writes `{"device_id":...,"account_uuid":...,"session_id":...}`, and wrote `user_..._session_...` before.
    Anything else names a person, who has many conversations.
    """
    if user_id.startswith("{"):
        try:
            return _session.decode(user_id).session_id or ""
        except NOT_JSON:
            return ""
    return user_id.rpartition(_OLD_MARK)[2] if _OLD_MARK in user_id else ""


def _header_session(headers: Headers) -> str:
    found = [(_SESSION_HEADERS[name], value) for name, value in headers.pairs if name in _SESSION_HEADERS]
    return min(found)[1].decode("latin-1") if found else ""


def _opening(body: bytes) -> str:
    """The hash of what stays the same while a conversation grows."""
    try:
        start = _body.decode(body)
    except NOT_JSON:
        return ""
    first = next((message.content for message in start.messages if message.role == "user"), None)
    if first is None:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for piece in (*_said(start.system), b"\0", *_offered(start.tools), b"\0", *_said(first)):
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece[:_START])
        digest.update(piece[_START:][-_END:])
    return "h:" + digest.hexdigest()


def _said(content: msgspec.Raw) -> list[bytes | memoryview]:
    """A `content` or `system` without its marks: the same words as text or as blocks are the same."""
    if not memoryview(content):
        return []
    try:
        words = _words.decode(content)
    except NOT_JSON:
        return [memoryview(content)]
    if isinstance(words, str):
        return [words.encode("utf-8", "surrogatepass")]
    pieces: list[bytes | memoryview] = []
    for block in words:
        if block.text is not None:
            pieces.append(block.text.encode("utf-8", "surrogatepass"))
        else:
            pieces += [block.type.encode("utf-8", "surrogatepass"), memoryview(block.source), memoryview(block.content)]
    return pieces


def _offered(tools: msgspec.Raw) -> list[bytes | memoryview]:
    """The `tools` without their marks."""
    if not memoryview(tools):
        return []
    try:
        offered = _tools.decode(tools)
    except NOT_JSON:
        return [memoryview(tools)]
    return [
        memoryview(piece) for tool in offered for piece in (tool.type, tool.name, tool.description, tool.input_schema)
    ]


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()
