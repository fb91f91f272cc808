"""relayd status: what the running daemon runs, and what is wrong with it.

Rule: what is wrong comes first, then what runs, then the rest; one thing a line, ages beside times. It is
read on bad days.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from relayd import __version__
from relayd.cli.control_client import (
    DaemonRefused,
    NoDaemon,
    add_control,
    ask,
    place_and_message,
    refused,
    tree_in_words,
)
from relayd.cli.output import counted, read_moment, span

WELL, UNWELL = 0, 1
LOOK = 10.0  # s to wait for an answer
EVERY = 2.0  # s between looks of --watch
PROBLEMS = 5  # shown of a broken tree; `relayd check` has all
KEYS = 5  # shown of those that end soon


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_control(parser)
    parser.add_argument(
        "--watch", action="store_true", help="a live table on a terminal; else look again every 2 s; until Ctrl-C"
    )
    parser.epilog = "exit status: 0 well, 1 unwell, 2 usage, 5 no daemon"


def main(args: argparse.Namespace) -> int:
    if args.watch and not args.json and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from relayd.cli.status_screen import watch

        return watch(lambda: ask(args, patience=LOOK, verb="status")["status"], EVERY)
    while True:
        code = show(args)
        if not args.watch:
            return code
        sys.stdout.flush()
        time.sleep(EVERY)


def show(args: argparse.Namespace) -> int:
    """One look."""
    try:
        status = ask(args, patience=LOOK, verb="status")["status"]
    except (NoDaemon, DaemonRefused) as error:
        return refused(args, error)
    if args.json:
        print(json.dumps(status, indent=None if args.watch else 2))
    else:
        sys.stdout.write(_told(status) + ("\n" if args.watch else ""))
    return WELL if status["well"] else UNWELL


def _told(status: dict[str, Any]) -> str:
    """A daemon that was not restarted after an upgrade may know less than we show."""
    try:
        return in_words(status)
    except KeyError as error:
        text = f"the daemon (relayd {status['version']}) does not say {error}, which relayd {__version__} shows"
        ailments = "".join(f"! {ailment}\n" for ailment in status["ailments"])
        return f"{ailments}{text} [restart it; until then `relayd status --json`]\n"


def in_words(status: dict[str, Any]) -> str:
    """A status document for people."""
    return "".join(f"{line}\n" for line in _lines(status))


def _lines(status: dict[str, Any]) -> Iterator[str]:
    now = read_moment(status["now"])
    drain = "; DRAINING: it takes no new calls, and ends when those in flight have ended"
    draining = drain if status["draining"] else ""
    yield f"relayd {status['version']} on {status['node']}, realm {status['realm']}, tree {status['tree']}{draining}"
    yield "well" if status["well"] else "NOT WELL"
    yield from (f"! {ailment}" for ailment in status["ailments"])
    if not status["ready"]:
        yield f"NOT READY: /readyz is 503 ({', '.join(status['unready'])})"
    yield from _running(status["running"], now)
    yield from _candidate(status["candidate"], "is on disk" if status.get("source") is None else "was pulled", now)
    yield from _source(status.get("source"), now)
    watch = _watch(status["watch"]) if status.get("source") is None else "watch: not needed"
    yield f"{watch}; {counted(status['generations_live'], 'generation')} in use"
    yield f"up: since {_since(status['started'], now)}; {counted(status['calls'], 'call')} in flight, " + counted(
        status["connections"]["open"], "connection"
    )
    yield from _workers(status.get("workers", []), status.get("workers_wanted", 1))
    if status["state"]["up"]:
        yield "state: the store answers"
    yield from _nodes(status, now)
    yield _keys(status["keys"])
    yield from _ending(status, now)
    yield from _secrets(status["secrets"])
    serving = sum(row["serves"] for row in status["accounts"])
    yield f"accounts: {serving} of {len(status['accounts'])} can serve"
    for row in sorted(status["accounts"], key=lambda row: row["serves"]):  # those that do not serve first
        yield f"  {'+' if row['serves'] else '-'} {row['id']}: {row['reason']}"


def _running(running: dict[str, Any], now: datetime.datetime) -> Iterator[str]:
    stored = f", from stored generation {running['stored_generation']}" if running["stored_generation"] else ""
    yield f"running: generation {running['generation']}, {tree_in_words(running)}{stored}"
    yield f"  since {_since(running['since'], now)}, by {running['trigger']}"


def _candidate(candidate: dict[str, Any] | None, there: str, now: datetime.datetime) -> Iterator[str]:
    if candidate is None:
        yield f"candidate: none; the daemon runs what {there}"
        return
    tree = tree_in_words(candidate) if candidate["digest"] else "the tree"
    yield f"candidate: {tree} is {candidate['result']}, since {_since(candidate['since'], now)}"
    yield from (f"  {reason}" for reason in candidate["reasons"])
    errors = [problem for problem in candidate["problems"] if problem["severity"] == "error"]
    yield from (f"  {place_and_message(problem)}" for problem in errors[:PROBLEMS])
    more = len(errors[PROBLEMS:]) + candidate["more_problems"]
    if more:
        yield f"  and {more} more (`relayd check` lists them)"
    if candidate["accept"]:
        yield f"  `relayd diff` shows it, `relayd reload --accept {candidate['accept'][:12]}` applies it"


def _source(source: dict[str, Any] | None, now: datetime.datetime) -> Iterator[str]:
    """Nothing where the tree is not pulled."""
    if source is None:
        return
    fetched = f"fetched {_since(source['fetched'], now)}" if source["fetched"] else "not fetched since the start"
    signed = ", signatures are verified" if source["signed"] else ""
    yield f"source: commit {source['taken'][:12] or 'none'} taken, {fetched}{signed}"
    if source["error"]:
        times = f" ({counted(source['failures'], 'failure')} in a row)" if source["failures"] else ""
        yield f"  last error: {source['error']}{times}"
    if source["held"] is not None:
        yield f"  HELD: the head of the branch, commit {source['held']['commit'][:12]}, is not taken"
        yield from (f"    {reason}" for reason in source["held"]["reasons"])
        yield f"    `relayd reload --accept {source['accept']}` takes it all the same"


def _watch(watch: dict[str, Any]) -> str:
    last = f", last look {watch['last_look_seconds']:.1f} s ago" if watch["last_look_seconds"] is not None else ""
    failure = f" ({watch['failure']})" if watch["failure"] else ""
    return f"watch: {watch['backend']}{failure}{last}"


def _workers(workers: list[dict[str, Any]], wanted: int) -> Iterator[str]:
    """The processes that serve, where they are several. Those that are starting are nothing to worry about yet."""
    if wanted > 1:
        yield f"workers: {len({one['worker'] for one in workers if one['stage'] == 'serving'})} of {wanted} serve"
    for one in workers:
        stage = "" if one["stage"] == "serving" else f" {one['stage']}"
        under_way = f"{counted(one['calls'], 'call')}, {counted(one['connections'], 'connection')}"
        yield f"  worker {one['worker']}{stage}: pid {one['pid']}, {under_way}, {one['memory_bytes'] >> 20} MB"


def _nodes(status: dict[str, Any], now: datetime.datetime) -> Iterator[str]:
    """Nothing for a node that is alone, and knows it."""
    nodes, drift = status["nodes"], status["drift"]
    if status["nodes_problem"]:
        yield f"nodes: the others are unknown ({status['nodes_problem']})"
    if len(nodes) < 2:
        return
    behind = {one["life"]: one["since"] for one in drift["behind"]} if drift else {}
    if drift is None:
        yield f"nodes: {len(nodes)}, all run the same"
    else:
        word = "DRIFT" if drift["lasting"] else "a change is on its way"
        yield f"nodes: {len(nodes)}, {word}: {counted(len(behind), 'node')} behind {drift['lead']}, since " + _since(
            drift["since"], now
        )
    yield from (_node(node, behind.get(node["life"]), nodes, now) for node in nodes)


def _node(node: dict[str, Any], behind: str | None, nodes: list[dict[str, Any]], now: datetime.datetime) -> str:
    twice = sum(other["node"] == node["node"] for other in nodes) > 1
    name = f"{node['node']}#{node['life']}" if twice else node["node"]
    said = ["this one"] if node["this"] else []
    said += [f"BEHIND since {_since(behind, now)}"] if behind is not None else []
    if node["result"] != "applied":
        same = behind == node["result_since"]
        said.append(node["result"] + ("" if same else f" since {_since(node['result_since'], now)}"))
    said += ["draining"] if node["draining"] else []
    versions = {other["version"] for other in nodes}
    said += [f"relayd {node['version']}"] if len(versions) > 1 else []
    dirty = {None: "", False: ", clean", True: ", dirty"}[node["dirty"]]
    commit = f" (commit {node['commit'][:12]}{dirty})" if node["commit"] not in ("", "unknown") else ""
    return f"  {'-' if behind is not None else '+'} {name}: tree {node['digest'][:12]}{commit}" + "".join(
        f"; {one}" for one in said
    )


def _keys(keys: dict[str, int]) -> str:
    rest = [f"{keys[state]} {state}" for state in ("disabled", "denied", "expired") if keys[state]]
    return f"keys: {keys['active']} active" + (f", {', '.join(rest)}" if rest else "")


def _ending(status: dict[str, Any], now: datetime.datetime) -> Iterator[str]:
    ending = status["keys_ending"]
    for key in ending[:KEYS]:
        yield f"  {key['id']} ends at {key['expires']} (in {span((read_moment(key['expires']) - now).total_seconds())})"
    more = len(ending[KEYS:]) + status["more_keys_ending"]
    if more:
        yield f"  and {more} more end within 30 days (--json names them)"


def _secrets(secrets: dict[str, Any]) -> Iterator[str]:
    """Nothing where nothing is sealed."""
    if not secrets["recipients"] and not secrets["identities"]:
        return
    loaded = ", ".join(one["name"] or one["kid"] for one in secrets["identities"]) or "none"
    yield f"secrets: identities loaded here: {loaded}"
    for one in secrets["recipients"]:
        yield f"  {one['name'] or one['kid']} ({one['state']}) opens {counted(one['values'], 'value')}"


def _since(text: str, now: datetime.datetime) -> str:
    """`2026-11-28T03:20:11Z (5 min)`."""
    return f"{text} ({span((now - read_moment(text)).total_seconds())})"
