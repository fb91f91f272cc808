"""What a command asks a person: a secret, a yes.

Rule: a question is asked on a terminal only. Elsewhere a secret comes from stdin, whole, and the command itself is the
yes; no secret is ever an argument.
"""

from __future__ import annotations

import argparse
import getpass
import sys

from relayd.cli.tree import Stop
from relayd.config.secrets.secret import Secret


def read_secret(what: str) -> Secret:
    """A secret from stdin, without one line break at its end; on a terminal it is asked for and not shown.

    Raises: Stop when there is none, or more than one line: whoever feeds a secret twice, as a terminal asks for a new
        one, or with something else, is told so. JSON may have lines.
    """
    if sys.stdin.isatty():
        try:
            text = getpass.getpass(f"{what} (not shown): ", stream=sys.stderr)
        except EOFError:
            raise Stop("nothing was entered; nothing was written") from None
    else:
        text = _all_of_stdin().removesuffix("\n").removesuffix("\r")
    if not text:
        raise Stop(f"{what}: the secret is empty; nothing was written")
    lines = text.split("\n")
    if len(lines) > 1 and not text.startswith("{"):
        once = " once (only a terminal asks twice)" if lines[0].rstrip("\r") == lines[1] else ""
        wrong = f"the secret has more than one line, stdin has {len(lines)}; give it alone{once}"
        raise Stop(f"{what}: {wrong}; nothing was written")
    return Secret(text)


def _all_of_stdin() -> str:
    """Raises: Stop for what is not UTF-8; the error of the decoder would quote it."""
    raw = getattr(sys.stdin, "buffer", None)
    if raw is None:  # a text stream in its place
        return sys.stdin.read()
    try:
        return str(raw.read().decode())
    except UnicodeDecodeError:
        raise Stop("stdin is not UTF-8 text; nothing was written") from None


def read_new_secret(what: str) -> Secret:
    """A secret that a person makes up: on a terminal it is asked for twice. Raises: Stop when the two differ."""
    first = read_secret(what)
    if sys.stdin.isatty() and read_secret(f"{what}, once more") != first:
        raise Stop("the two differ; nothing was made")
    return first


def confirmed(question: str, args: argparse.Namespace) -> bool:
    """Ask when a person is there to answer; without a terminal the command itself is the answer."""
    if args.yes or not sys.stdin.isatty():
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
