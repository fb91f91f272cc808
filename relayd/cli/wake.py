"""relayd account wake: an account's rest ends now, on every node. A good `account test` does the same.

Rule: the running daemon is asked, which tells the others by way of the state store; where none runs here, the store is
told. The account's windows are forgotten, too: its next answer tells them anew.
"""

from __future__ import annotations

import argparse

import msgspec

from relayd.cli.control_client import DaemonRefused, NoDaemon, add_control_path, ask
from relayd.cli.output import print_result, say
from relayd.cli.store import StateReader, add_state, load_health, now_ms, open_state
from relayd.cli.tree import Stop, compiled, pick
from relayd.config.snapshot import Snapshot
from relayd.core.balancing.pool import Pool
from relayd.state.contract import Publish, Published

PATIENCE = 10.0  # s to wait for the daemon


def add_wake(parser: argparse.ArgumentParser) -> None:
    """`--control` and `--state`."""
    add_control_path(parser)
    add_state(parser)


def wake_account(args: argparse.Namespace) -> int:
    """End the rest of `args.id`."""
    snapshot = compiled(args)
    pick(snapshot.accounts, "account", args.id)
    rested, by = wake(args, snapshot)
    if not args.json:
        print(f"{args.id}: awake on every node" + (f" (it rested: {rested})" if rested else " (it did not rest)"))
        return 0
    return print_result(args, {"id": args.id, "rested": rested, "by": by})


def wake_after_test(args: argparse.Namespace, snapshot: Snapshot) -> None:
    """The test has shown that the account works. Where nobody can be told, a note says so."""
    try:
        rested, _ = wake(args, snapshot)
    except Stop as error:
        say(f"note: if {args.id} rests, it goes on resting: {error}")
        return
    if rested:
        say(f"{args.id}: its rest is over ({rested})")


def wake(args: argparse.Namespace, snapshot: Snapshot) -> tuple[str, str]:
    """End the rest of `args.id`. Returns why it rested, "" when it did not, and who was told. Raises: Stop."""
    try:
        return str(ask(args, patience=PATIENCE, verb="wake", account=args.id)["woken"]["rested"]), "daemon"
    except DaemonRefused as error:
        raise Stop(f"the daemon refused: {error}") from None
    except NoDaemon as error:
        try:
            with open_state(args, snapshot) as state:
                return _wake_in_store(state, snapshot, args.id), "store"
        except Stop as other:
            raise Stop(f"{error}; and {other}") from None


def _wake_in_store(state: StateReader, snapshot: Snapshot, account: str) -> str:
    """Write down that the account is well, as a daemon would. Raises: Stop."""
    now, pool = now_ms() / 1000, Pool()
    pool.adopt(snapshot, now)
    ahead = load_health(state, pool, now)
    rested = pool.resting(account, now)
    pool.wake(account, now)
    body = msgspec.json.encode(pool.snapshot_health(account, ahead)).decode()
    answer = state.ask(Publish(topic="health", name=account, body=body))
    if not isinstance(answer, Published) or not answer.ok:
        raise Stop(f"{state.store.name}: the account's health cannot be written")
    return rested[2] if rested else ""
