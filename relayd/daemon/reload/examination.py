"""Examination: what would become of a tree that is not in place yet, as a push asks before it lands.

Rule: without effect on what runs. Only a directory beside the one that our tree's link leads to may be examined: who
may ask for this may not make the daemon read anything else.

Theory: the daemon judges a push better and sooner than the push's own process could. It knows what runs (with what
waits for a restart, or was denied since), and remembers what it made of every file that stays as it was. What it finds
here it finds again a moment later, when the same tree is in place: see `Inspector.compile`.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from relayd.config.guard import accepts
from relayd.config.problems.problem import Problem, in_order, is_error
from relayd.config.snapshot import Snapshot
from relayd.config.source.tree import Unstable
from relayd.daemon.reload.candidate import Inspection, Inspector
from relayd.daemon.reload.requests import ReloadResult
from relayd.noun import noun


@noun(kw_only=True)
class Examined:
    """A tree that is not in place. `problems`: those of `check`, and what tests.d expects otherwise."""

    inspection: Inspection
    problems: tuple[Problem, ...]


def why_not_examined(tree: Path, directory: Path) -> str:
    """Why a directory is none of ours to look at; "" when it lies beside what our tree's link leads to. May block."""
    real = directory.resolve()
    if not directory.is_absolute() or real != directory or not directory.is_dir():
        return f"{directory}: not the absolute path of a directory"
    if not tree.is_symlink():
        return f"{tree} is not a link to one of several trees, as `relayd serve-git` makes it"
    if real.parent != tree.resolve().parent:
        return f"{directory} does not lie beside the tree that this daemon follows ({tree})"
    return ""


def examine(inspector: Inspector, running: Snapshot, directory: Path) -> Examined | Unstable:
    """Read a directory, compile it, play its scenarios, and compare it with what runs. May block."""
    inspection = inspector.inspect_beside(running, directory)
    if isinstance(inspection, Unstable):
        return inspection
    compiled = inspection.compiled
    assert compiled is not None
    problems = list(compiled.problems)
    if compiled.snapshot is not None:
        problems += inspector.places(inspection.tree.files, compiled.snapshot)
        from relayd.core.scenario_run import scenario_failures

        problems += scenario_failures(compiled, compiled.snapshot) if compiled.sound else ()
    return Examined(inspection=inspection, problems=in_order(problems))


def judged(examined: Examined, result: ReloadResult, accept: str) -> ReloadResult:
    """What to say of it. `result`: that of a tree against which nothing speaks."""
    result = attrs.evolve(result, problems=examined.problems, dry_run=True)
    held, digest = examined.inspection.held, examined.inspection.tree.digest
    if any(map(is_error, examined.problems)):
        return attrs.evolve(result, result="rejected")
    if held and not accepts(accept, digest):
        return attrs.evolve(result, result="held", reasons=held, accept=digest)
    return attrs.evolve(result, result="applied" if examined.inspection.acts else "unchanged")
