"""`relayd check`: is the tree sound? The same code as the daemon's, offline and without side effects."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path

from relayd.cli.options import add_config
from relayd.config.codes import CODES
from relayd.config.compile import Compiled
from relayd.config.report import as_dict, as_github, as_sarif, as_text, totals
from relayd.config.tree import load_tree

OK, ERRORS, USAGE, DENIED = 0, 1, 2, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, help="the config tree, as with --config")
    add_config(parser)
    parser.add_argument(
        "--format", choices=("text", "json", "sarif", "github"), default="text", help="form of the report (text)"
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    parser.add_argument("--deny-warnings", action="store_true", help="exit with 3 when there are warnings")
    parser.add_argument("--explain", metavar="CODE", help="say what a problem's code means, and do nothing else")
    parser.epilog = "exit status: 0 sound, 1 errors, 2 usage, 3 warnings with --deny-warnings"


def main(args: argparse.Namespace) -> int:
    if args.explain:
        return explain(args.explain)
    compiled = load_tree(args.directory or args.config)
    if hasattr(sys.stdout, "reconfigure"):  # a source line may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(report(compiled, args.format))
    return verdict(compiled, deny_warnings=args.deny_warnings)


def explain(code: str) -> int:
    """Print the paragraph of a code."""
    text = CODES.get(code.upper())
    if text is None:
        print(f"relayd check: no such code: {code} (known: {', '.join(CODES)})", file=sys.stderr)
        return USAGE
    print(f"{code.upper()}\n\n{textwrap.fill(text, 100)}")
    return OK


def verdict(compiled: Compiled, *, deny_warnings: bool) -> int:
    """The exit status."""
    if compiled.snapshot is None:
        return ERRORS
    warned = any(problem.severity == "warning" for problem in compiled.problems)
    return DENIED if warned and deny_warnings else OK


def report(compiled: Compiled, form: str) -> str:
    """The whole report in one of the forms."""
    match form:
        case "json":
            return _as_json(compiled)
        case "sarif":
            return as_sarif(compiled.problems)
        case "github":
            return as_github(compiled.problems) + summary(compiled) + "\n"
    return as_text(compiled.problems) + summary(compiled) + "\n"


def summary(compiled: Compiled) -> str:
    """One line: what was checked and what came of it."""
    counts = [_count(compiled.files, "file"), _count(compiled.accounts, "account"), _count(compiled.keys, "key")]
    more = f" (and {compiled.omitted} more)" if compiled.omitted else ""
    return f"checked {', '.join(counts)}: revision {compiled.revision}, {totals(compiled.problems)}{more}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _as_json(compiled: Compiled) -> str:
    severities = [problem.severity for problem in compiled.problems]
    result = {
        "version": 1,
        "ok": compiled.snapshot is not None,
        "revision": compiled.revision,
        "files": compiled.files,
        "accounts": compiled.accounts,
        "keys": compiled.keys,
        "errors": severities.count("error"),
        "warnings": severities.count("warning"),
        "notes": severities.count("note"),
        "omitted": compiled.omitted,
        "problems": [as_dict(problem) for problem in compiled.problems],
    }
    return json.dumps(result, indent=2) + "\n"
