"""relayd doctor: look at all that a node stands on, and say of what is not well what to do about it.

Rule: it changes nothing, sends no credential and charges no account. A running daemon is asked what ails it; without
one, what it would need is looked at all the same.

Theory: this file gathers, `core.checkup` judges. Each area is on its own: what cannot be looked at in one is a finding,
and hides nothing of the others.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from relayd import __version__
from relayd.cli import doctor_host as host
from relayd.cli.control_client import DaemonRefused, NoDaemon, NotForUs, add_control, ask
from relayd.cli.output import counted, print_json, print_table
from relayd.cli.store import add_state
from relayd.cli.store_condition import store_state
from relayd.cli.tree import add_identity, guarded, require_tree
from relayd.cli.verdict import same_directory
from relayd.config.compile import compile_tree
from relayd.config.environment import environment_problems
from relayd.config.problems.problem import Problem, is_error
from relayd.config.snapshot import Snapshot
from relayd.config.source.history import Generation, newest
from relayd.config.source.tree import Unstable, read_coherent
from relayd.core.checkup import (
    CheckupFinding,
    descriptor_findings,
    memory_findings,
    reach_findings,
    room_findings,
    split_advice,
    split_hint,
    store_findings,
    version_finding,
    worker_findings,
)
from relayd.daemon.capacity import memory_allowance, own_memory, processors, wanted_workers
from relayd.daemon.paths import own_directory, state_directory, state_url_of

WELL, UNWELL = 0, 1
LOOK = 10.0  # s to wait for the daemon
STEADY = 3.0  # s to wait for the tree to hold still


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_control(parser)
    add_state(parser)
    add_identity(parser)
    parser.add_argument("--offline", action="store_true", help="do not try the way to the accounts' upstreams")
    parser.epilog = "exit status: 0 well, 1 unwell, 2 usage"


def main(args: argparse.Namespace) -> int:
    return guarded("doctor", examine, args)


def examine(args: argparse.Namespace) -> int:
    """Look at everything, and tell. Raises: Stop where there is no tree."""
    status = _status(args)
    if not isinstance(status, dict):
        require_tree(args.config)
    found = list(_findings(args, status))
    well = all(one.ok for one in found)
    if args.json:
        print_json({"well": well, "version": __version__, "findings": [attrs.asdict(one) for one in found]})
    else:
        _print(found)
    return WELL if well else UNWELL


def _print(found: list[CheckupFinding]) -> None:
    rows = [(_mark(one), one.area, one.text + (f"  -> {one.what_to_do}" if not one.ok else "")) for one in found]
    print_table(["", "AREA", "FINDING"], sorted(rows, key=lambda row: row[0] != "!"))
    bad = sum(not one.ok for one in found)
    print("well" if not bad else f"NOT WELL: {counted(bad, 'thing')} to look at")


def _mark(one: CheckupFinding) -> str:
    return "+" if one.ok else "!"


def _findings(args: argparse.Namespace, status: dict[str, Any] | NoDaemon | DaemonRefused) -> Iterator[CheckupFinding]:
    running = status if isinstance(status, dict) else None
    yield from _of_daemon(status)
    pid = running.get("pid") if running else None
    elsewhere = running is not None and not same_directory(running["tree"], args.config)
    if running is not None and elsewhere:
        yield CheckupFinding(
            area="tree", ok=True, text=f"the daemon follows {running['tree']}, which is not {args.config}"
        )
    if not elsewhere or (args.config / "relay.toml").exists():  # a daemon that pulls may have no tree here
        yield from _of_tree(args, running, pid)
    yield from memory_findings(host.available_memory(), memory_allowance().least)
    yield from room_findings(host.rooms(_places(args)))
    yield from host.unit_findings()


def _status(args: argparse.Namespace) -> dict[str, Any] | NoDaemon | DaemonRefused:
    try:
        status: dict[str, Any] = ask(args, patience=LOOK, verb="status")["status"]
        return status
    except (NoDaemon, DaemonRefused) as error:
        return error


def _of_daemon(status: dict[str, Any] | NoDaemon | DaemonRefused) -> Iterator[CheckupFinding]:
    match status:
        case dict():
            yield version_finding(status["version"], __version__)
            for ailment in status["ailments"]:
                text, advice = split_advice(ailment)
                yield CheckupFinding(area="daemon", ok=False, text=text, what_to_do=advice or "see `relayd status`")
        case NotForUs() | DaemonRefused():
            text, hint = split_hint(str(status))
            yield CheckupFinding(
                area="daemon", ok=False, text=text, what_to_do=hint or "run doctor as the daemon's user"
            )
        case _ if type(status) is not NoDaemon:  # it is there, and silent
            yield CheckupFinding(area="daemon", ok=False, text=str(status), what_to_do="see its log, restart it")
        case _:
            yield CheckupFinding(area="daemon", ok=True, text="no daemon answers here; what it would need is looked at")


def _of_tree(args: argparse.Namespace, running: dict[str, Any] | None, pid: int | None) -> Iterator[CheckupFinding]:
    deadline = time.time() + STEADY
    tree = read_coherent(args.config, wall=time.time, sleep=time.sleep, deadline=deadline)
    if isinstance(tree, Unstable):
        what = "name the tree with --config" if tree.absent else "finish what is going on there"
        yield CheckupFinding(area="tree", ok=False, text=f"{args.config}: {tree.reason}", what_to_do=what)
        return
    compiled = compile_tree(tree.files, reading=tree.problems)
    yield from _of_problems("tree", [one for one in compiled.problems if is_error(one)])
    files, snapshot = tree.files, compiled.snapshot
    if snapshot is not None:
        yield CheckupFinding(area="tree", ok=True, text=f"{args.config}: compiles, tree {tree.digest[:12]}")
    elif (stored := _stored(args)) is not None and (snapshot := compile_tree(stored.files).snapshot) is not None:
        files = stored.files
        text = f"its place is taken below by stored config {stored.number}, tree {stored.meta.digest[:12]}"
        yield CheckupFinding(area="tree", ok=True, text=text)
    if snapshot is None:
        text = "what it needs besides cannot be looked at: no config that ran is stored here"
        yield CheckupFinding(area="tree", ok=True, text=text)
        return
    yield from _of_snapshot(args, files, snapshot)
    yield from _of_sockets(snapshot, running, pid)


def _stored(args: argparse.Namespace) -> Generation | None:
    """The config that a daemon would start with where the tree has errors."""
    url = args.state or state_url_of(args.config)
    found, _ = newest(state_directory(url, args.config, _own()) / "generations")
    return found


def _of_problems(area: str, problems: list[Problem]) -> Iterator[CheckupFinding]:
    for one in problems[:10]:
        text, hint = split_hint(one.message)
        place = f"{one.file}:{one.line}: " if one.line else f"{one.file}: " if one.file else ""
        yield CheckupFinding(
            area=area, ok=False, text=f"{place}{text}", what_to_do=one.hint or hint or "see `relayd check`"
        )
    if len(problems) > 10:
        text = f"and {len(problems) - 10} more"
        yield CheckupFinding(area=area, ok=False, text=text, what_to_do="`relayd check --env` lists them")


def _of_snapshot(args: argparse.Namespace, files: Mapping[str, bytes], snapshot: Snapshot) -> Iterator[CheckupFinding]:
    lacking = list(environment_problems(files, snapshot, args.config, args.identity, os.environ))
    yield from _of_problems("identity", lacking)
    if not lacking:
        yield CheckupFinding(
            area="identity", ok=True, text="files and identities that the tree needs are here, and open it"
        )
    yield from store_findings(store_state(args, snapshot))
    if not args.offline:
        from relayd.daemon.accounts.reach import run_reach

        yield from reach_findings(run_reach(snapshot.accounts.values(), snapshot.relay, time.time))
    yield from host.permission_findings(state_directory(_state_url(args, snapshot), args.config, _own()))


def _of_sockets(snapshot: Snapshot, running: dict[str, Any] | None, pid: int | None) -> Iterator[CheckupFinding]:
    server, known = snapshot.relay.server, running or {}
    allowance = memory_allowance()
    workers = wanted_workers(server, allowance.workers(processors()))
    own, allowed = own_memory(workers), allowance.together
    yield from worker_findings(workers, processors(), server.max_memory, own, allowed)
    serving = known.get("workers", ()) if pid is not None else ()
    for one in serving or [{"pid": pid, "descriptors": known.get("descriptors")}]:  # each has its share of the clients
        wanted = server.max_connections // max(1, len(serving))
        yield from descriptor_findings(host.descriptors_of(one["pid"], one.get("descriptors"), wanted))
    if running is not None:
        yield from host.listening_findings(running.get("listen", ()))
    else:
        named = [part.strip() for part in os.environ.get("RELAYD_LISTEN", "").split(",") if part.strip()]
        yield from host.port_findings(named or snapshot.relay.server.listen)


def _places(args: argparse.Namespace) -> list[str]:
    """Directories that a full disk would hurt."""
    return [
        str(args.config),
        str(state_directory(args.state or state_url_of(args.config), args.config, _own())),
        _own(),
        os.environ.get("LOGS_DIRECTORY", ""),
    ]


def _state_url(args: argparse.Namespace, snapshot: Snapshot) -> str:
    return str(args.state or snapshot.relay.state.url)


def _own() -> str:
    return own_directory(os.environ)
