"""Provenance: where the bytes of a tree come from, as far as that can be proved.

Rule: never fails and never holds a reload up: what cannot be determined is "unknown". In this order: a git work tree
(with a proof, where git can be run), a manifest, the name of a directory that git-sync made, a REVISION file, the name
of a ConfigMap's data directory.

Theory: "clean at commit C" is said only when every file has exactly the bytes of C's blob and none is missing: by
hashing, not by git's own idea of the work tree.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Literal

import attrs

from relayd.config.model.document import classify
from relayd.config.source.git import GitError, blobs_of, commit_of
from relayd.config.source.git_state import GitState
from relayd.noun import noun

Source = Literal["git", "manifest", "link", "revision", "configmap", "unknown"]

UNKNOWN_COMMIT = "unknown"
MAX_DIRTY = 100  # paths that are reported
_OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z._/+-]{0,99}")


@noun(kw_only=True)
class Provenance:
    """Where a tree comes from.

    Args:
        commit: full name of the commit, or what the source calls its state; "unknown".
        dirty: paths that differ from that commit, at most MAX_DIRTY; () when it is proved that none does; None when
            nobody knows.
        source: who says so.
    """

    commit: str = UNKNOWN_COMMIT
    dirty: tuple[str, ...] | None = None
    source: Source = "unknown"

    def __str__(self) -> str:
        commit = self.commit[:12] if _OID.fullmatch(self.commit) else self.commit
        match self.dirty:
            case None:
                return f"commit {commit}"
            case ():
                return f"commit {commit}, clean"
        more = "+" if len(self.dirty) >= MAX_DIRTY else ""
        return f"commit {commit}, dirty: {len(self.dirty)}{more} file{'s' * (len(self.dirty) != 1)}"


UNKNOWN = Provenance()


@noun(kw_only=True)
class Manifest:
    """manifest.toml: what a tree consists of, written last by who copies it. `files`: SHA-256 in hex by path."""

    commit: str
    files: Mapping[str, str]


@attrs.define(eq=False)
class BlobNames:
    """Git's names of contents that were hashed before. Holds no more than one tree."""

    names: dict[str, tuple[bytes, str]] = attrs.field(factory=dict, repr=False)


def of_git(
    root: str, state: GitState, files: Mapping[str, bytes], *, timeout: float, known: BlobNames | None = None
) -> Provenance:
    """The commit of a work tree, proved where git can be asked. Unknown when nothing of the tree is in the commit."""
    try:
        commit = state.commit or commit_of(root, "HEAD")  # a reftable repository has no refs that we can read
        blobs = blobs_of(root, commit, timeout=timeout)
    except GitError:
        return Provenance(commit=state.commit, source="git") if state.commit else UNKNOWN
    if not blobs.keys() & files.keys():
        return UNKNOWN  # the tree only happens to lie below somebody's work tree
    return Provenance(commit=commit, dirty=dirty_paths(files, blobs, known), source="git")


def dirty_paths(
    files: Mapping[str, bytes], blobs: Mapping[str, str], known: BlobNames | None = None
) -> tuple[str, ...]:
    """Files whose bytes are not those of the commit, new ones and missing ones; at most MAX_DIRTY."""
    digits = len(next(iter(blobs.values()), "")) or 40
    names = _names(files, digits, known or BlobNames())
    found = [path for path, name in names.items() if blobs.get(path) != name and not _is_crlf(path, files, blobs)]
    found += [path for path in blobs if path not in files and classify(path) != "ignored"]
    return tuple(sorted(found)[:MAX_DIRTY])


def _names(files: Mapping[str, bytes], digits: int, known: BlobNames) -> dict[str, str]:
    """The blob name of each file; what is the same object as last time is not hashed again."""
    fresh: dict[str, tuple[bytes, str]] = {}
    for path, data in files.items():
        old = known.names.get(path)
        same = old is not None and old[0] is data and len(old[1]) == digits
        fresh[path] = old if old is not None and same else (data, blob_name(data, digits))
    known.names = fresh
    return {path: name for path, (_, name) in fresh.items() if classify(path) != "ignored"}


def _is_crlf(path: str, files: Mapping[str, bytes], blobs: Mapping[str, str]) -> bool:
    """Whether a file is its blob, but for LF that git has turned into CRLF on the way out."""
    data, name = files[path], blobs.get(path, "")
    return b"\r\n" in data and blob_name(data.replace(b"\r\n", b"\n"), len(name)) == name


def blob_name(data: bytes, digits: int = 40) -> str:
    """Git's name of a blob; `digits` is 64 in SHA-256 repositories. Source: Pro Git, "Git Objects"."""
    digest = hashlib.sha1(usedforsecurity=False) if digits == 40 else hashlib.sha256()
    digest.update(b"blob %d\0" % len(data))
    digest.update(data)
    return digest.hexdigest()


def of_names(root: str, revision: bytes) -> Provenance:
    """What names around the tree say, where there is neither git nor a manifest.

    Args:
        root: the real path of the tree.
        revision: content of a REVISION file, b"" for none.
    """
    name = os.path.basename(root)
    if _OID.fullmatch(name):
        return Provenance(commit=name, source="link")
    word = revision[:200].decode("utf-8", "replace").strip().split("\n")[0].strip()
    if _WORD.fullmatch(word):
        return Provenance(commit=word, source="revision")
    try:
        dated = os.path.basename(os.readlink(os.path.join(root, "..data")))
    except OSError:
        return UNKNOWN
    return Provenance(commit=dated.lstrip(".") or UNKNOWN_COMMIT, source="configmap")


def write_manifest(files: Mapping[str, bytes], commit: str = "") -> str:
    """The text of a manifest.toml for a tree."""
    head = "# What this tree consists of: relayd loads it only when every file is exactly this. Copy this file last.\n"
    lines = [f'"{_escaped(path)}" = "{hashlib.sha256(data).hexdigest()}"' for path, data in sorted(files.items())]
    return head + f'commit = "{_escaped(commit)}"\n\n[files]\n' + "\n".join(lines) + "\n"


def parse_manifest(data: bytes) -> Manifest:
    """Raises: ValueError, which says what is wrong."""
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        raise ValueError("manifest.toml is not whole") from None
    commit, files = table.get("commit", ""), table.get("files")
    if not isinstance(commit, str) or not isinstance(files, dict):
        raise ValueError("manifest.toml has no [files]")
    if not all(isinstance(digest, str) for digest in files.values()):
        raise ValueError("manifest.toml: a digest is not a string")
    return Manifest(commit=commit, files=files)


def mismatch(manifest: Manifest, files: Mapping[str, bytes]) -> str:
    """Where a tree is not what its manifest says; "" when it is exactly that."""
    for path in sorted({*files, *manifest.files}):
        if path not in files:
            return f"{path} is missing, but manifest.toml lists it"
        if path not in manifest.files:
            return f"{path} is not listed in manifest.toml"
        if hashlib.sha256(files[path]).hexdigest() != manifest.files[path].lower():
            return f"{path} differs from what manifest.toml says"
    return ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
