"""relayd restore: put a backup back, or tell what that would do.

Rule: the whole backup is opened and verified before anything is written. Nothing is overwritten without --force, and
what --force replaces on disk is moved aside first, not deleted. Never under a daemon that runs on it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from relayd.cli.archive import BUNDLE, NODE, STATE, TREE, ArchiveManifest, head_of, read_archive
from relayd.cli.backup import GENERATIONS, opened_redis, state_settings, write_files
from relayd.cli.control_client import DaemonRefused, DaemonSilent, NoDaemon, add_control, ask
from relayd.cli.output import counted, print_json, say
from relayd.cli.store import add_state
from relayd.cli.tree import FAILED, Stop, add_identity, guarded, now
from relayd.cli.verdict import QUICK, same_directory
from relayd.config.atomic import sync_directory
from relayd.config.edit.write import Files
from relayd.config.model.tree_digest import tree_digest
from relayd.config.secrets.identity import identity_paths, load_identities
from relayd.config.source.git import GitError, run_git
from relayd.config.source.git_state import find_git
from relayd.config.source.tree import read_tree
from relayd.daemon.paths import own_directory, state_directory, state_file
from relayd.noun import noun
from relayd.state.contract import NodeList, Nodes, StoreMisfit, StoreUnavailable

PARTS = ("tree", "state")


@noun(kw_only=True)
class RestoreStep:
    """What restoring does to one part.

    Args:
        part: "tree", "state" or "node".
        conflict: what is in the way of it; "" for nothing.
    """

    part: str
    text: str
    conflict: str = ""


@noun(kw_only=True)
class Unpacked:
    """A backup that was verified, and where it goes.

    Args:
        folder: of its files.
        own: the directory of what is the node's own.
        database: the file that the state becomes; None for Redis.
    """

    folder: Path
    manifest: ArchiveManifest
    files: Files = attrs.field(repr=False)
    own: Path
    database: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a backup")
    add_control(parser)
    add_state(parser)
    add_identity(parser)
    parser.add_argument("--only", choices=PARTS, help="restore the tree alone, or the state and its journal")
    parser.add_argument("--dry-run", action="store_true", help="verify the backup, and say what would be done")
    parser.add_argument("--force", action="store_true", help="replace what is there; files are moved aside first")


def main(args: argparse.Namespace) -> int:
    return guarded("restore", restore, args)


def restore(args: argparse.Namespace) -> int:
    """Verify, plan, and carry out. Raises: Stop, SealError, OSError."""
    room = _nearest(args.config.absolute())
    with tempfile.TemporaryDirectory(prefix=".relayd-restore-", dir=room) as name:
        found = _opened(args, Path(name))
        steps = list(_plan(args, found))
        conflicts = [step.conflict for step in steps if step.conflict]
        refused = bool(conflicts) and not args.force
        if not (refused or args.dry_run):
            _carry_out(args, found, steps)
        _tell(args, found, steps, done=not (refused or args.dry_run))
    return FAILED if refused else 0


def _tell(args: argparse.Namespace, found: Unpacked, steps: list[RestoreStep], *, done: bool) -> None:
    conflicts = [step.conflict for step in steps if step.conflict]
    if args.json:
        told: dict[str, Any] = {**attrs.asdict(found.manifest), "file": args.file, "done": done}
        print_json({**told, "steps": [attrs.asdict(step) for step in steps]})
        return
    made = f"realm {found.manifest.realm}, made {found.manifest.created} by relayd {found.manifest.relayd}"
    say(f"{args.file}: whole; {counted(len(found.manifest.files), 'file')}, {made}")
    for step in steps:
        print(f"{'' if done else 'would: '}{step.text}" + (f" [in the way: {step.conflict}]" if step.conflict else ""))
    if conflicts and not args.force:
        say("nothing was written: --force replaces what is in the way, moving files aside")


# -- opening ---------------------------------------------------------------------------------------------------------


def _opened(args: argparse.Namespace, folder: Path) -> Unpacked:
    with args.file.open("rb") as file:
        paths = identity_paths(args.identity, os.environ, head_of(file).realm)
        manifest = read_archive(file, load_identities(paths, args.config, os.environ), folder)
    _check_state(manifest, folder / STATE)
    files = read_tree(folder / TREE).files if (folder / TREE).is_dir() else {}
    settings = state_settings(files)
    url = args.state or settings.url
    own, database = state_directory(url, args.config, own_directory(os.environ)), state_file(url, args.config)
    if database is None and url.startswith("sqlite:") and args.only != "tree":
        raise Stop(f"{url}: a state in memory cannot be restored (--state URL, or --only tree)")
    return Unpacked(folder=folder, manifest=manifest, files=files, own=own, database=database)


def _check_state(manifest: ArchiveManifest, path: Path) -> None:
    """Raises: Stop for a state that is damaged, or of a newer relayd."""
    if STATE not in manifest.names:
        return
    from relayd.state.sqlite_copy import bring_up_to_date

    try:
        bring_up_to_date(path)
    except StoreMisfit:
        raise Stop(f"the state has tables of relayd {manifest.relayd}, which is newer (update relayd)") from None
    except OSError as error:
        raise Stop(f"the state in the backup cannot be used: {error.strerror}") from None


def _nearest(place: Path) -> Path:
    """The directory, or the nearest one above it that exists and is not the tree: what is unpacked is no config."""
    place = place.parent
    while not place.exists():
        place = place.parent
    return place


# -- planning --------------------------------------------------------------------------------------------------------


def _plan(args: argparse.Namespace, found: Unpacked) -> Iterator[RestoreStep]:
    _refuse_running(args)
    if args.only != "state":
        yield _tree_step(args.config, found)
    if args.only != "tree":
        if STATE in found.manifest.names:
            yield _file_step(found.database) if found.database is not None else _redis_step(args, found)
        if node := _of_node(args, found):
            there = [name for name in node if _holds(found.own / name)]
            conflict = f"{found.own}: {', '.join(there)}" if there else ""
            yield RestoreStep(part="node", text=f"write {', '.join(node)} into {found.own}", conflict=conflict)


def _of_node(args: argparse.Namespace, found: Unpacked) -> list[str]:
    """What is restored of the node's own. Stored configs belong to the tree: an old one would let old keys in again."""
    names = sorted({name.split("/")[1] for name in found.manifest.names if name.startswith(f"{NODE}/")})
    return [name for name in names if args.only != "state" or name != GENERATIONS]


def _refuse_running(args: argparse.Namespace) -> None:
    """Raises: Stop when a daemon runs on this tree, or may."""
    try:
        theirs = ask(args, verb="tree", patience=QUICK)["tree"]
    except DaemonSilent as error:
        raise Stop(f"a daemon may be running on it: {error} (stop it first)") from None
    except NoDaemon:
        return
    except DaemonRefused:
        theirs = ""
    if not theirs or same_directory(theirs, args.config):
        raise Stop(f"a daemon runs on {theirs or args.config} (stop it first: systemctl stop relayd)")


def _tree_step(root: Path, found: Unpacked) -> RestoreStep:
    history = f" with its history (branch {found.manifest.branch})" if BUNDLE in found.manifest.names else ""
    text = f"write {counted(len(found.files), 'file')} of the tree into {root}"
    reading = read_tree(root) if root.is_dir() else None
    if reading is None or not reading.files:
        return RestoreStep(part="tree", text=text + (history if not find_git(os.path.realpath(root)) else ""))
    if tree_digest(reading.files, reading.problems) == found.manifest.digest:
        return RestoreStep(part="tree", text=f"leave {root} as it is: it is the tree of the backup")
    changed = sum(reading.files.get(name) != data for name, data in found.files.items())
    changed += len(reading.files.keys() - found.files.keys())
    return RestoreStep(part="tree", text=text, conflict=f"a tree that differs in {counted(changed, 'file')}")


def _file_step(path: Path) -> RestoreStep:
    return RestoreStep(
        part="state", text=f"write the state to {path}", conflict="a state is there" if path.exists() else ""
    )


def _redis_step(args: argparse.Namespace, found: Unpacked) -> RestoreStep:
    from relayd.state.redis_copy import keys_of

    with opened_redis(args, found.manifest.realm, state_settings(found.files)) as store:
        try:
            keys = sum(map(len, keys_of(store)))
            (answer,) = store.apply([Nodes()])
        except (StoreUnavailable, StoreMisfit) as error:
            raise Stop(f"{error} (is the store up, and may this user SCAN?)") from None
        nodes = [one.node for one in answer.nodes] if isinstance(answer, NodeList) else []
        if nodes and not args.force:
            raise Stop(
                f"{store.name}: used by {', '.join(nodes)} within the last minutes (stop them first, or --force)"
            )
        conflict = f"{counted(keys, 'key')} of the realm, which would be deleted" if keys else ""
        text = f"write the state into {store.name}, realm {found.manifest.realm}"
    return RestoreStep(part="state", text=text, conflict=conflict)


def _holds(place: Path) -> bool:
    return any(place.iterdir()) if place.is_dir() else place.exists()


# -- carrying out ----------------------------------------------------------------------------------------------------


def _carry_out(args: argparse.Namespace, found: Unpacked, steps: list[RestoreStep]) -> None:
    aside = f".before-restore-{now().strftime('%Y%m%dT%H%M%SZ')}"
    for step in steps:
        match step.part:
            case "tree" if not step.text.startswith("leave"):
                _put_tree(args.config, found, aside)
            case "state" if found.database is not None:
                _put_file(found.folder / STATE, found.database, aside)
            case "state":
                _put_redis(args, found)
            case "node":
                _put_node(found.folder / NODE, found.own, _of_node(args, found), aside)


def _put_tree(root: Path, found: Unpacked, aside: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    old = read_tree(root).files
    if old:
        kept = root.with_name(root.absolute().name + aside)
        write_files(kept, old)
        say(f"the old tree is in {kept}")
        for name in old.keys() - found.files.keys():
            (root / name).unlink(missing_ok=True)
    elif BUNDLE in found.manifest.names and not find_git(os.path.realpath(root)):
        _put_history(root, found.folder / BUNDLE, found.manifest)
    write_files(root, found.files)


def _put_history(root: Path, bundle: Path, manifest: ArchiveManifest) -> None:
    """Make a repository of a bundle; its remotes are not in it. Without git the tree has to do without."""
    try:
        run_git(root, "init", "-q", "-b", manifest.branch)
        allowed = ("-c", "protocol.file.allow=always")
        refs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        run_git(root, *allowed, "fetch", "-q", "--update-head-ok", str(bundle.absolute()), *refs)
        run_git(root, "reset", "-q", "--hard", manifest.commit)
    except GitError as error:
        say(f"note: the history of the tree is not restored: {error}")


def _put_file(source: Path, target: Path, aside: str) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if target.exists():
        say(f"the old state is in {target}{aside}")
    for suffix in ("-wal", "-shm", ""):  # the WAL goes with its database, under its database's name
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{target}{suffix}", f"{target}{aside}{suffix}")
    staged = target.with_name(f".{target.name}{aside}")
    shutil.copyfile(source, staged)
    staged.chmod(0o600)
    os.replace(staged, target)
    sync_directory(target.parent)


def _put_redis(args: argparse.Namespace, found: Unpacked) -> None:
    from relayd.state.redis_copy import delete_realm, write_realm
    from relayd.state.sqlite_copy import read_rows

    with opened_redis(args, found.manifest.realm, state_settings(found.files)) as store:
        try:
            delete_realm(store)
            write_realm(store, read_rows(found.folder / STATE))
        except (StoreUnavailable, StoreMisfit) as error:
            raise Stop(f"{error} (the realm is half written: run it again with --force)") from None


def _put_node(source: Path, own: Path, names: list[str], aside: str) -> None:
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names:
        if _holds(own / name):
            os.replace(own / name, own / f"{name}{aside}")
            say(f"the old {name} is in {own / name}{aside}")
        if (source / name).is_dir():
            shutil.copytree(source / name, own / name, dirs_exist_ok=True)
            (own / name).chmod(0o700)
        else:
            shutil.copyfile(source / name, own / name)
        for path in (own / name).rglob("*") if (own / name).is_dir() else [own / name]:
            path.chmod(0o600)
