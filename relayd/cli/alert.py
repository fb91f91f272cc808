"""relayd alert: try a target, and list who is told what.

Rule: the running daemon is asked, whose tree and identity count. Where none runs here, the tree is read and the notice
sent by this command, by the same code.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from typing import Any

from relayd.cli.control_client import DaemonRefused, NoDaemon, add_control_path, ask
from relayd.cli.output import counted, print_json, print_table, say
from relayd.cli.store import add_state, open_state
from relayd.cli.tree import (
    FAILED,
    Stop,
    add_action,
    add_identity,
    compiled,
    guarded,
    identities,
    permitted_files,
    pick,
)
from relayd.config.snapshot import Alert, Snapshot

PATIENCE = 30.0  # s to wait for the daemon, which may wait for the target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    try_one = add_action(actions, "test", "send a test to a target and say how that went", try_target)
    try_one.add_argument("id", metavar="NAME", help="the target: [alerts.NAME]")
    add_control_path(try_one)
    add_identity(try_one)
    try_one.epilog = "exit status: 0 delivered, 1 not delivered, 2 usage"
    listed = add_action(actions, "list", "list the targets, and what lasts and is told or would be", list_alerts)
    add_control_path(listed)
    add_state(listed)


def main(args: argparse.Namespace) -> int:
    return guarded(f"alert {args.action}", args.act, args)


def try_target(args: argparse.Namespace) -> int:
    """Send a test."""
    try:
        tested = ask(args, patience=PATIENCE, verb="alert_test", target=args.id)["tested"]
        by = "daemon"
    except DaemonRefused as error:
        raise Stop(f"the daemon refused: {error}") from None
    except NoDaemon:
        tested, by = _try_here(args), "command"
    if args.json:
        print_json({**tested, "by": by})
    elif tested["delivered"]:
        print(f"{args.id}: delivered" + (" (by this command, for no daemon runs here)" if by == "command" else ""))
    else:
        say(f"{args.id}: not delivered: {tested['reason']}")
    return 0 if tested["delivered"] else FAILED


def _try_here(args: argparse.Namespace) -> dict[str, Any]:
    """The same without a daemon."""
    import trio

    from relayd.daemon.accounts.credentials import Credentials
    from relayd.daemon.admin.alerts import send_test
    from relayd.daemon.alerts.delivery import Sender
    from relayd.daemon.net.tls import shared_context

    snapshot = compiled(args)
    pick(snapshot.relay.alerts, "alert target", args.id)  # or nothing is sent
    sender = Sender(
        credentials=Credentials(identities(args), permitted_files(args)), tls=shared_context, wall=time.time
    )
    notice_id = f"test-{os.urandom(8).hex()}"
    return trio.run(send_test, sender, snapshot, args.id, notice_id, os.uname().nodename, time.time())


def list_alerts(args: argparse.Namespace) -> int:
    """Who is told, and what lasts."""
    try:
        found: dict[str, Any] = ask(args, patience=PATIENCE, verb="alerts")["alerts"]
    except DaemonRefused as error:
        raise Stop(f"the daemon refused: {error}") from None
    except NoDaemon:
        snapshot = compiled(args)
        found = _as_written(args, snapshot, snapshot.relay.alerts)
    if args.json:
        print_json(found)
    else:
        _print(found)
    return 0


def _as_written(args: argparse.Namespace, snapshot: Snapshot, targets: Mapping[str, Alert]) -> dict[str, Any]:
    """What the daemons have written down."""
    from relayd.daemon.admin.alerts import book_document
    from relayd.daemon.alerts.shared_book import WRITTEN, book_of

    book = None
    try:
        with open_state(args, snapshot) as state:
            book, _ = book_of(state.ask(WRITTEN))
    except Stop as error:
        say(f"note: what lasts is not known: {error}")
    return book_document([book] if book is not None else [], targets)


def _print(found: Mapping[str, Any]) -> None:
    rows = [
        (
            one["target"],
            one["format"],
            one["severity"],
            ", ".join(one["events"]) or "all",
            f"{one['delivered']}",
            f"{one['failed']}",
            f"{one['queued']}",
            f"FAILING since {one['failing_since']}: {one['reason']}" if one["failing_since"] else "well",
        )
        for one in found["targets"]
    ]
    if rows:
        heads = ["TARGET", "FORMAT", "LEAST", "EVENTS", "DELIVERED", "FAILED", "QUEUED", "STATE"]
        print_table(heads, rows, figures=("DELIVERED", "FAILED", "QUEUED"))
    else:
        print("no target: nobody is told of anything ([alerts.NAME] in relay.toml, docs/alerts.md)")
    print(f"\n{counted(len(found['firing']), 'condition')} now" if found["firing"] else "\nnothing is wrong now")
    for one in found["firing"]:
        print(f"{one['severity'].upper():8} {one['event']} since {one['since']}: {one['text']}")
        wanted, told = ", ".join(one["wanted_by"]) or "nobody", ", ".join(one["told"]) or "nobody yet"
        print(f"         for: {wanted}; told: {told}")
