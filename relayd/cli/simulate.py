"""`relayd simulate`: the simulator as a server of its own.

Every setting of `[simulator]` is an option of the same name, made from the noun's own fields.
"""

from __future__ import annotations

import argparse
import functools
import socket
import sys
import time
from typing import Any

import attrs

from relayd.cli.output import say
from relayd.config.snapshot import Simulator
from relayd.simulator.faults import FIELDS, TYPES, read_setting
from relayd.wire.current_models import USUAL

BODY = f'{{"model":"{USUAL}","max_tokens":100,"messages":[{{"role":"user","content":"Hello"}}]}}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        default="127.0.0.1:3210",
        help="host:port, [v6]:port or unix:/path (default: %(default)s; port 0: any free one)",
    )
    for name, field in FIELDS.items():
        _add_setting(parser, name, field)


def _add_setting(parser: argparse.ArgumentParser, name: str, field: attrs.Attribute[Any]) -> None:
    option = "--" + name.replace("_", "-")
    text = field.metadata["doc"].replace("%", "%%")
    if TYPES[name] is bool:
        parser.add_argument(option, action="store_true", help=text)
        return
    parser.add_argument(
        option,
        type=functools.partial(_read, name),
        default=field.default,
        metavar="SECONDS" if isinstance(field.default, float) else "N" if isinstance(field.default, int) else "WORD",
        help=f"{text} Default: {field.default!r}.",
    )


def _read(name: str, text: str) -> Any:
    try:
        return read_setting(name, text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def main(args: argparse.Namespace) -> int:
    import trio

    from relayd.daemon.accounts.simulator import serve_simulator  # here: `completion` reads the arguments of all verbs

    settings = Simulator(**{name: getattr(args, name) for name in FIELDS})
    try:
        trio.run(serve_simulator, args.listen, settings, time.time, announce)
    except (OSError, ValueError) as error:
        say(f"relayd simulate: {_reason(error)}")
        return 1
    return 0


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def announce(sockets: list[socket.socket]) -> None:
    """Tell people where the simulator listens, and how to try it."""
    for listening in sockets:
        where, curl = _reached(listening)
        say(f"simulator: {where}")
        print(f"try: {curl}/v1/messages -H 'content-type: application/json' -d '{BODY}'", file=sys.stderr, flush=True)


def _reached(listening: socket.socket) -> tuple[str, str]:
    """(URL, the beginning of a curl command) of a listening socket."""
    address = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{address}", f"curl --unix-socket {address} http://localhost"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}", f"curl http://{host}:{address[1]}"
