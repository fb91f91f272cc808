"""Environment check: what a tree needs of its machine: files that it names, identities that open its values.

Rule: reads, changes nothing, and is only asked for by name (`relayd check --env`): the same tree is right on one
machine and wrong on another, and a check in CI must not depend on which one it runs on. Secrets are opened here to see
whether they open; nothing of them gets into a problem.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from relayd.config.model.document import Document, open_document
from relayd.config.model.structure import dotted
from relayd.config.problems.problem import Problem
from relayd.config.secrets.credential import shape_warning, why_unusable
from relayd.config.secrets.identity import identity_paths, load_identities
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import Identity, open_sealed
from relayd.config.secrets.sealed_fields import SealedField, realm_of, recipients_of, sealed_fields
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import KeyPath, Snapshot
from relayd.config.source.mounts import frozen_mounts


def environment_problems(
    files: Mapping[str, bytes], snapshot: Snapshot, tree: Path, identity: str | None, environ: Mapping[str, str]
) -> Iterator[Problem]:
    """What this machine lacks.

    Args:
        files: of the tree, as `snapshot` was compiled from them.
        tree: its directory, in which no identity may lie.
        identity: the --identity option; None when it was not given.
    """
    yield from mounts_of(tree)
    yield from _files(files, snapshot)
    fields = list(sealed_fields(files))
    try:
        identities = load_identities(identity_paths(identity, environ, realm_of(files)), tree, environ)
    except SealError as error:
        yield Problem(code=error.code, file="", message=str(error))
        return
    for field in fields:
        yield from _opens(files, snapshot, field, identities)


def mounts_of(tree: Path) -> list[Problem]:
    """A warning for each mount that hides changes of the tree; none where the system does not tell."""
    try:
        return list(frozen_mounts(Path("/proc/self/mountinfo").read_text(errors="replace"), tree.resolve()))
    except OSError:
        return []


def _files(files: Mapping[str, bytes], snapshot: Snapshot) -> Iterator[Problem]:
    """Files of the node that the tree names."""
    for file, content in sorted(files.items()):
        if file.startswith("accounts.d/"):
            account = snapshot.accounts.get(file.rpartition("/")[2].removesuffix(".toml"))
            if account is not None and account.credential.file:
                yield from _readable(file, content, ("credential", "file"), account.credential.file)
    relay = files["relay.toml"]
    yield from _readable("relay.toml", relay, ("state", "password_file"), snapshot.relay.state.password_file)
    for name, alert in snapshot.relay.alerts.items():
        yield from _readable("relay.toml", relay, ("alerts", name, "url_file"), alert.url_file)


def _readable(file: str, content: bytes, path: KeyPath, name: str) -> Iterator[Problem]:
    """Whether a file is there, is one, holds something and lets us read it. It is opened, not only looked at."""
    if not name:
        return
    wrong = ""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            state = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(state.st_mode):
            wrong = "not a regular file"
        elif not state.st_size:
            wrong = "empty"
    except OSError as error:
        wrong = (error.strerror or str(error)).lower()
    if wrong:
        yield _document(file, content).problem("E-ENV-FILE", path, f"{dotted(path)}: {name}: {wrong}")


def _opens(
    files: Mapping[str, bytes], snapshot: Snapshot, field: SealedField, identities: Sequence[Identity]
) -> Iterator[Problem]:
    """Whether a sealed value opens here, and holds what such an account needs."""
    if field.binding is None:
        return  # said without the environment
    document = _document(field.file, files[field.file])
    try:
        secret = open_sealed(field.value, field.binding, identities, recipients_of(files))
    except SealError as error:
        yield document.problem(error.code, field.path, f"{dotted(field.path)}: {error}")
        return
    account = snapshot.accounts.get(field.binding.id) if field.binding.kind == "account" else None
    if account is not None:
        yield from _fits(document, field, account.kind, secret)


def _fits(document: Document, field: SealedField, kind: str, secret: Secret) -> Iterator[Problem]:
    if wrong := why_unusable(secret, kind):
        yield document.problem("E-CREDENTIAL-UNUSABLE", field.path, f"{dotted(field.path)}: {wrong}")
    elif odd := shape_warning(kind, secret):
        yield document.problem("W-CREDENTIAL-SHAPE", field.path, f"{dotted(field.path)}: {odd}")


def _document(file: str, content: bytes) -> Document:
    return open_document(file, content)[0]
