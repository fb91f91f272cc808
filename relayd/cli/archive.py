"""Archive: a node's tree, state and stored configs in one tar, with a manifest of versions and sums, sealed.

Rule: a reader believes nothing: each member is a plain file that the manifest names, with its size and sum, and none is
missing; the seal says whose it is, and is checked before a byte is used. The format is in docs/backup.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import attrs

from relayd.cli.tree import Stop
from relayd.config.secrets.recipients import PublicKey
from relayd.config.secrets.seal import Identity
from relayd.config.secrets.sealed_stream import OpeningReader, SealingWriter, StreamHead, read_head
from relayd.noun import noun

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.db"
BUNDLE = "tree.bundle"
TREE, NODE = "tree", "node"
_LARGEST = 64 << 20  # bytes of a manifest


@noun(kw_only=True)
class ArchivedFile:
    """A member of an archive."""

    name: str
    size: int
    sha256: str


@noun(kw_only=True)
class ArchiveManifest:
    """What is in an archive.

    Args:
        relayd: the version that made it.
        created: UTC, RFC 3339.
        store: "sqlite" or "redis", from which the state comes; "" for none.
        tables: version of the tables of the state.
        digest, commit, branch: of the tree; "" where it is in no repository.
    """

    format: int = FORMAT
    relayd: str
    realm: str
    created: str
    store: str = ""
    tables: int = 0
    digest: str = ""
    commit: str = ""
    branch: str = ""
    files: tuple[ArchivedFile, ...] = ()

    def encode(self) -> bytes:
        """JSON, readable."""
        return json.dumps(attrs.asdict(self), indent=1, sort_keys=True).encode()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(one.name for one in self.files)


def parse_manifest(raw: bytes) -> ArchiveManifest:
    """Read a manifest; what a newer relayd has added to the format is passed over. Raises: Stop."""
    try:
        told: dict[str, Any] = json.loads(raw)
        if told["format"] > FORMAT:
            raise Stop(f"the backup was made by relayd {told['relayd']}, which is newer (update relayd)")
        known = {field.name for field in attrs.fields(ArchiveManifest)}
        files = tuple(ArchivedFile(**one) for one in told["files"])
        return ArchiveManifest(**{name: value for name, value in told.items() if name in known} | {"files": files})
    except (ValueError, KeyError, TypeError):
        raise Stop(f"{MANIFEST} of the backup cannot be read") from None


def listed(folder: Path) -> tuple[ArchivedFile, ...]:
    """The files of a folder, with their sums."""
    return tuple(_listed(folder))


def _listed(folder: Path) -> Iterator[ArchivedFile]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield ArchivedFile(name=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest)


def write_archive(
    out: BinaryIO,
    folder: Path,
    manifest: ArchiveManifest,
    head: StreamHead,
    recipients: Sequence[PublicKey],
    rng: Callable[[int], bytes],
) -> None:
    """Write the files of a folder that the manifest names. Raises: OSError, SealError."""
    sealing = SealingWriter(out, head, recipients, rng)
    with tarfile.open(fileobj=sealing, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        text = manifest.encode()
        tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
        for one in manifest.files:
            with (folder / one.name).open("rb") as file:
                tar.addfile(_member(one.name, one.size), file)
    sealing.finish()


def _member(name: str, size: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mode = size, 0o600
    return found


def head_of(file: BinaryIO) -> StreamHead:
    """What an archive says in clear; the file is at its beginning again. Raises: SealError."""
    head, _, _ = read_head(file)
    file.seek(0)
    return head


def read_archive(file: BinaryIO, identities: Sequence[Identity], folder: Path) -> ArchiveManifest:
    """Unpack an archive into an empty folder, and verify all of it. Raises: Stop; SealError; OSError."""
    head, sealed, text = read_head(file)
    with io.BufferedReader(OpeningReader(file, head, sealed, text, identities), 1 << 20) as clear:
        try:
            manifest = _unpack(clear, folder)
        except tarfile.TarError as error:
            raise Stop(f"the backup is not a tar archive: {error}") from None
        while clear.read(1 << 16):  # to its end, which is authenticated too
            pass
    if manifest.realm != head.realm:
        raise Stop(f"the backup says that it is of realm {head.realm} and of {manifest.realm}")
    return manifest


def _unpack(clear: BinaryIO, folder: Path) -> ArchiveManifest:
    with tarfile.open(fileobj=clear, mode="r|") as tar:
        first = tar.next()
        source = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
        if source is None:
            raise Stop(f"the backup does not begin with {MANIFEST}")
        manifest = parse_manifest(source.read(_LARGEST))
        left = {one.name: one for one in manifest.files}
        while (member := tar.next()) is not None:
            known = left.pop(member.name, None)
            if known is None or not member.isreg() or not _is_plain(member.name):
                raise Stop(f"the backup holds {member.name!r}, which its manifest does not name so")
            _write_member(tar, member, known, folder)
    if left:
        raise Stop(f"the backup lacks {min(left)!r}, which its manifest names")
    return manifest


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, known: ArchivedFile, folder: Path) -> None:
    target, source = folder / member.name, tar.extractfile(member)
    assert source is not None, "a plain file"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file)
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
            raise Stop(f"the backup's {member.name!r} has another sum than its manifest says (use another copy)")


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts[0] in (TREE, NODE, STATE, BUNDLE)
