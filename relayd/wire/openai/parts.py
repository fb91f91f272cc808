"""Content parts of both OpenAI dialects as content blocks of the Claude API.

Rule: nothing is fetched and nothing is invented: a URL is the upstream's to fetch (fetching it here would let clients
reach our network), and an empty text yields no block, because the API refuses those.

Source: OpenAI API reference, "Chat", "Responses"; Claude API docs, "Vision", "PDF support".
"""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from collections.abc import Callable

import msgspec

from relayd.wire.openai.fields import Json, a_list, a_name, a_text, an_object, refuse_field, shown, unsupported

Blocks = list[Json]

# What an image begins with. The declared type is often wrong, and the API refuses a mismatch.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def text_block(text: str) -> Json | None:
    """A text block; None for one that the API would refuse as empty."""
    return None if not text or text.isspace() else {"type": "text", "text": text}


def content_blocks(content: object, where: str) -> Blocks:
    """A content field: a string, an array of parts, or nothing. `where` names it in refusals."""
    if content is None:
        return []
    if isinstance(content, str):
        block = text_block(content)
        return [block] if block else []
    blocks = []
    for index, part in enumerate(a_list(content, where)):
        block = _block(part, f"{where}[{index}]")
        if block is not None:
            blocks.append(block)
    return blocks


def output_content(output: object, where: str, mended: list[str]) -> str | Blocks:
    """What a tool gave: text, or parts. Anything else that JSON has is its own text.

    Args:
        mended: is told of that.
    """
    if output is None or isinstance(output, str):
        return output or ""
    parts = output if isinstance(output, list) else [output]
    if all(isinstance(part, str) or _is_part(part) for part in parts):
        return content_blocks(parts, where)
    mended.append("tool_results.content")
    return msgspec.json.encode(output).decode()


def _is_part(part: object) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind in _PARTS


def text_blocks(content: object, where: str) -> Blocks:
    """A content field that may hold text only (system, developer)."""
    blocks = content_blocks(content, where)
    for index, block in enumerate(blocks):
        if block["type"] != "text":
            refuse_field(f"{where}[{index}]", "only text is allowed here")
    return blocks


def _block(part: object, where: str) -> Json | None:
    if isinstance(part, str):  # some clients send bare strings in the array
        return text_block(part)
    fields = an_object(part, where)
    kind = fields.get("type")
    read = _PARTS.get(kind) if isinstance(kind, str) else None
    if read is None:
        refuse_field(f"{where}.type", f"unknown content part {shown(kind)}")
    block = read(fields, where)
    mark = fields.get("cache_control")
    if block is not None and mark is not None:
        block["cache_control"] = an_object(mark, f"{where}.cache_control")
    return block


def _text(part: Json, where: str) -> Json | None:
    return text_block(a_text(part.get("text"), f"{where}.text"))


def _refusal(part: Json, where: str) -> Json | None:
    return text_block(a_text(part.get("refusal"), f"{where}.refusal"))


def _image_url(part: Json, where: str) -> Json:
    """Chat nests the URL, Responses does not; clients mix them up."""
    value = part.get("image_url")
    if value is None and part.get("file_id") is not None:
        return {"type": "image", "source": _stored(part, where)}
    if isinstance(value, dict):
        where, value = f"{where}.image_url", value.get("url")
        return image(a_name(value, f"{where}.url"), f"{where}.url")
    return image(a_name(value, f"{where}.image_url"), f"{where}.image_url")


def image(url: str, where: str) -> Json:
    """An image block from a data: or https: URL."""
    if url.startswith("https://"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    if url[:5].lower() != "data:":
        refuse_field(where, "expected a data: or https: URL")
    _, data = _data_url(url, where)
    return _image(data, where)


def _image(data: str, where: str) -> Json:
    media_type = _sniff(_decoded(data[:64], where))
    if media_type is None:
        refuse_field(where, "not a JPEG, PNG, GIF or WebP image", "invalid_image_format")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def _sniff(start: bytes) -> str | None:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if start.startswith(signature)), None)


def _data_url(url: str, where: str) -> tuple[str, str]:
    """Media type and base64 text of a data: URL. Source: RFC 2397."""
    head, comma, data = url[5:].partition(",")
    words = head.lower().split(";")
    if not comma:
        refuse_field(where, "a data: URL needs a comma before its data")
    if "base64" not in (word.strip() for word in words[1:]):
        data = base64.b64encode(urllib.parse.unquote_to_bytes(data)).decode("ascii")
    elif "%" in data:
        data = urllib.parse.unquote(data)
    if not data:
        refuse_field(where, "a data: URL without data")
    return words[0].strip(), data if data.isalnum() else "".join(data.split())


def _decoded(data: str, where: str) -> bytes:
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4))
    except (binascii.Error, ValueError):
        refuse_field(where, "the data is not valid base64")


def _stored(part: Json, where: str) -> Json:
    """A file of the Claude Files API. An id of OpenAI's ("file-...") names something that is not there."""
    file_id = a_name(part.get("file_id"), f"{where}.file_id")
    if not file_id.startswith("file_"):
        refuse_field(f"{where}.file_id", "not the id of a file of the Claude API (file_...); send the data itself")
    return {"type": "file", "file_id": file_id}


def _file(part: Json, where: str) -> Json:
    """Chat's file part: everything in `file`."""
    return _input_file(an_object(part.get("file"), f"{where}.file"), f"{where}.file")


def _input_file(part: Json, where: str) -> Json:
    """Responses' input_file part."""
    title = part.get("filename")
    if part.get("file_data") is not None:
        block = _document(a_text(part["file_data"], f"{where}.file_data"), f"{where}.file_data")
    elif part.get("file_url") is not None:
        url = a_text(part["file_url"], f"{where}.file_url")
        if not url.startswith("https://"):
            refuse_field(f"{where}.file_url", "expected an https: URL")
        block = {"type": "document", "source": {"type": "url", "url": url}}
    else:
        block = {"type": "document", "source": _stored(part, where)}
    if isinstance(title, str) and title and block["type"] == "document":
        block["title"] = title
    return block


def _document(data: str, where: str) -> Json:
    """A file's data: PDF and text become documents, an image an image. Bare base64 is taken for what it begins with."""
    media_type, data = _data_url(data, where) if data[:5].lower() == "data:" else ("", "".join(data.split()))
    start = _decoded(data[:64], where)
    if start.startswith(b"%PDF"):
        return {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}
    if _sniff(start) is not None:
        return _image(data, where)
    if media_type.startswith("text/") or media_type == "application/json":
        try:
            text = _decoded(data, where).decode()
        except UnicodeDecodeError:
            refuse_field(where, "the text is not valid UTF-8")
        return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}
    refuse_field(where, "only PDF, text and image files are understood")


def _audio(part: Json, where: str) -> Json:
    unsupported(where, "audio is not understood by the models behind this relay")


def _native(part: Json, where: str) -> Json:
    """A block of the Claude API among the parts, as some bridges send: it is what it says."""
    an_object(part.get("source"), f"{where}.source")
    return {key: value for key, value in part.items() if key != "prompt_cache_breakpoint"}


_PARTS: dict[str, Callable[[Json, str], Json | None]] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "refusal": _refusal,
    "image_url": _image_url,
    "input_image": _image_url,
    "file": _file,
    "input_file": _input_file,
    "input_audio": _audio,
    "image": _native,
    "document": _native,
}
