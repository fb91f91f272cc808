"""Tree edits: a change that somebody wants, what it would come to, and its writing.

Rule: what was looked at is what is written, byte for byte; if one of its files has another content by then, nothing is.
An edit may leave errors alone that were there before, and brings no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import attrs

from relayd.config.compile import compile_tree
from relayd.config.edit.patch import patch, shown_diff
from relayd.config.edit.write import EditPlan, Files, edit_tree
from relayd.config.model.tree_digest import tree_digest
from relayd.config.problems.problem import Problem, is_error
from relayd.noun import noun


class Moved(Exception):
    """A file is no longer what the edit was made from. The text names the files."""


@noun(kw_only=True)
class TreeEdit:
    """A change that somebody wants.

    Args:
        what: a word for the audit trail, such as "key.rotate".
        subject: what it is done to.
        message: of the commit.
        command: that does the same; "" where there is none but an editor.
    """

    what: str
    subject: str
    message: str
    command: str
    plan: EditPlan = attrs.field(repr=False)


@noun(kw_only=True)
class EditDraft:
    """What an edit would come to.

    Args:
        before, after: the files that change, by path; None for one that is not there.
        diff: for people.
        problems: of the tree as it would be: its errors, and what else is said of the files that change.
        brings: whether there would be more errors than there are.
    """

    edit: TreeEdit
    before: Mapping[str, bytes | None] = attrs.field(repr=False)
    after: Mapping[str, bytes | None] = attrs.field(repr=False)
    diff: str = attrs.field(repr=False)
    problems: tuple[Problem, ...] = ()
    brings: bool = False

    def patch(self, folder: str) -> tuple[str, str]:
        """For `git apply`: see patch.py."""
        return patch(self.before, self.after, folder)

    @property
    def digest(self) -> str:
        """SHA-256 over the files that change, each as it was read."""
        found = hashlib.sha256()
        for path, old in sorted(self.before.items()):
            found.update(path.encode("utf-8", "surrogateescape") + b"\0")
            found.update(b"-" if old is None else hashlib.sha256(old).digest())
        return found.hexdigest()


def draft(edit: TreeEdit, files: Files) -> EditDraft:
    """What an edit of these files would come to. Raises: whatever its plan raises."""
    after = {path: new for path, new in edit.plan(files).items() if new != files.get(path)}
    found = compile_tree(_with(files, after)).problems
    errors = sum(is_error(problem) for problem in found)
    brings = errors > sum(is_error(problem) for problem in compile_tree(files).problems) if errors else False
    shown = tuple(one for one in found if is_error(one) or (one.severity == "warning" and one.file in after))
    before = {path: files.get(path) for path in after}
    return EditDraft(
        edit=edit, before=before, after=after, diff=shown_diff(before, after), problems=shown, brings=brings
    )


def write_draft(root: Path, wanted: EditDraft) -> str:
    """Write what was looked at. Returns the digest of the tree that this makes.

    Raises: Moved; WriteError.
    """
    digest = ""

    def plan(files: Files) -> Mapping[str, bytes | None]:
        nonlocal digest
        refuse_moved(files, wanted.before, "; nothing was written")
        digest = tree_digest(_with(files, wanted.after))
        return wanted.after

    edit_tree(root, plan, tolerate=True)
    return digest


def undo_draft(root: Path, written: EditDraft) -> None:
    """Take back what was written, where nobody has changed it since. Raises: Moved; WriteError."""

    def plan(files: Files) -> Mapping[str, bytes | None]:
        refuse_moved(files, written.after)
        return written.before

    edit_tree(root, plan, force=True)


def refuse_moved(files: Files, expected: Mapping[str, bytes | None], so: str = "") -> None:
    """Raises: Moved when a file is not as expected. `so`: what came of it, for people."""
    moved = sorted(path for path, content in expected.items() if files.get(path) != content)
    if moved:
        raise Moved(f"{', '.join(moved)}: changed by somebody else meanwhile{so}")


def _with(files: Files, changes: Mapping[str, bytes | None]) -> dict[str, bytes]:
    return {path: new for path, new in {**files, **changes}.items() if new is not None}
