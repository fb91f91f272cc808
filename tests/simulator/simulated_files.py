"""Files of a test upstream: upload, list, look up, download, delete.

Source: API reference, "Files"; reference SDK, FileMetadata. Multipart bodies: RFC 7578 and RFC 2046 section 5.1.
"""

from __future__ import annotations

import re
from typing import Any

import attrs
from simulated_shelf import MOST_BYTES, Shelf, StoredFile

from relayd.simulator.catalog import page
from relayd.simulator.script import Script, json_script, make_id, seed_of, timestamp, whole
from relayd.wire.http import HeaderPairs, Headers
from relayd.wire.refusal import Refusal

BOUNDARY = re.compile(rb'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.ASCII | re.IGNORECASE)
PARAMETER = re.compile(rb'(?:^|;)\s*(name|filename)="([^"]*)"', re.ASCII | re.IGNORECASE)


@attrs.frozen(kw_only=True)
class Part:
    """One part of a multipart body."""

    name: str
    filename: str
    mime_type: str
    content: bytes = attrs.field(repr=False)


def upload(shelf: Shelf, headers: Headers, body: bytes, now: float, common: HeaderPairs) -> Script:
    """POST /v1/files. Raises: Refusal (400, 413)."""
    part = next((part for part in multipart(headers.text(b"content-type"), body) if part.name == "file"), None)
    if part is None:
        raise Refusal(status=400, message="file: Field required")
    if len(part.content) > MOST_BYTES:
        raise Refusal(status=413, message=f"This upstream keeps files up to {MOST_BYTES >> 20} MiB")
    file = StoredFile(
        id=make_id("file", seed_of(body), shelf.next_serial()),
        created=now,
        size=len(part.content),
        filename=re.split(r"[/\\]", part.filename)[-1] or "unnamed",
        mime_type=part.mime_type,
        content=part.content,
    )
    shelf.files.put(file)
    return json_script(200, described(file), common)


def listed(shelf: Shelf, query: str, common: HeaderPairs) -> Script:
    """GET /v1/files."""
    return json_script(200, page([described(file) for file in shelf.files.newest_first()], query), common)


def found(shelf: Shelf, file_id: str) -> StoredFile:
    """Raises: Refusal (404)."""
    file = shelf.files.things.get(file_id)
    if file is None:
        raise Refusal(status=404, message=f"File not found: {file_id[:64]}")
    return file


def download(file: StoredFile, common: HeaderPairs) -> Script:
    """GET /v1/files/{id}/content."""
    return whole(200, [(b"content-type", file.mime_type.encode("latin-1", "replace")), *common], file.content)


def delete(shelf: Shelf, file: StoredFile, common: HeaderPairs) -> Script:
    """DELETE /v1/files/{id}."""
    del shelf.files.things[file.id]
    return json_script(200, {"id": file.id, "type": "file_deleted"}, common)


def described(file: StoredFile) -> dict[str, Any]:
    """A file as the API shows it. Unlike the API, what was uploaded can be downloaded: a relay must pass it on."""
    return {
        "id": file.id,
        "type": "file",
        "filename": file.filename,
        "mime_type": file.mime_type,
        "size_bytes": file.size,
        "created_at": timestamp(file.created),
        "downloadable": True,
    }


def multipart(content_type: str, body: bytes) -> list[Part]:
    """The parts of a multipart/form-data body. Raises: Refusal (400) where it is none."""
    match = BOUNDARY.search(content_type.encode("latin-1"))
    if not content_type.lower().startswith("multipart/form-data") or match is None:
        raise Refusal(status=400, message="content-type: multipart/form-data with a boundary is expected")
    sections = (b"\r\n" + body).split(b"\r\n--" + (match[1] or match[2]))
    if len(sections) < 3 or not sections[-1].startswith(b"--"):
        raise Refusal(status=400, message="The multipart body does not end with its closing boundary")
    return [_part(section) for section in sections[1:-1]]


def _part(section: bytes) -> Part:
    head, gap, content = section.partition(b"\r\n\r\n")
    if not gap:
        raise Refusal(status=400, message="A part of the multipart body has no header section")
    lines = [line.partition(b":") for line in head.split(b"\r\n") if line]
    fields = {name.strip().lower(): value.strip() for name, _, value in lines}
    names = {name.lower(): value for name, value in PARAMETER.findall(fields.get(b"content-disposition", b""))}
    return Part(
        name=names.get(b"name", b"").decode("utf-8", "replace"),
        filename=names.get(b"filename", b"").decode("utf-8", "replace"),
        mime_type=_mime_type(fields.get(b"content-type", b"")),
        content=content,
    )


def _mime_type(value: bytes) -> str:
    """A type that may stand in a response header; anything odd becomes octet-stream."""
    text = value.decode("latin-1")
    return text if re.fullmatch(r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w-]+)?", text, re.ASCII) else "application/octet-stream"
