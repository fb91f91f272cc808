"""relayd backup: tree, state, stored configs and journal of a node in one file sealed to its recipients.

Rule: a daemon may run meanwhile and is not disturbed; the tree need not compile. The file is there whole or not at
all.

Theory: the journal is copied before the state. A settlement that is replayed in between is then in both, and is known
by its id; the other way about it could be in neither.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from relayd import __version__
from relayd.cli import add_config
from relayd.cli.archive import BUNDLE, NODE, STATE, TREE, ArchiveManifest, listed, write_archive
from relayd.cli.output import add_json, counted, moment, print_result, say
from relayd.cli.store import add_state, store_of
from relayd.cli.tree import Stop, guarded, now, require_tree
from relayd.config.atomic import sync_directory
from relayd.config.edit.write import Files
from relayd.config.model.tree_digest import tree_digest
from relayd.config.secrets.recipients import PublicKey, active_keys
from relayd.config.secrets.sealed_fields import realm_of, recipients_of, relay_table
from relayd.config.secrets.sealed_stream import StreamHead
from relayd.config.snapshot import State
from relayd.config.source.git import GitError, run_git
from relayd.config.source.git_state import find_git, place_in_repository
from relayd.config.source.tree import Reading, read_tree
from relayd.core.checkup import mebibytes
from relayd.daemon.paths import own_directory, state_directory, state_file
from relayd.state.contract import StoreMisfit, StoreUnavailable

if TYPE_CHECKING:
    from relayd.state.redis import RedisStore

GENERATIONS = "generations"
FOLDERS = ("journal", GENERATIONS)
LETTERS = "dead-letters.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="where to write the backup")
    add_config(parser)
    add_state(parser)
    add_json(parser)
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def main(args: argparse.Namespace) -> int:
    return guarded("backup", back_up, args)


def back_up(args: argparse.Namespace) -> int:
    """Make the backup. Raises: Stop, SealError, OSError."""
    require_tree(args.config)
    if args.file.exists() and not args.force:
        raise Stop(f"{args.file} exists already (--force replaces it)")
    reading = read_tree(args.config)
    recipients = recipients_or_stop(reading.files)
    with tempfile.TemporaryDirectory(prefix=".relayd-backup-", dir=args.file.absolute().parent) as name:
        manifest = _gathered(args, reading, Path(name) / "files")
        place = Path(name) / "sealed"
        _write(place, Path(name) / "files", manifest, recipients)
        os.replace(place, args.file)
    sync_directory(args.file.absolute().parent)
    told = {**attrs.asdict(manifest), "file": args.file, "size": args.file.stat().st_size}
    if not args.json:
        size, whom = mebibytes(args.file.stat().st_size), counted(len(recipients), "recipient")
        what = f"{counted(len(manifest.files), 'file')}, {size}, for {whom}"
        say(f"wrote {args.file}: {what}; `relayd restore --dry-run {args.file}` verifies it")
    return print_result(args, told)


def recipients_or_stop(files: Files) -> list[PublicKey]:
    """Whom a backup is for. Raises: Stop when there is nobody; SealError."""
    found = active_keys(recipients_of(files))
    if not found:
        raise Stop("relay.toml: secrets.recipients: there is no active recipient to seal for (`relayd secret keygen`)")
    return found


def _write(place: Path, folder: Path, manifest: ArchiveManifest, recipients: list[PublicKey]) -> None:
    head = StreamHead(realm=manifest.realm, id=secrets.token_hex(16), created=manifest.created)
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as out:
        write_archive(out, folder, manifest, head, recipients, os.urandom)
        out.flush()
        os.fsync(out.fileno())


def _gathered(args: argparse.Namespace, reading: Reading, folder: Path) -> ArchiveManifest:
    """All that goes into the backup, in a folder."""
    files, realm = reading.files, realm_of(reading.files)
    write_files(folder / TREE, files)
    branch, commit = _bundle(args.config, folder / BUNDLE)
    settings = state_settings(files)
    own = state_directory(args.state or settings.url, args.config, own_directory(os.environ))
    _copy_node(own, folder / NODE)
    kind = _copy_state(args, realm, settings, folder / STATE)
    return ArchiveManifest(
        relayd=__version__,
        realm=realm,
        created=moment(now()),
        store=kind,
        tables=_tables(folder / STATE) if kind else 0,
        digest=tree_digest(files, reading.problems),
        commit=commit,
        branch=branch,
        files=listed(folder),
    )


def state_settings(files: Files) -> State:
    """`[state]` as far as a store is found by it, also of a tree that does not compile."""
    table = relay_table(files).get("state")
    known, usual = table if isinstance(table, dict) else {}, State()
    return State(
        url=str(known.get("url", usual.url)), password_file=str(known.get("password_file", usual.password_file))
    )


def write_files(folder: Path, files: Files) -> None:
    """Files by their paths below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _bundle(root: Path, target: Path) -> tuple[str, str]:
    """The history of a tree that is the top of a repository, as a git bundle. Returns branch and commit; "" without."""
    top = os.path.realpath(root)
    if not find_git(top) or place_in_repository(top):
        return "", ""
    try:
        branch = run_git(root, "symbolic-ref", "--short", "HEAD").decode().strip()
        target.parent.mkdir(parents=True, exist_ok=True)
        run_git(root, "bundle", "create", "-q", str(target.absolute()), "--branches", "--tags")
        return branch, run_git(root, "rev-parse", "HEAD").decode().strip()
    except GitError as error:
        say(f"note: the history of the tree is not in the backup: {error}")
        target.unlink(missing_ok=True)
        return "", ""


def _copy_node(own: Path, folder: Path) -> None:
    """What is this node's own: journal, stored configs, letters that no store takes."""
    names = [path for part in FOLDERS for path in sorted((own / part).glob("*")) if path.is_file()]
    for path in [*names, own / LETTERS]:
        if path.name.startswith(".") or path.is_symlink():
            continue
        target = folder / path.relative_to(own)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, target)
        except FileNotFoundError:  # replayed, or forgotten, just now
            target.unlink(missing_ok=True)


def _copy_state(args: argparse.Namespace, realm: str, settings: State, target: Path) -> str:
    """The state as a file of tables. Returns the kind of its store; "" where there is none yet."""
    url = args.state or settings.url
    path = state_file(url, args.config)
    if url.startswith("sqlite:"):
        if path is None or not path.exists():
            say(f"note: {path or url}: there is no state yet, so none is in the backup")
            return ""
        from relayd.state.sqlite_copy import copy_file

        copy_file(path, target)
        return "sqlite"
    from relayd.state.redis_copy import read_realm
    from relayd.state.sqlite_copy import write_rows

    with opened_redis(args, realm, settings) as store:
        try:
            write_rows(target, read_realm(store))
        except (StoreUnavailable, StoreMisfit) as error:
            raise Stop(f"{error} (is the store up, and may this user SCAN? {url.partition('?')[0]})") from None
    return "redis"


@contextmanager
def opened_redis(args: argparse.Namespace, realm: str, settings: State) -> Iterator[RedisStore]:
    """The Redis of a tree. Raises: Stop."""
    from relayd.state.redis import RedisStore

    try:
        store = store_of(args, realm, settings)
        assert isinstance(store, RedisStore), store.name
        store.check()
    except (StoreUnavailable, StoreMisfit, ValueError) as error:
        raise Stop(str(error)) from None
    with closing(store):
        yield store


def _tables(path: Path) -> int:
    from relayd.state.sqlite_file import inspect_file

    version, wrong = inspect_file(str(path))
    if wrong:
        raise Stop(f"the state is damaged and cannot be backed up: {wrong}")
    return version
