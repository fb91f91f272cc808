"""`relayd serve-git`: a bare repository on a node, whose hooks are the gate: what is pushed to it is checked, put in
place and reported on in the pusher's terminal.

Rule: running it again repairs what it made and touches nothing else; a hook that is not ours is never overwritten. Each
hook starts this very relayd with fixed words: nothing that is pushed reaches a shell.
"""

from __future__ import annotations

import argparse
import getpass
import os
import shlex
import socket
from pathlib import Path

from relayd.cli.control_client import add_control_path
from relayd.cli.git_place import MARK, GitPlace
from relayd.cli.output import add_json, print_json
from relayd.cli.tree import Stop, add_directory, guarded
from relayd.config.atomic import replace_file
from relayd.config.source.git import GitError, run_git
from relayd.config.source.pushed import Objects
from relayd.config.source.version_link import NotALink
from relayd.config.source.versions import stage

HOOKS = ("pre-receive", "post-receive")
BRANCH = "main"
MAX_PUSH = 64 << 20  # bytes of a pack; a tree has at most 64 MiB, and packed it is a fraction

# What makes the repository strict. Source: git-config(1).
SETTINGS = {
    "core.bare": "true",
    "core.bigFileThreshold": "2m",  # a blob that no tree may hold is never in memory whole
    "core.logAllRefUpdates": "true",  # who moved a branch, and when
    "receive.advertisePushOptions": "true",
    "receive.denyDeletes": "true",
    "receive.denyNonFastForwards": "true",
    "receive.fsckObjects": "true",
    "receive.maxInputSize": str(MAX_PUSH),
    "receive.unpackLimit": "1",  # packs stay packs: ten thousand small files are slow to read
    "transfer.fsckObjects": "true",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    parser.add_argument(
        "--bare", metavar="PATH", type=Path, help="the repository to push to (default: the tree's path with .git)"
    )
    parser.add_argument(
        "--branch", metavar="NAME", help=f"the branch that runs here (default: as it is, {BRANCH} in a new repository)"
    )
    parser.add_argument(
        "--folder", metavar="PATH", default="", help="where the tree lies in the repository (default: at its top)"
    )
    add_control_path(parser)
    parser.add_argument("--deny-warnings", action="store_true", help="refuse a push that has warnings, too")
    add_json(parser)
    parser.epilog = "exit status: 0 it is ready, 1 it could not be made"


def main(args: argparse.Namespace) -> int:
    os.umask(0o022)  # the daemon may be another user, and no secret is here in clear
    place = place_of(args)
    return guarded("serve-git", lambda args: serve(args, place), args)


def place_of(args: argparse.Namespace) -> GitPlace:
    """The paths as hooks need them: whole, with the tree's own link in them."""
    tree = Path(os.path.abspath(args.directory or args.config))
    bare = Path(os.path.abspath(args.bare)) if args.bare else tree.with_name(f"{tree.name}.git")
    control = os.path.abspath(args.control) if args.control else ""
    folder = os.path.normpath(args.folder).strip("/") if args.folder.strip("./") else ""
    return GitPlace(bare=bare, tree=tree, folder=folder, control=control, deny_warnings=args.deny_warnings)


def serve(args: argparse.Namespace, place: GitPlace) -> int:
    """Make or mend the repository, its hooks and the tree. Raises: Stop; OSError."""
    try:
        place.versions.current()
        made = make_repository(place.bare, args.branch)
        place.versions.home.mkdir(exist_ok=True)
        write_hooks(place)
        branch = place.branch()
        mended = put_tip_in_place(place, branch)
    except (GitError, NotALink) as error:
        raise Stop(str(error)) from None
    about = {"bare": str(place.bare), "tree": str(place.tree), "branch": branch, "made": made, "in_place": mended}
    if args.json:
        print_json(about)
    else:
        print(farewell(place, branch, made, mended))
    return 0


def make_repository(bare: Path, branch: str | None) -> bool:
    """A bare repository with our settings; whether it is new. Raises: GitError; Stop."""
    new = not bare.exists() or not any(bare.iterdir())
    if new:
        run_git(".", "init", "--quiet", "--bare", f"--initial-branch={branch or BRANCH}", str(bare))
    elif not (bare / "HEAD").is_file() or run_git(bare, "rev-parse", "--is-bare-repository").strip() != b"true":
        raise Stop(f"{bare}: not a bare repository (another place: --bare PATH)")
    elif branch:
        run_git(bare, "symbolic-ref", "HEAD", f"refs/heads/{branch}")
    for name, value in {**SETTINGS, "core.hooksPath": str(bare / "hooks")}.items():
        run_git(bare, "config", name, value)
    return new


def write_hooks(place: GitPlace) -> None:
    """The hooks, executable. Raises: Stop for one that is not ours; OSError."""
    folder = place.bare / "hooks"
    folder.mkdir(exist_ok=True)
    for name in HOOKS:
        path = folder / name
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
            raise Stop(f"{path}: there is a hook of your own (move it away; serve-git needs this one)")
        replace_file(path, place.hook(name).encode(), mode=0o755)


def put_tip_in_place(place: GitPlace, branch: str) -> str:
    """The commit that is in place in the end, the branch's tip; "" where there is none. Raises: GitError; OSError."""
    objects, versions = Objects(root=place.bare, folder=place.folder), place.versions
    tip = objects.commit(f"refs/heads/{branch}")
    if tip and versions.current() != tip:
        stage(versions, objects.listing(tip), objects.contents, None)
        versions.put_in_place(tip)
    return tip


def farewell(place: GitPlace, branch: str, made: bool, commit: str) -> str:
    """What there is, and what to do next."""
    where = f"ssh://{_user()}@{socket.gethostname()}{place.bare}"
    first = f"{place.tree} is at commit {commit[:12]}." if commit else f"{place.tree} appears with the first push."
    return f"""\
{"Made" if made else "Checked"} {place.bare}: what is pushed to its branch {branch} runs here. {first}

On the laptop, in the tree's repository:

  git remote add node {shlex.quote(where)}
  git push node HEAD:{branch}

The daemon reads the tree at its own path, which is a link that changes with each push:

  relayd run --config {shlex.quote(str(place.tree))}"""


def _user() -> str:
    """Our own name; a container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "USER"
