"""Upgrades node by node behind HAProxy, through every version of the state's tables, and a node on another commit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
import trio
from builders import KEY
from cluster_world import LEASE, NODES, Outcome, world
from daemon import Daemon, control_answer, key_text, start, write_tree
from fleet import PORT
from netspaces import Network
from old_code import ROOT, unpack
from proxies import SITE, Proxy, haproxy
from redis_server import sentinels
from steady_calls import SteadyCalls, Way, steady_calls
from waiting import wait_until

from relayd.core.cluster import DRIFT_AFTER

CALLS = 60  # between two restarts
TABLES = "relayd/state/sqlite_file.py"


@attrs.frozen
class Release:
    """Code that a node may run.

    Args:
        module: as `python -m`.
        waits: it knows `[server].drain_delay`, so that it can be stopped without a word to the proxy.
    """

    name: str
    environment: Mapping[str, str]
    module: str = "relayd"
    waits: bool = True


def releases(place: Path) -> list[Release]:
    """The newest commit with each older version of the tables, this checkout, and one that is still to come."""
    found: dict[int, str] = {}
    commits = _git("log", "--format=%h", "--", TABLES).split()
    for commit in commits:
        tables = re.search(r"^MIGRATIONS.*= \((.*)\)", _git("show", f"{commit}:{TABLES}"), re.MULTILINE)
        if tables is not None:
            found.setdefault(tables[1].rstrip(",").count(",") + 1, commit)
    now = max(found)
    made = []
    for version in sorted(found.keys() - {now}):
        code = place / found[version]
        unpack(found[version], code)
        waits = "drain_delay" in (code / "relayd" / "config" / "snapshot.py").read_text()
        environment = {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
        made.append(Release(f"{found[version]} (tables {version})", environment, waits=waits))
    made.append(Release(f"this checkout (tables {now})", {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}))
    later = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'live'}", "PYTHONSAFEPATH": "1"}
    return [*made, Release(f"a later one (tables {now + 1})", later, "next_release")]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@attrs.define(eq=False)
class Rolling:
    """Three nodes that are upgraded while calls come by way of a proxy."""

    network: Network
    place: Path
    state: str
    nodes: dict[int, Daemon] = attrs.field(factory=dict)
    runs: dict[int, Release] = attrs.field(factory=dict)
    starts: int = 0

    def begin(self, number: int, release: Release) -> None:
        site, root = self.network.sites[f"n{number}"], self.place / f"n{number}"
        delay = '[server]\ndrain_delay = "1s"\n' if release.waits else ""  # longer than some health checks
        keys = {"dev": key_text(KEY, "[limits]\ndaily_requests = 1000000\n")}
        write_tree(root, relay=f'{delay}[state]\nlease = "{LEASE:g}s"\n', keys=keys)
        self.runs[number] = release
        self.starts += 1
        words = ("--listen", f"{site.near}:{PORT}", "--node", f"n{number}", "--control", str(root / "control.sock"))
        self.nodes[number] = start(
            root / "tree",
            *words,
            "--state",
            self.state,
            environment={**release.environment, "STATE_DIRECTORY": str(root)},
            output=root / f"daemon.{self.starts}.log",
            program=("-m", release.module),
            enter=site.enter,
        )

    def calls_at(self, number: int) -> int:
        control = self.place / f"n{number}" / "control.sock"
        return int(control_answer(control, "status")["status"]["calls"])

    def booked(self, release: Release) -> int:
        site, tree = self.network.sites["n0"], self.place / "n0" / "tree"
        words = ["-m", release.module, "report", "--json", "--config", str(tree), "--state", self.state]
        command = [*site.enter, sys.executable, *words]
        ran = subprocess.run(command, env={**os.environ, **release.environment}, capture_output=True, check=True)
        return int(json.loads(ran.stdout)["requests"])


def upgrades(network: Network, place: Path, *, store: str) -> Outcome:
    """Every version of the tables after the other, node by node."""
    out = Outcome(f"rolling upgrades behind HAProxy, state in {store}")
    chain = releases(place)
    if store == "sqlite":
        roll(out, Rolling(network, place, f"sqlite:{place}/state/relayd.db"), chain)
        return out
    machines = [network.sites[name] for name in ("r0", "r1", "s0", "s1", "s2")]
    with sentinels(sites=machines) as (_, watchers):
        url = "redis+sentinel://" + ",".join(f"{one.site.host}:{one.port}" for one in watchers) + "/mymaster"
        roll(out, Rolling(network, place, url), chain)
    return out


def roll(out: Outcome, rolling: Rolling, chain: list[Release]) -> None:
    (rolling.place / "proxy").mkdir()
    addresses = [f"{rolling.network.sites[f'n{number}'].near}:{PORT}" for number in range(NODES)]
    try:
        for number in range(NODES):
            rolling.begin(number, chain[0])
        with haproxy(rolling.place / "proxy", addresses, "127.0.0.1:1") as proxy:
            way = Way(proxy.url, name=SITE, verify=proxy.trust)
            with steady_calls(way) as calls:
                calls.wait_for(CALLS)
                for release in chain[1:]:
                    upgrade(out, rolling, proxy, calls, release)
        for node in rolling.nodes.values():
            node.stop()
        booked = rolling.booked(chain[-1])
        out.note("calls, failed, in the books", f"{len(calls.took)}, {len(calls.failures)}, {booked}")
        out.must(not calls.failures, f"{len(calls.failures)} calls failed: {calls.failures[:3]}")
        out.must(booked == len(calls.took), f"{booked} calls in the books, {len(calls.took)} were served")
    finally:
        for node in rolling.nodes.values():
            node.kill()


def upgrade(out: Outcome, rolling: Rolling, proxy: Proxy, calls: SteadyCalls, release: Release) -> None:
    """Node after node: stop it, start the next version, wait until it serves.

    The proxy's health checks do the rest; a node that is too old to wait for them is taken out by hand.
    """
    began, before = time.monotonic(), len(calls.took)
    for number in range(NODES):
        by_hand = not rolling.runs[number].waits
        if by_hand:
            proxy.tell(f"set server relayd/node{number + 1} state drain")
            wait_until(lambda number=number: rolling.calls_at(number) == 0, "its calls to end")
        rolling.nodes[number].stop()
        rolling.begin(number, release)
        if by_hand:
            proxy.tell(f"set server relayd/node{number + 1} state ready")
        calls.wait_for(CALLS)
    out.note(f"to {release.name}", f"{time.monotonic() - began:.1f} s, {len(calls.took) - before} calls")


async def rolling_redis(network: Network, place: Path) -> Outcome:
    return await trio.to_thread.run_sync(lambda: upgrades(network, place, store="redis"))


async def rolling_sqlite(network: Network, place: Path) -> Outcome:
    return await trio.to_thread.run_sync(lambda: upgrades(network, place, store="sqlite"))


async def drift(network: Network, place: Path) -> Outcome:
    """One node on another commit, and what the others say of it; then all on that one."""
    out = Outcome("a node on another commit")
    async with world(network, place, keys={"dev": key_text(KEY)}) as at:
        trees = [at.relays.tree(number) for number in range(NODES)]
        controls = [tree.parent / "control.sock" for tree in trees]

        def status(number: int) -> dict[str, object]:
            found: dict[str, object] = control_answer(controls[number], "status")["status"]
            return found

        def behind(number: int) -> list[str]:
            apart = status(number)["drift"]
            return sorted(one["node"] for one in apart["behind"]) if apart else []

        for tree in trees:
            commit(tree, "first")
        await at.until(lambda: all(len(status(number)["nodes"]) == NODES for number in range(NODES)), "all to meet")
        change(trees[2])
        began = time.monotonic()
        reload(at.relays.nodes[2])
        await at.until(lambda: all(behind(one) == ["n0", "n1"] for one in range(NODES)), "all to see the drift")
        out.note("every node says who is behind after", f"{time.monotonic() - began:.1f} s")
        head = _head(trees[2])
        told = {one["node"]: one["commit"] for one in status(0)["nodes"]}
        out.must(told["n2"] == head, f"n0 says that n2 runs {told['n2']}, and it runs {head}")
        network.cut("n2")
        await at.until(lambda: status(2)["nodes_problem"] != "", "n2 to know nobody")
        out.must(behind(2) == ["n0", "n1"] or behind(2) == [], f"n2, cut off, says {behind(2)}")
        await at.heal(2)
        await at.until(
            lambda: any(at.events(number, "fleet.drift") for number in range(NODES)), "an alert", 2 * DRIFT_AFTER
        )
        out.note("told as an alert after", f"{time.monotonic() - began:.0f} s")
        said = [text for text in status(1)["ailments"] if text.startswith("DRIFT: node n0")]
        out.must(bool(said), f"n1's ailments: {status(1)['ailments']}")
        metrics = control_answer(controls[1], "metrics")["metrics"]
        seconds = float(metrics.partition("\nrelayd_config_drift_seconds ")[2].split()[0])
        out.must(seconds > DRIFT_AFTER, f"n1's metric of drift says {seconds} s")
        for number in (0, 1):
            change(trees[number])
            reload(at.relays.nodes[number])
        await at.until(lambda: not any(behind(number) for number in range(NODES)), "the drift to end")
        await at.until(lambda: any(at.events(number, "fleet.agrees") for number in range(NODES)), "the end to be told")
    return out


def change(tree: Path) -> None:
    path = tree / "keys.d" / "dev.toml"
    path.write_text(key_text(KEY, "[limits]\nconcurrency = 7\n"))
    commit(tree, "second")


def commit(tree: Path, message: str) -> None:
    who = ("-c", "user.name=op", "-c", "user.email=op@example.com", "-c", "commit.gpgsign=false")
    for words in (("init", "--quiet"), ("add", "--all"), (*who, "commit", "--quiet", "--message", message)):
        subprocess.run(["git", *words], cwd=tree, check=True, capture_output=True)


def _head(tree: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tree, check=True, capture_output=True, text=True
    ).stdout.strip()


def reload(node: Daemon) -> None:
    node.signal(signal.SIGHUP)
