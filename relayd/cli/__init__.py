"""Asking for it: `relayd VERB`, one verb a file.

Rule: a verb's module is imported only when that verb runs, so that `relayd check` does not pay for the daemon. Each
module has `add_arguments(parser)` and `main(args) -> int`; a further verb of the same module has its own
`add_VERB_arguments(parser)`. Results go to stdout, talk to stderr, and nothing asks a question when stdin is not a
terminal.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from relayd.cli.examples import FIRST, show_examples

# verb: (module, what it does). Order is the order of the help text.
VERBS = {
    "run": ("run", "run the daemon in the foreground"),
    "check": ("check", "validate a config tree offline, without side effects"),
    "test": ("test", "try the scenarios of tests.d offline: who may call what, and who serves it"),
    "diff": ("diff", "show what a change of the tree means, against what runs or between commits"),
    "revoke": ("revoke", "refuse a key, an account or an address at once, by deny.toml"),
    "reload": ("reload", "apply the tree as it is now to the running daemon"),
    "rollback": ("reload", "take the running daemon back to a stored config"),
    "resume": ("reload", "end a rollback, so that the daemon follows the tree again"),
    "status": ("status", "show what the running daemon runs, and what is wrong with it"),
    "doctor": ("doctor", "look at all that a node stands on, and say what to do about what is not well"),
    "explain": ("explain", "say which account would serve a call, and why the others would not"),
    "alert": ("alert", "try an alert target, or list targets and what they would be told now"),
    "report": ("report", "add up the requests, tokens and cost of some days"),
    "usage": ("usage", "show the limits of keys and how much of them is used"),
    "backup": ("backup", "write tree, state and stored configs to one sealed file"),
    "restore": ("restore", "put a backup back, or tell what that would do"),
    "init": ("init", "make a new config tree"),
    "serve-git": ("serve_git", "make a repository to push to: each push is checked, put in place and reported on"),
    "manifest": ("manifest", "list a tree's files with their digests, for copies that are not atomic"),
    "schema": ("schema", "print JSON Schemas for editors, or the table of keys"),
    "key": ("key", "mint, list, rotate, disable, delete and look up API keys"),
    "create-api-key": ("key", "mint an API key, as `key new` does"),
    "demo": ("delete", "remove what `relayd init` made for a first look"),
    "account": ("account", "add, list, test, enable, disable and delete accounts; seal their credentials"),
    "secret": ("secret", "make identities; seal, inspect and reseal secrets"),
    "import": ("import_", "import accounts and keys from another relay"),
    "ci-comment": ("ci_comment", "write text from stdin as one comment on the pull request that CI runs for"),
    "completion": ("completion", "print a completion script for bash, zsh or fish"),
    "simulate": ("simulate", "serve the simulator: a Claude API that needs no account"),
}


# What people call a verb who know other programs.
MEANT = {"start": "run", "serve": "run", "up": "run", "daemon": "run", "validate": "check", "lint": "check",
         "plan": "diff", "apply": "reload", "block": "revoke", "deny": "revoke", "models": "explain"}  # fmt: skip


def build_parser(*filled: str) -> argparse.ArgumentParser:
    """The parser, with the arguments of these verbs filled in (the others are only named)."""
    parser = argparse.ArgumentParser(
        prog="relayd",
        description="A self-hosted, declarative relay for the Claude API.",
        epilog=FIRST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="print the version and commit, and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, (module, summary) in VERBS.items():
        sub = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name in filled:
            code = importlib.import_module(f"relayd.cli.{module}")
            getattr(code, f"add_{name.replace('-', '_')}_arguments", code.add_arguments)(sub)
            show_examples(name, sub)
    return parser


class ShowVersion(argparse.Action):
    """`--version`: looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from relayd.config.source.own_commit import version_text

        print(version_text())
        parser.exit()


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config DIR`, else RELAYD_CONFIG, else the working directory."""
    parser.add_argument(
        "--config",
        metavar="DIR",
        type=Path,
        default=Path(os.environ.get("RELAYD_CONFIG", ".")),
        help="directory of the config tree (RELAYD_CONFIG; default: the working directory)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code; usage errors exit with 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        close = [MEANT[verb]] if verb in MEANT else difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean `relayd {close[0]}`?" if close else "`relayd` alone lists them"
        print(f"relayd: there is no verb {verb!r} ({hint})", file=sys.stderr)
        return 2
    parser = build_parser(*([verb] if verb else []))
    if not words:
        parser.print_help()
        return 0
    args = parser.parse_args(words)
    if args.verb is None:
        parser.print_help(sys.stderr)
        return 2
    del parser  # forty parsers, which a daemon would keep for ever
    module = importlib.import_module(f"relayd.cli.{VERBS[args.verb][0]}")
    try:
        result: int = module.main(args)
        return result
    except BrokenPipeError:
        # `relayd ... | head`: the reader has what it wanted. Keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
