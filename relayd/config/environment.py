"""Environment check: what a tree needs of its machine: files that it names, identities that open its values.

Rule: reads, changes nothing, and is only asked for by name (`relayd check --env`): the same tree is right on one
machine and wrong on another, and a check in CI must not depend on which one it runs on. Secrets are opened here to see
whether they open; nothing of them gets into a problem.
"""

from __future__ import annotations

import importlib.util
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
from relayd.config.secrets.secret_files import SecretFiles, secret_files
from relayd.config.snapshot import Account, KeyPath, ObjectId, Snapshot
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
    yield from _packages(files, snapshot)
    fields, paths = list(sealed_fields(files)), identity_paths(identity, environ, realm_of(files))
    try:
        yield from _files(files, snapshot, secret_files(environ, kept=paths))
        identities = load_identities(paths, tree, environ)
    except SealError as error:
        yield Problem(code=error.code, file="", message=str(error))
        return
    for field in fields:
        yield from _opens(files, snapshot, field, identities)


def place_problems(files: Mapping[str, bytes], snapshot: Snapshot, environ: Mapping[str, str]) -> Iterator[Problem]:
    """What the tree names of its nodes and may not: files outside their directories, origins for files' secrets.

    Looks at no file. What the nodes permit is what this environment says, else the defaults.
    """
    relay = files["relay.toml"]
    try:
        places = secret_files(environ)
    except SealError as error:
        yield Problem(code="E-CREDENTIAL-ORIGIN", file="", message=str(error))
        return
    for file, content, path, name in _named_files(files, snapshot):
        if why := places.why_not_named(name):
            yield _document(file, content).problem("E-CREDENTIAL-FILE", path, f"{dotted(path)}: {why}")
        elif file != "relay.toml" and (why := places.why_not_sent(_account_of(file, snapshot), snapshot.relay)):
            yield _document(file, content).problem("E-CREDENTIAL-ORIGIN", path, f"{dotted(path)}: {why}")
    if snapshot.relay.log.file and (why := why_not_logged(snapshot.relay.log.file, environ)):
        yield _document("relay.toml", relay).problem("E-LOG-FILE", ("log", "file"), f"log.file: {why}")


NO_SOCKS = "python-socks is not installed here (pip install python-socks)"


NO_APPRISE = "apprise is not installed here (pip install 'relayd[alerts]')"


def has_socks() -> bool:
    """Whether python-socks can be imported now."""
    return _has("python_socks")


def has_apprise() -> bool:
    """Whether apprise can be imported now."""
    return _has("apprise")


def _has(package: str) -> bool:
    importlib.invalidate_caches()
    return importlib.util.find_spec(package) is not None


def _packages(files: Mapping[str, bytes], snapshot: Snapshot) -> Iterator[Problem]:
    """Accounts that need a package which is not installed here. The account and its proxy are not at fault."""
    lacking = [] if has_socks() else [file for file in sorted(files) if file.startswith("accounts.d/")]
    for file in lacking:
        account = _account_of(file, snapshot)
        if account.enabled and account.proxy.startswith("socks5:"):
            yield _document(file, files[file]).problem("E-ENV-PACKAGE", ("proxy",), f"proxy: {NO_SOCKS}")
    for alert, target in snapshot.relay.alerts.items():
        if target.format == "apprise" and not has_apprise():
            path: KeyPath = ("alerts", alert, "format")
            yield _document("relay.toml", files["relay.toml"]).problem(
                "E-ENV-PACKAGE", path, f"{dotted(path)}: {NO_APPRISE}"
            )


def log_directory(environ: Mapping[str, str]) -> Path:
    """The node's directory of logs. Source: systemd.exec(5), LogsDirectory= (several are separated by colons)."""
    by_systemd = environ.get("LOGS_DIRECTORY", "").partition(":")[0]
    return Path(os.path.abspath(environ.get("RELAYD_LOG_DIR", "") or by_systemd or "/var/log/relayd"))


def why_not_logged(name: str, environ: Mapping[str, str]) -> str:
    """Why the log is not written to a file of that name, going by the name alone; "" when it may be."""
    directory = log_directory(environ)
    if Path(os.path.normpath(directory / name)).is_relative_to(directory):
        return ""
    return f"{name}: not in the directory of logs ({directory}; see RELAYD_LOG_DIR)"


def mounts_of(tree: Path) -> list[Problem]:
    """A warning for each mount that hides changes of the tree; none where the system does not tell."""
    try:
        return list(frozen_mounts(Path("/proc/self/mountinfo").read_text(errors="replace"), tree.resolve()))
    except OSError:
        return []


def _named_files(files: Mapping[str, bytes], snapshot: Snapshot) -> Iterator[tuple[str, bytes, KeyPath, str]]:
    """Files of secrets that the tree names: where (file, its content, path of the key), and the name."""
    for file, content in sorted(files.items()):
        if file.startswith("accounts.d/") and (name := _account_of(file, snapshot).credential.file):
            yield file, content, ("credential", "file"), name
    relay = files["relay.toml"]
    if snapshot.relay.state.password_file:
        yield "relay.toml", relay, ("state", "password_file"), snapshot.relay.state.password_file
    for alert, target in snapshot.relay.alerts.items():
        for field in ("url_file", "signing_key_file"):
            if name := getattr(target, field):
                yield "relay.toml", relay, ("alerts", alert, field), name


def _account_of(file: str, snapshot: Snapshot) -> Account:
    return snapshot.accounts[ObjectId(file.rpartition("/")[2].removesuffix(".toml"))]


def _files(files: Mapping[str, bytes], snapshot: Snapshot, places: SecretFiles) -> Iterator[Problem]:
    """Files of the node that the tree names, and that cannot be read here."""
    for file, content, path, name in _named_files(files, snapshot):
        if places.why_not_named(name):
            continue  # said without the environment
        try:
            credential = file != "relay.toml"
            found = places.locate_credential(name, snapshot.relay.state.password_file) if credential else None
            wrong = _unreadable(found or places.locate(name))
        except ValueError as error:
            wrong = str(error)
        if wrong:
            yield _document(file, content).problem("E-ENV-FILE", path, f"{dotted(path)}: {wrong}")


def _unreadable(name: Path) -> str:
    """Whether a file is there, is one, holds something and lets us read it. It is opened, not only looked at."""
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
    return f"{name}: {wrong}" if wrong else ""


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
