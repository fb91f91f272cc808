"""Start: which config a node begins with.

Rule: sync, before the event loop; only reads. The tree if it is sound; else the newest generation that ran well here
(the daemon is then DEGRADED and says so), with what the tree's deny.toml refuses; else nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from relayd.config.compile import Compiled, Memo, compile_tree
from relayd.config.diff import model_digest
from relayd.config.guard import with_deny
from relayd.config.problems.problem import Problem
from relayd.config.snapshot import Deny, Snapshot
from relayd.config.source.tree import Tree, Unstable
from relayd.daemon.paths import DEFAULT_STATE, generation_store, text_setting
from relayd.daemon.reload.candidate import Reader, understood_deny
from relayd.daemon.reload.history import History
from relayd.daemon.reload.record import ConfigOrigin, PendingTree, ReloadRecord, kept_back, origin_of
from relayd.daemon.reload.requests import ReloadResult
from relayd.noun import noun


@noun(kw_only=True)
class Start:
    """What to start with.

    Args:
        origin: where it comes from.
        tree: the tree, when it is what is started with.
        degraded: why it cannot be; "" when it could.
        digest: of the tree; "" when there was none to be read.
        hold: the stored generation that a rollback holds; 0 = none.
        denied: the tree's deny.toml.
        deny_problem: why that is not obeyed; "" when it is.
        examined: the stat signature just before it was read.
        problems: of the tree.
        notes: what was passed over, for people.
    """

    snapshot: Snapshot
    origin: ConfigOrigin
    memo: Memo
    tree: Tree | None = attrs.field(default=None, repr=False)
    degraded: str = ""
    digest: str = ""
    hold: int = 0
    denied: Deny = attrs.field(factory=Deny)
    deny_problem: str = ""
    examined: object = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def record(self, now: float) -> ReloadRecord:
        """What is known of the config that is started with. `now`: Unix time, s."""
        return ReloadRecord(
            origin=self.origin,
            degraded=self.degraded,
            hold=self.hold,
            deny_problem=self.deny_problem,
            unstored=self.tree,
            candidate=self._candidate(now),
            succeeded=0.0 if self.degraded or self.hold else now,
        )

    def _candidate(self, now: float) -> PendingTree | None:
        """What lies on disk and does not run, from the first moment."""
        if not self.degraded and not self.hold:
            return None
        outcome = ReloadResult(
            result="rejected" if self.degraded else "held",
            generation=1,
            digest=self.digest if self.degraded else "",
            problems=self.problems if self.degraded else (),
            reasons=(self.degraded or kept_back(self.hold),),
        )
        return PendingTree(since=now, outcome=outcome)


@noun(kw_only=True)
class NoStart:
    """Why the node cannot start, for people."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


@noun(kw_only=True)
class _Found:
    """The tree as it lies there. `why`: why it cannot be served; "" when it can."""

    tree: Tree | None
    compiled: Compiled
    memo: Memo
    examined: object
    why: str

    def setting(self, *path: str) -> str:
        """A text in relay.toml, whatever is wrong with the rest; "" when it cannot be had."""
        return text_setting(self.files.get("relay.toml", b""), *path)

    @property
    def files(self) -> dict[str, bytes]:
        return self.tree.files if self.tree is not None else {}

    @property
    def denied(self) -> tuple[Deny, str]:
        """deny.toml, and why it is not obeyed."""
        deny, why = understood_deny(self.files, self.tree.problems if self.tree is not None else ())
        return deny or Deny(), why


def find_start(
    reader: Reader, *, state_url: str = "", own: str = "", store: Path | None = None, strict: bool = False
) -> Start | NoStart:
    """Read the tree and decide.

    Args:
        state_url: the node's own, "" for the tree's.
        own: see `state_directory`.
        store: where generations are kept; None = beside the state.
        strict: the tree or nothing.
    """
    now, found = reader.wall(), _found(reader)
    url = state_url or found.setting("state", "url") or DEFAULT_STATE
    history = History(store or generation_store(url, reader.tree, own))
    held = history.held()
    if strict and found.why:
        return NoStart(problems=found.compiled.problems, notes=(found.why, "no other may be taken (--strict-boot)"))
    notes: list[str] = []
    numbers = ([held] if held else []) + (history.numbers() if found.why else [])
    for number in numbers:
        kept = _usable(history, number, found.setting("realm"), notes)
        if kept is not None:
            return _from_history(found, number, *kept, held=held if number == held else 0, notes=notes, now=now)
    if found.why:
        return NoStart(problems=found.compiled.problems, notes=(found.why, *notes, "no stored generation can be taken"))
    return _from_tree(found, notes, now)


def _found(reader: Reader) -> _Found:
    memo, tree = Memo(), reader.read()
    if isinstance(tree, Unstable):
        nothing = attrs.evolve(compile_tree({}), problems=())
        why = tree.reason if tree.absent else f"the tree is unstable: {tree.reason}"
        return _Found(tree=None, compiled=nothing, memo=memo, examined=None, why=why)
    compiled = compile_tree(tree.files, memo=memo, reading=tree.problems)
    why = "" if compiled.snapshot is not None else "the tree has errors"
    return _Found(tree=tree, compiled=compiled, memo=memo, examined=tree.signature, why=why)


def _usable(history: History, number: int, realm: str, notes: list[str]) -> tuple[Tree, Compiled] | None:
    """A stored generation that can be served here; else why not, in `notes`."""
    try:
        _, tree = history.load(number, "")
    except LookupError as error:
        notes.append(str(error.args[0]))
        return None
    compiled = compile_tree(tree.files)
    if compiled.snapshot is None:
        notes.append(f"generation {number}: this version of relayd finds errors in it")
    elif realm and compiled.snapshot.relay.realm != realm:
        notes.append(f"generation {number}: it is of realm {compiled.snapshot.relay.realm}, not {realm}")
    else:
        return tree, compiled
    return None


def _from_tree(found: _Found, notes: Sequence[str], now: float) -> Start:
    assert found.tree is not None
    snapshot = found.compiled.require()
    model = model_digest(snapshot)
    return Start(
        snapshot=snapshot,
        origin=origin_of(found.tree, found.compiled.revision, now, "boot", model=model),
        memo=found.memo,
        tree=found.tree,
        digest=found.tree.digest,
        denied=found.denied[0],
        examined=found.examined,
        notes=tuple(notes),
        problems=found.compiled.problems,
    )


def _from_history(
    found: _Found, number: int, tree: Tree, kept: Compiled, *, held: int, notes: Sequence[str], now: float
) -> Start:
    snapshot, (denied, deny_problem) = kept.require(), found.denied
    return Start(
        snapshot=with_deny(snapshot, denied),
        origin=origin_of(tree, kept.revision, now, "boot", number, model=model_digest(snapshot)),
        memo=found.memo,
        degraded="" if held else found.why,
        digest=found.tree.digest if found.tree is not None else "",
        hold=held,
        denied=denied,
        deny_problem=deny_problem,
        examined=None if held else found.examined,
        notes=tuple(notes),
        problems=found.compiled.problems,
    )
