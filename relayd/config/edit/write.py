"""Writing the tree: all of a change or nothing, and never over somebody else's.

Rule: a change is planned and checked under the lock, from the bytes that were read under it; a file is replaced only if
it still holds those bytes. Editors do not take the lock, so the comparison matters as much as the lock does.

Theory: each file is written beside its target, synced, and renamed over it: a reader sees the old bytes or the new
ones. Several files are first all written, then all renamed; if a rename fails, the earlier ones are undone. The lock
is an flock on the tree's directory itself, so that nothing is left behind and nothing can be committed by mistake.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from relayd.config.atomic import stage_file, sync_directory
from relayd.config.compile import MAX_PROBLEMS, compile_tree
from relayd.config.problems.problem import is_error
from relayd.config.source.tree import read_tree
from relayd.noun import noun

Files = Mapping[str, bytes]  # POSIX path in the tree: content
Check = Callable[[Files], Sequence[str]]  # what is wrong with a tree, in words; empty when it compiles
EditPlan = Callable[[Files], Mapping[str, bytes | None]]  # the files that change, with their new content; None deletes


class WriteError(Exception):
    """The tree was not changed. The text says why, with one problem a line."""


@noun
class _Staged:
    """A file about to be replaced: where its new bytes lie, None for a deletion."""

    target: Path
    temporary: Path | None
    before: bytes | None


def edit_tree(
    root: Path, plan: EditPlan, *, check: Check | None = None, force: bool = False, tolerate: bool = False
) -> tuple[str, ...]:
    """Change the tree at `root`. Returns the paths that changed.

    Args:
        plan: gets the files as they are and says which of them change.
        check: applied before and after (default: `compiles`); a tree that is not sound is not written, unless `force`.
        tolerate: leave the errors that are there alone; the change must bring no other.

    Raises: WriteError; and whatever `plan` raises: nothing is written then.
    """
    check = check or compiles
    with _locked(root):
        reading = read_tree(root)
        files = reading.files
        problems = [] if force else [*map(str, reading.problems), *check(files)]
        if problems and not tolerate:
            what = "the tree does not compile; nothing was written (repair it, or --force)"
            raise WriteError(_refusal(what, problems))
        changes = {path: new for path, new in plan(files).items() if new != files.get(path)}
        after = {path: new for path, new in {**files, **changes}.items() if new is not None}
        if changes and not force and (broken := _further(problems, check(after))):
            raise WriteError(_refusal("the change does not compile; nothing was written", broken))
        _replace(root, files, changes)
        return tuple(sorted(changes))


def compiles(files: Files) -> list[str]:
    """The errors of a tree, as `relayd check` words them."""
    return [str(problem) for problem in compile_tree(files).problems if is_error(problem)]


def _further(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The problems that were not there before, maybe in another line. Beyond the most that are shown nobody can say."""
    known = Counter(map(_placeless, before))
    found = []
    for problem in after:
        text = _placeless(problem)
        known[text] -= 1
        if known[text] < 0:
            found.append(problem)
    return found if len(before) < MAX_PROBLEMS else []


def _placeless(problem: str) -> str:
    return re.sub(r":\d+:\d+: ", ": ", problem, count=1)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        text = f"{root}: {(error.strerror or 'not a directory').lower()} (name the tree: --config DIR)"
        raise WriteError(text) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            # A file system without locks on directories (NFS: EBADF, ENOLCK): the comparison alone must do.
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP):
                raise
        yield
    finally:
        os.close(fd)  # releases the lock


def _replace(root: Path, files: Files, changes: Mapping[str, bytes | None]) -> None:
    staged: list[_Staged] = []
    done: list[_Staged] = []
    try:
        for path, new in changes.items():
            staged.append(_stage(root, path, files.get(path), new))
        for one in staged:
            _still(one, root)
            _put(one)
            done.append(one)
    except BaseException as error:
        for one in reversed(done):
            _undo(one)
        if isinstance(error, OSError):
            where = error.filename or root
            raise WriteError(f"{where}: {(error.strerror or 'cannot be written').lower()}; nothing changed") from None
        raise
    finally:
        for one in staged:
            if one.temporary is not None:
                one.temporary.unlink(missing_ok=True)
    for folder in {one.target.parent for one in staged}:
        sync_directory(folder)


def _stage(root: Path, path: str, before: bytes | None, new: bytes | None) -> _Staged:
    target = (root / path).resolve()  # a link is followed: its target is replaced, and the link stays
    if not target.is_relative_to(root.resolve()):
        raise WriteError(f"{path}: leads out of the tree (edit the file that it links to)")
    if new is None:
        return _Staged(target, None, before)
    target.parent.mkdir(parents=True, exist_ok=True)
    return _Staged(target, stage_file(target, new, like_target=True), before)


def _still(one: _Staged, root: Path) -> None:
    """Raises: WriteError when the file is no longer what the change was planned from."""
    now = one.target.read_bytes() if one.target.exists() else None
    if now != one.before:
        path = one.target.relative_to(root.resolve()).as_posix()
        raise WriteError(f"{path}: was changed by somebody else at the same time; nothing was written (try again)")


def _put(one: _Staged) -> None:
    if one.temporary is None:
        one.target.unlink()
    else:
        os.replace(one.temporary, one.target)


def _undo(one: _Staged) -> None:
    if one.before is None:
        one.target.unlink(missing_ok=True)
    else:
        os.replace(stage_file(one.target, one.before, like_target=True), one.target)


def _refusal(what: str, problems: Sequence[str]) -> str:
    return "\n".join([f"{what}:", *problems])
