"""`relayd test`: do calls end as tests.d expects? And with --replay or --days: how would past calls have ended?

Rule: tried offline, by the same decisions as the daemon's. Only --days reads something beside the tree and the log: the
state store.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from relayd.cli.output import add_format, counted, print_report, say
from relayd.cli.replay import ReplayReport, replay_books, replay_files
from relayd.cli.store import add_state
from relayd.cli.tree import UNSTABLE, Stop, add_directory, add_replay, at_revision, folder_of, guarded, read_steadily
from relayd.config.compile import compile_tree
from relayd.config.problems.problem import Problem, is_error
from relayd.config.problems.report import as_dict, as_github, as_markdown, as_sarif, as_text, totals
from relayd.config.snapshot import Snapshot
from relayd.config.source.git import GitError
from relayd.config.source.tree import Unstable, read_tree
from relayd.core.scenario_run import ScenarioResult, play

PASSED, FAILED, USAGE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    add_format(parser)
    parser.add_argument("--verbose", "-v", action="store_true", help="also show the scenarios that pass")
    add_replay(parser)
    parser.add_argument(
        "--days", metavar="N", type=int, help="play what the state store has recorded of the last N days instead"
    )
    parser.add_argument(
        "--base", metavar="REV or DIR", help="compare with a commit or another tree instead of with how the calls went"
    )
    add_state(parser)
    parser.epilog = (
        "exit status: 0 all passed (no past call that was served would be refused), 1 some did not or the tree has "
        "errors, 2 usage, 4 unstable tree"
    )


def main(args: argparse.Namespace) -> int:
    directory = args.config = args.directory or args.config
    replays = bool(args.replay) or args.days is not None
    if wrong := _wrong_usage(args, replays):
        say(f"relayd test: {wrong}")
        return USAGE
    tree = read_steadily(directory)
    if isinstance(tree, Unstable):
        say(f"relayd test: the tree does not hold still: {tree.reason}")
        return UNSTABLE
    compiled = compile_tree(tree.files, reading=tree.problems)
    if compiled.snapshot is None or not compiled.sound:
        errors = tuple(filter(is_error, compiled.problems))
        print_report(_report(errors, (), args.format, folder_of(directory), verbose=False))
        say("relayd test: the tree has errors, so no scenario was tried")
        return FAILED
    if replays:
        candidate = compiled.snapshot
        return guarded("test", lambda args: _replay(args, directory, candidate), args)
    results = play(compiled, compiled.snapshot)
    problems = tuple(result.problem for result in results if result.problem)
    print_report(_report(problems, results, args.format, folder_of(directory), verbose=args.verbose))
    return FAILED if problems else PASSED


def _wrong_usage(args: argparse.Namespace, replays: bool) -> str:
    """What is wrong with the options; "" when nothing is."""
    if args.replay and args.days is not None:
        return "--replay and --days: give one or the other"
    if args.base is not None and not replays:
        return "--base: needs --replay FILE or --days N, the calls to compare by"
    if replays and args.format in ("sarif", "github"):
        return f"--format {args.format}: past calls are told as text, json or markdown"
    return ""


def _replay(args: argparse.Namespace, directory: Path, candidate: Snapshot) -> int:
    """Play past calls and report. Raises: Stop; OSError."""
    base = None if args.base is None else _base(directory, args.base)
    if args.replay:
        found = replay_files(args.replay, candidate, base)
    else:
        found = replay_books(args, candidate, base)
    report = ReplayReport(found=found, base=args.base or "")
    match args.format:
        case "json":
            print_report(json.dumps(report.as_json(), indent=2) + "\n")
        case "markdown":
            print_report(report.as_markdown())
        case _:
            print_report(report.as_text())
    return FAILED if found.total("refused") else PASSED


def _base(directory: Path, name: str) -> Snapshot:
    """The tree of another directory, or of a commit. Raises: Stop."""
    if (Path(name) / "relay.toml").exists():
        files = read_tree(Path(name)).files
    else:
        try:
            _, files = at_revision(directory, name)
        except GitError as error:
            raise Stop(f"--base {name}: neither a directory with a relay.toml nor a commit: {error}") from None
    snapshot = compile_tree(files).snapshot if files else None
    if snapshot is None:
        raise Stop(f"--base {name}: {'does not compile' if files else 'there was no tree in that commit'}")
    return snapshot


def _report(
    problems: tuple[Problem, ...], results: tuple[ScenarioResult, ...], form: str, folder: str, *, verbose: bool
) -> str:
    match form:
        case "json":
            return json.dumps(_as_json(problems, results), indent=2) + "\n"
        case "sarif":
            return as_sarif(problems, folder)
        case "github":
            return as_github(problems, folder) + _summary(problems, results)
        case "markdown":
            return as_markdown(problems) + _summary(problems, results)
    passed = "".join(_passed(result) for result in results if verbose and result.problem is None)
    return passed + as_text(problems) + _summary(problems, results)


def _passed(result: ScenarioResult) -> str:
    outcome = result.outcome
    end = f"served by {', '.join(outcome.accounts)}" if outcome.refusal is None else str(outcome.refusal)
    return f"{result.file}:{result.line}: ok: {result.scenario.name} ({end})\n"


def _summary(problems: tuple[Problem, ...], results: tuple[ScenarioResult, ...]) -> str:
    if not results:
        return "no scenarios in tests.d\n" if not problems else f"{totals(problems)}\n"
    failed = len(problems)
    return f"{counted(len(results), 'scenario')}: {len(results) - failed} passed, {failed} failed\n"


def _as_json(problems: tuple[Problem, ...], results: tuple[ScenarioResult, ...]) -> dict[str, Any]:
    return {
        "version": 1,
        "ok": not problems,
        "passed": sum(result.problem is None for result in results),
        "failed": sum(result.problem is not None for result in results),
        "scenarios": [_one(result) for result in results],
        "problems": [as_dict(problem) for problem in problems],
    }


def _one(result: ScenarioResult) -> dict[str, Any]:
    outcome, refusal = result.outcome, result.outcome.refusal
    return {
        "name": result.scenario.name,
        "file": result.file,
        "line": result.line,
        "passed": result.problem is None,
        "served": refusal is None,
        "status": refusal.status if refusal else 200,
        "text": refusal.message if refusal else "",
        "accounts": list(outcome.accounts),
        "first": list(outcome.first),
        "sent_models": list(outcome.sent_models),
        "limits": list(outcome.limits),
    }
