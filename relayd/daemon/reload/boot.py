"""Boot: which config a node starts with.

Rule: sync, before the event loop; only reads. The tree if it is sound; else the newest generation that ran well here
(the daemon is then DEGRADED and says so), with what the tree's deny.toml refuses; else nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from relayd.config.compile import Compiled, Memo, compile_tree, deny_of
from relayd.config.diff import model_digest
from relayd.config.guard import with_deny
from relayd.config.problems.problem import Problem
from relayd.config.snapshot import Deny, Snapshot
from relayd.config.source.tree import Tree, Unstable
from relayd.daemon.paths import text_setting
from relayd.daemon.reload.history import History
from relayd.daemon.reload.requests import ConfigOrigin, origin_of


@attrs.frozen(kw_only=True)
class Start:
    """What to start with.

    Args:
        fresh: the tree, when it is what is started with.
        degraded: why it cannot be; "" when it could.
        digest: of the tree; "" when there was none to be read.
        hold: the stored generation that a rollback holds; 0 = none.
        denied: the tree's deny.toml.
        examined: its stat signature just before it was read.
        problems: of the tree.
        notes: what was passed over, for people.
    """

    snapshot: Snapshot
    running: ConfigOrigin
    memo: Memo
    fresh: Tree | None = attrs.field(default=None, repr=False)
    degraded: str = ""
    digest: str = ""
    hold: int = 0
    denied: Deny = attrs.field(factory=Deny)
    examined: object = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@attrs.frozen(kw_only=True)
class NoStart:
    """Why the node cannot start, for people."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


@attrs.frozen(kw_only=True)
class _Look:
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
    def denied(self) -> Deny:
        deny = deny_of(self.files)
        return deny if isinstance(deny, Deny) else Deny()


def choose_start(
    read: Callable[[], Tree | Unstable],
    sign: Callable[[], object],
    store: Callable[[str], History],
    now: float,
    *,
    strict: bool = False,
) -> Start | NoStart:
    """Read the tree and decide.

    Args:
        store: the stored generations, given the tree's [state].url ("" where that is not to be had).
        now: Unix time, s.
        strict: the tree or nothing.
    """
    look = _look(read, sign)
    vault = store(look.setting("state", "url"))
    held = vault.held()
    if strict and look.why:
        return NoStart(problems=look.compiled.problems, notes=(look.why, "no other may be taken (--strict-boot)"))
    notes: list[str] = []
    numbers = ([held] if held else []) + (vault.numbers() if look.why else [])
    for number in numbers:
        kept = _usable(vault, number, look.setting("realm"), notes)
        if kept is not None:
            return _from_store(look, number, *kept, held=held if number == held else 0, notes=notes, now=now)
    if look.why:
        return NoStart(problems=look.compiled.problems, notes=(look.why, *notes, "no stored generation can be taken"))
    return _from_tree(look, notes, now)


def _look(read: Callable[[], Tree | Unstable], sign: Callable[[], object]) -> _Look:
    examined, memo = sign(), Memo()
    found = read()
    if isinstance(found, Unstable):
        nothing = compile_tree({})
        empty = attrs.evolve(nothing, problems=())
        return _Look(tree=None, compiled=empty, memo=memo, examined=None, why=f"the tree is unstable: {found.reason}")
    compiled = compile_tree(found.files, memo=memo, reading=found.problems)
    why = "" if compiled.snapshot is not None else "the tree has errors"
    return _Look(tree=found, compiled=compiled, memo=memo, examined=examined, why=why)


def _usable(vault: History, number: int, realm: str, notes: list[str]) -> tuple[Tree, Compiled] | None:
    """A stored generation that can be served here; else why not, in `notes`."""
    try:
        _, tree = vault.load(number, "")
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


def _from_tree(look: _Look, notes: Sequence[str], now: float) -> Start:
    assert look.tree is not None
    snapshot = look.compiled.require()
    model = model_digest(snapshot)
    return Start(
        snapshot=snapshot,
        running=origin_of(look.tree, look.compiled.revision, now, "boot", model=model),
        memo=look.memo,
        fresh=look.tree,
        digest=look.tree.digest,
        denied=look.denied,
        examined=look.examined,
        notes=tuple(notes),
        problems=look.compiled.problems,
    )


def _from_store(
    look: _Look, number: int, tree: Tree, kept: Compiled, *, held: int, notes: Sequence[str], now: float
) -> Start:
    snapshot = kept.require()
    return Start(
        snapshot=with_deny(snapshot, look.denied),
        running=origin_of(tree, kept.revision, now, "boot", number, model=model_digest(snapshot)),
        memo=look.memo,
        degraded="" if held else look.why,
        digest=look.tree.digest if look.tree is not None else "",
        hold=held,
        denied=look.denied,
        examined=None if held else look.examined,
        notes=tuple(notes),
        problems=look.compiled.problems,
    )
