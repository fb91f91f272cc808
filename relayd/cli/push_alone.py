"""A push without a daemon: what can be said of a new version by the tree in place alone.

Rule: the same reading, compiling, scenarios and guard as the daemon's, and the same document as its answer.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from relayd.cli.git_place import GitPlace
from relayd.cli.tree import PATIENCE
from relayd.config.changes import Changes
from relayd.config.compile import Compiled, compile_tree
from relayd.config.diff import diff
from relayd.config.environment import place_problems
from relayd.config.guard import accepts, held
from relayd.config.problems.problem import Problem, in_order, is_error
from relayd.config.source.tree import Tree, Unstable, read_coherent
from relayd.core.scenario_run import scenario_failures
from relayd.daemon.admin.documents import result_document
from relayd.daemon.reload.requests import ReloadResult


def examine_alone(place: GitPlace, staged: Path, accept: str) -> dict[str, Any]:
    """What would become of a version, as the daemon would say it."""
    tree = _read(staged)
    if isinstance(tree, Unstable):
        return result_document(ReloadResult(result="busy", generation=0, reasons=(tree.reason,), dry_run=True))
    compiled = compile_tree(tree.files, reading=tree.problems)
    problems = _problems(tree, compiled)
    if any(map(is_error, problems)):
        return result_document(_result(tree, compiled, problems, result="rejected"))
    changes, reasons = _against(place, compiled, tree)
    if reasons and not accepts(accept, tree.digest):
        found = _result(tree, compiled, problems, result="held", changes=changes, reasons=reasons, accept=tree.digest)
        return result_document(found)
    return result_document(_result(tree, compiled, problems, result="applied", changes=changes))


def _read(directory: Path) -> Tree | Unstable:
    deadline = time.time() + PATIENCE
    return read_coherent(directory, quiet=0, wall=time.time, sleep=time.sleep, deadline=deadline, git="ignore")


def _problems(tree: Tree, compiled: Compiled) -> tuple[Problem, ...]:
    found = list(compiled.problems)
    if compiled.snapshot is not None:
        found += place_problems(tree.files, compiled.snapshot, os.environ)
        found += scenario_failures(compiled, compiled.snapshot) if compiled.sound else ()
    return in_order(found)


def _result(tree: Tree, compiled: Compiled, problems: tuple[Problem, ...], **more: Any) -> ReloadResult:
    about = tree.provenance
    return ReloadResult(
        generation=0,
        digest=tree.digest,
        revision=compiled.revision,
        commit=about.commit,
        dirty=about.dirty,
        problems=problems,
        dry_run=True,
        **more,
    )


def _against(place: GitPlace, compiled: Compiled, tree: Tree) -> tuple[Changes | None, tuple[str, ...]]:
    """What changes against the tree in place, and why the guard would hold it; nothing is known of the first one."""
    if not place.versions.current():
        return None, ()
    before = _read(place.tree)
    old = compile_tree(before.files).snapshot if isinstance(before, Tree) else None
    if old is None:
        return None, ()
    new = compiled.require()
    changes = diff(old, new)
    return changes, held(old, new, changes, digest=tree.digest)
