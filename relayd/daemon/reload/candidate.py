"""Study: one look at the tree, from its bytes to what they would change. Runs in a worker thread.

Rule: sync, and without effect on anything but its own memory: what is known of each file (`Memo`) and of the last look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from relayd.config.compile import Compiled, Memo, compile_tree
from relayd.config.diff import Changes, diff, model_digest
from relayd.config.guard import held
from relayd.config.snapshot import Deny, Snapshot
from relayd.config.source.tree import Tree, Unstable, deny_of
from relayd.core.transition import acts_now


@attrs.frozen(kw_only=True)
class Inspection:
    """What a look at the tree showed.

    Args:
        compiled: None when the tree has the digest that was known before.
        deny: deny.toml alone; None when it cannot be understood.
        changes: against the running config; None when the tree does not compile.
        held: the guard's reasons.
        model: digest of what it means; "" when it does not compile.
        seconds: what each phase took.
    """

    tree: Tree
    compiled: Compiled | None = None
    deny: Deny | None = None
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


@attrs.define(eq=False, kw_only=True)
class Inspector:
    """Looks at one tree, again and again.

    Args:
        read: a coherent reading of the tree; with True of every byte, whatever the files' times say.
        sign: its stat signature: equal while nothing was touched.
        clock: s, for durations.
        remark: what this node can say besides of changes, given the running config and the new one.
        examined: the signature just before the last look; None when there is reason to look again.
        denied: deny.toml as the last look found it.
        realm: one that was accepted, and takes effect with a restart; the guard does not ask for it again.
    """

    read: Callable[[bool], Tree | Unstable]
    sign: Callable[[], object]
    clock: Callable[[], float]
    remark: Callable[[Changes, Snapshot, Snapshot], Changes] = lambda changes, old, new: changes
    memo: Memo = attrs.field(factory=Memo)
    examined: object = None
    denied: Deny = attrs.field(factory=Deny)
    realm: str = ""

    def look(
        self,
        running: Snapshot,
        known: str = "",
        *,
        thorough: bool = False,
        deny_first: Callable[[Deny], None] = lambda deny: None,
    ) -> Inspection | Unstable:
        """Read the tree and compile it, unless its digest is `known`.

        Args:
            deny_first: told of deny.toml before anything else is made of the tree: whom it refuses does not wait for
                thousands of other files.
        """
        began = self.clock()
        tree = self.read(thorough)
        if isinstance(tree, Unstable):
            self.examined = None
            return tree
        self.examined = tree.signature
        if tree.digest == known:
            return Inspection(tree=tree)
        deny = deny_of(tree.files)
        if isinstance(deny, Deny):
            deny_first(deny)
        return self.compile(tree, running, began)

    def compile(self, tree: Tree, running: Snapshot, began: float | None = None) -> Inspection:
        """What a tree means, and what it would change."""
        read = self.clock()
        compiled = compile_tree(tree.files, memo=self.memo, reading=tree.problems)
        compiled_at = self.clock()
        seconds = {"read": read - (began if began is not None else read), "compile": compiled_at - read}
        deny = deny_of(tree.files)
        known_deny = deny if isinstance(deny, Deny) else None
        if compiled.snapshot is None:
            return Inspection(tree=tree, compiled=compiled, deny=known_deny, seconds=seconds)
        changes = self.remark(diff(running, compiled.snapshot), running, compiled.snapshot)
        reasons = held(self._of_realm(running), compiled.snapshot, changes, digest=tree.digest)
        model = model_digest(compiled.snapshot)
        seconds["diff"] = self.clock() - compiled_at
        return Inspection(
            tree=tree,
            compiled=compiled,
            deny=known_deny,
            changes=changes,
            held=reasons,
            model=model,
            seconds=seconds,
        )

    def _of_realm(self, running: Snapshot) -> Snapshot:
        """The running config, for the guard: as if an accepted realm were in force already."""
        if not self.realm:
            return running
        return attrs.evolve(running, relay=attrs.evolve(running.relay, realm=self.realm))
