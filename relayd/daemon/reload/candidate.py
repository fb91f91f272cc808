"""Candidate: a tree that was read and may become the running config, from its bytes to what they would change.

Rule: sync, in a worker thread, and without effect on anything but its own memory: what is known of each file (`Memo`)
and of the last reading.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from relayd.config.changes import Changes
from relayd.config.compile import Compiled, Memo, compile_tree, deny_of
from relayd.config.diff import diff, model_digest
from relayd.config.guard import held, taken_out
from relayd.config.problems.problem import Problem, is_error
from relayd.config.snapshot import Deny, Snapshot
from relayd.config.source.tree import FileCache, Tree, Unstable, read_coherent, signature
from relayd.core.transition import acts_now
from relayd.daemon.accounts.credentials import Credentials
from relayd.noun import noun

LARGEST_DENY = 1 << 20  # bytes; no file of a tree is larger


class Reader(Protocol):
    """Reads the tree of a node, wherever it comes from."""

    @property
    def tree(self) -> Path:
        """The directory from which this node's relative places count."""
        ...

    @property
    def wall(self) -> Callable[[], float]:
        """Unix time, s."""
        ...

    def read(self, thorough: bool = False) -> Tree | Unstable:
        """The tree as it was at one moment. `thorough`: trust nothing that was known before."""
        ...

    def sign(self) -> object:
        """Equal while nothing has changed."""
        ...

    def deny_file(self) -> bytes:
        """deny.toml, though the tree may not hold still. Raises: FileNotFoundError for none; OSError."""
        ...


@noun(kw_only=True)
class TreeReader:
    """Reads one tree: the daemon and its start have it in common.

    Args:
        wall: Unix time, s.
        patience: s to wait for the tree to hold still.
        quiet: s that it has to have been left alone.
    """

    tree: Path
    wall: Callable[[], float]
    patience: float
    quiet: float
    cache: FileCache = attrs.field(factory=FileCache)

    def read(self, thorough: bool = False) -> Tree | Unstable:
        """A coherent reading; `thorough` trusts no file time."""
        if thorough:
            self.cache.files = {}
        deadline = self.wall() + self.patience
        return read_coherent(
            self.tree, quiet=self.quiet, wall=self.wall, sleep=time.sleep, deadline=deadline, cache=self.cache
        )

    def sign(self) -> object:
        """The stat signature: equal while nothing was touched."""
        return signature(self.tree)

    def deny_file(self) -> bytes:
        """deny.toml as it lies there. Raises: FileNotFoundError; OSError."""
        root = self.tree.resolve()
        path = (root / "deny.toml").resolve()
        if not path.is_relative_to(root):
            raise OSError("a link that leads out of the tree")
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            return file.read(LARGEST_DENY)


@noun(kw_only=True)
class Inspection:
    """What a reading of the tree showed.

    Args:
        compiled: None when the tree has the digest that was known before.
        deny: deny.toml alone; None when it cannot be understood, for the reason `deny_problem`.
        changes: against the running config; None when the tree does not compile.
        held: the guard's reasons.
        model: digest of what it means; "" when it does not compile.
        seconds: what each phase took.
    """

    tree: Tree
    compiled: Compiled | None = None
    deny: Deny | None = None
    deny_problem: str = ""
    changes: Changes | None = None
    held: tuple[str, ...] = ()
    model: str = ""
    seconds: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def snapshot(self) -> Snapshot | None:
        """The tree as a config."""
        return self.compiled.snapshot if self.compiled is not None else None

    @property
    def acts(self) -> bool:
        """Whether there is anything to swap. What waits for a restart is not."""
        return self.changes is not None and acts_now(self.changes)

    @property
    def restart(self) -> tuple[str, ...]:
        """What only a restart would bring into force."""
        return self.changes.restart if self.changes is not None else ()


def understood_deny(files: Mapping[str, bytes], reading: Sequence[Problem] = ()) -> tuple[Deny | None, str]:
    """deny.toml, whatever is wrong with the rest of its tree; None, and why, when it cannot be obeyed.

    Args:
        reading: problems from reading the files.
    """
    deny = deny_of(files)
    unread = next((problem for problem in reading if problem.file == "deny.toml" and is_error(problem)), None)
    if isinstance(deny, Deny):
        return (deny, "") if unread is None else (None, str(unread))
    return None, str(next(filter(is_error, deny), "deny.toml: it cannot be understood"))


@attrs.define(eq=False, kw_only=True)
class Inspector:
    """Inspects one tree, again and again.

    Args:
        clock: s, for durations.
        credentials: with which this node can say whether a secret that was sealed anew has changed.
        examined: the tree's stat signature just before the last reading; None when there is reason to look again.
        denied: deny.toml as it was last read.
        realm: one that was accepted, and takes effect with a restart; the guard does not ask for it again.
        places: what a tree names of this node and may not.
    """

    reader: Reader
    clock: Callable[[], float]
    credentials: Credentials
    places: Callable[[Mapping[str, bytes], Snapshot], Iterable[Problem]] = lambda files, snapshot: ()
    memo: Memo = attrs.field(factory=Memo)
    examined: object = None
    denied: Deny = attrs.field(factory=Deny)
    realm: str = ""
    _beside: tuple[Snapshot, Inspection] | None = attrs.field(default=None, init=False, repr=False)

    def touched(self, sign: object) -> bool:
        """Whether a stat signature is reason to read the tree."""
        return self.examined is None or sign != self.examined

    def look_again(self) -> None:
        """Whoever follows the tree by its signature has to read it, though it was read."""
        self.examined = None

    def accept(self, inspection: Inspection, *, denied: Deny) -> None:
        """The tree is what runs now, as far as it can without a restart. `denied`: what is refused now."""
        self.denied = denied
        self.realm = inspection.snapshot.relay.realm if inspection.snapshot is not None else ""

    def inspect(
        self,
        running: Snapshot,
        known: str = "",
        *,
        thorough: bool = False,
        revoked: Iterable[str] = (),
        deny_first: Callable[[Deny], None] = lambda deny: None,
    ) -> Inspection | Unstable:
        """Read the tree and compile it, unless its digest is `known`.

        Args:
            revoked: what was taken out by name; see `guard.taken_out`.
            deny_first: told of deny.toml before anything else is made of the tree: whom it refuses does not wait for
                thousands of other files.
        """
        began = self.clock()
        tree = self.reader.read(thorough)
        if isinstance(tree, Unstable):
            self.examined = None
            return tree
        self.examined = tree.signature
        if tree.digest == known:
            return Inspection(tree=tree)
        deny, why = understood_deny(tree.files, tree.problems)
        if deny is not None:
            deny_first(deny)
        return attrs.evolve(self.compile(tree, running, began, revoked), deny=deny, deny_problem=why)

    def inspect_beside(self, running: Snapshot, directory: Path) -> Inspection | Unstable:
        """What another directory than our tree holds, in which nobody writes any more."""
        assert isinstance(self.reader, TreeReader)  # what is pulled lies beside nothing: see `why_not_examined`
        tree = attrs.evolve(self.reader, tree=directory, quiet=0.0).read()
        if isinstance(tree, Unstable):
            return tree
        inspection = self.compile(tree, running)
        self._beside = running, inspection
        return inspection

    def compile(
        self, tree: Tree, running: Snapshot, began: float | None = None, revoked: Iterable[str] = ()
    ) -> Inspection:
        """What a tree means, and what it would change. Nothing is said of deny.toml alone.

        A tree that was inspected beside ours, and has come into its place since, is not compiled again.
        """
        read = self.clock()
        beside, self._beside = self._beside, None
        if beside is not None and not revoked and beside[0] is running and _same_bytes(beside[1].tree, tree):
            seconds = {"read": read - (began if began is not None else read), "compile": 0.0, "diff": 0.0}
            return attrs.evolve(beside[1], tree=tree, seconds=seconds)
        compiled = compile_tree(tree.files, memo=self.memo, reading=tree.problems)
        compiled_at = self.clock()
        seconds = {"read": read - (began if began is not None else read), "compile": compiled_at - read}
        if compiled.snapshot is None:
            return Inspection(tree=tree, compiled=compiled, seconds=seconds)
        changes = self.credentials.remark(diff(running, compiled.snapshot), running, compiled.snapshot)
        reasons = held(taken_out(self._of_realm(running), revoked), compiled.snapshot, changes, digest=tree.digest)
        model = model_digest(compiled.snapshot)
        seconds["diff"] = self.clock() - compiled_at
        return Inspection(
            tree=tree,
            compiled=compiled,
            changes=changes,
            held=reasons,
            model=model,
            seconds=seconds,
        )

    def deny_alone(self) -> tuple[Deny | None, str]:
        """deny.toml as it lies there, though its tree does not hold still: see `understood_deny`. May block."""
        try:
            return understood_deny({"deny.toml": self.reader.deny_file()})
        except FileNotFoundError:
            return Deny(), ""
        except OSError as error:
            return None, f"deny.toml: {(error.strerror or str(error)).lower()}"

    def _of_realm(self, running: Snapshot) -> Snapshot:
        """The running config, for the guard: as if an accepted realm were in force already."""
        if not self.realm:
            return running
        return attrs.evolve(running, relay=attrs.evolve(running.relay, realm=self.realm))


def _same_bytes(one: Tree, other: Tree) -> bool:
    return (one.digest, one.problems) == (other.digest, other.problems) and one.files == other.files
