"""The tree behind the edits of pages: read it, write a draft into it and commit that, or say why that cannot be.

Rule: sync, for a worker thread; each function is one piece of work that nobody can break off in the middle. A commit
that fails takes back what was written.
"""

from __future__ import annotations

from pathlib import Path

from relayd.config.edit.commit import Author, commit_paths, push, why_not_committed
from relayd.config.edit.tree_edit import EditDraft, Moved, TreeEdit, draft, refuse_moved, undo_draft, write_draft
from relayd.config.edit.write import WriteError
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import Account
from relayd.config.source.git import GitError, run_git
from relayd.config.source.git_state import place_in_repository
from relayd.config.source.tree import Unstable, read_tree
from relayd.daemon.reload.candidate import Reader
from relayd.noun import noun
from relayd.wire.refusal import Refusal


@noun(kw_only=True)
class WrittenEdit:
    """What came of writing a draft.

    Args:
        digest: of the tree with the edit; "" when nothing was written.
        commit: its full name.
        why: why nothing was written.
    """

    digest: str = ""
    commit: str = ""
    why: str = ""


@noun(kw_only=True, eq=False)
class EditedTree:
    """The tree of this node.

    Args:
        pulled: where it comes from, for people; "" for a directory.
        folder: where it lies in what it is pulled from, as "config/".
    """

    reader: Reader
    pulled: str = ""
    folder: str = ""

    @property
    def root(self) -> Path:
        """The directory, where it is one."""
        return self.reader.tree

    def files(self) -> dict[str, bytes]:
        """The files as they are. Raises: Refusal 503."""
        if not self.pulled:
            return read_tree(self.root).files
        tree = self.reader.read()
        if isinstance(tree, Unstable):
            raise Refusal(status=503, message=tree.reason, code="tree")
        return tree.files

    def draft(self, edit: TreeEdit) -> tuple[EditDraft, str]:
        """What an edit would come to, and why it cannot be written here ("" when it can)."""
        found = draft(edit, self.files())
        return found, self.why_not(found)

    def why_not(self, wanted: EditDraft) -> str:
        """Why a draft cannot be written and committed here; "" when it can."""
        if self.pulled:
            return f"the tree is pulled from {self.pulled}"
        return why_not_committed(self.root, sorted(wanted.after))

    def patch(self, wanted: EditDraft) -> tuple[str, str]:
        """A patch from the top of the repository, and the command for it."""
        return wanted.patch(self.folder if self.pulled else place_in_repository(str(self.root.resolve())))

    def write(self, wanted: EditDraft, author: Author) -> WrittenEdit:
        """Write a draft and commit it. Raises: Moved."""
        if why := self.why_not(wanted):
            refuse_moved(self.files(), wanted.before, "; nothing was written")  # by a change not committed: a conflict
            return WrittenEdit(why=why)
        try:
            digest = write_draft(self.root, wanted)
        except WriteError as error:
            return WrittenEdit(why=str(error))
        try:
            commit = commit_paths(self.root, sorted(wanted.after), wanted.edit.message, author)
        except GitError as error:
            return WrittenEdit(why=f"git: {error}{self._undone(wanted)}")
        return WrittenEdit(digest=digest, commit=commit)

    def credential_since(self, account: Account) -> float | None:
        """Since when an account's file has the credential that it has, Unix time, s: the commit that changed the line,
        else the file's own time. None where neither can be told."""
        if self.pulled or not ACCOUNT_KINDS[account.kind].has_credential:
            return None
        path = next((one for one in self.root.glob(f"accounts.d/**/{account.id}.toml") if one.is_file()), None)
        if path is None:
            return None
        place = str(path.relative_to(self.root))
        try:
            if not run_git(self.root, "status", "--porcelain", "--", place):
                line = r"^\s*(sealed|file|credential)\b"
                return float(run_git(self.root, "log", "-1", "--format=%ct", "-G", line, "--", place))
        except (GitError, OSError, ValueError):  # also where no commit has the line
            pass
        return _changed(path)

    def push(self, remote: str) -> str:
        """Push; what went wrong, "" for nothing."""
        return push(self.root, remote)

    def _undone(self, written: EditDraft) -> str:
        try:
            undo_draft(self.root, written)
        except (Moved, WriteError) as error:
            return f"; what was written could not be taken back: {error}"
        return "; what was written was taken back"


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
