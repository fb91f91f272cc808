"""`relayd test`: do calls end as tests.d expects? Tried offline, by the same decisions as the daemon's."""

from __future__ import annotations

import argparse
import json
from typing import Any

from relayd.cli.output import add_format, counted, print_report, say
from relayd.cli.tree import UNSTABLE, add_directory, folder_of, read_steadily
from relayd.config.compile import compile_tree
from relayd.config.problems.problem import Problem, is_error
from relayd.config.problems.report import as_dict, as_github, as_sarif, as_text, totals
from relayd.config.source.tree import Unstable
from relayd.core.scenario_run import ScenarioResult, play

PASSED, FAILED = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    add_format(parser)
    parser.add_argument("--verbose", "-v", action="store_true", help="also show the scenarios that pass")
    parser.epilog = "exit status: 0 all passed, 1 some did not or the tree has errors, 2 usage, 4 unstable tree"


def main(args: argparse.Namespace) -> int:
    directory = args.directory or args.config
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
    results = play(compiled, compiled.snapshot)
    problems = tuple(result.problem for result in results if result.problem)
    print_report(_report(problems, results, args.format, folder_of(directory), verbose=args.verbose))
    return FAILED if problems else PASSED


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
