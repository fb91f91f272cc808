"""Two daemons on one state store: each knows what the other runs, and says who is behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from builders import KEY
from daemon import Daemon, control_answer, running, start, write_tree
from redis_server import RedisServer
from redis_server import running as redis_running
from skewed import clock_of
from upstream_api import call_status

from relayd.cli import main

REFUSED = 'kind = "simulator"\n[simulator]\nstatus = 401\n'
GOOD = "[limits]\nconcurrency = 7\n"
BROKEN = "[limits]\nconcurency = 7\n"


@attrs.define
class Node:
    """A daemon, asked as an operator asks."""

    name: str
    daemon: Daemon
    control: Path

    def write(self, relay: str) -> None:
        """Another relay.toml, as an editor saves it."""
        place = self.daemon.tree / "relay.toml"
        fresh = place.with_name(".relay.toml.new")
        fresh.write_text(f'schema = 1\nrealm = "test"\n{relay}\n[admin]\nlisten = ""\n')
        fresh.replace(place)

    def run(self, *words: str) -> int:
        return main([*words, "--config", str(self.daemon.tree), "--control", str(self.control)])

    def asked(self, verb: str) -> Any:
        """One answer of the control socket."""
        return control_answer(self.control, verb, patience=30)[verb]

    def sees(self) -> dict[str, str]:
        """What the nodes run, by name."""
        return {one["node"]: one["digest"] for one in self.asked("status")["nodes"]}

    def behind(self) -> list[str]:
        drift = self.asked("status")["drift"]
        return [one["node"] for one in drift["behind"]] if drift is not None else []

    def until(self, condition: Any, what: str) -> None:
        self.daemon.wait_until(condition, what)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, RedisServer | None]]:
    """URL, and the server that can be taken away."""
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path}/shared/relayd.db", None
    else:
        with redis_running() as server:
            yield server.url, server


def test_a_broken_tree_on_one_node_is_drift_until_it_is_mended(
    store: tuple[str, RedisServer | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, server = store
    nodes = [(name, tmp_path / name, tmp_path / f"{name}.sock") for name in ("a", "b")]
    options = [("--state", url, "--node", name, "--control", str(control), "--no-watch") for name, _, control in nodes]
    trees = [write_tree(root) for _, root, _ in nodes]
    with running(trees[0], *options[0]) as first, running(trees[1], *options[1]) as second:
        a, b = Node("a", first, nodes[0][2]), Node("b", second, nodes[1][2])
        a.until(lambda: set(a.sees()) == {"a", "b"} == set(b.sees()), "each to know the other")
        assert len(set(a.sees().values())) == 1
        assert a.run("status") == 0
        assert "nodes: 2, all run the same\n" in capsys.readouterr().out

        a.write(GOOD)
        b.write(BROKEN)
        assert (a.run("reload"), b.run("reload")) == (0, 1)
        b.until(lambda: a.behind() == b.behind() == ["b"], "both to say that b is behind")
        status = a.asked("status")
        here, there = status["nodes"]
        assert (here["this"], here["result"], there["this"], there["result"]) == (True, "applied", False, "rejected")
        assert status["drift"]["lead"] == "a"
        assert status["drift"]["behind"][0]["since"] == here["since"]
        assert here["digest"] != there["digest"]
        metrics = a.asked("metrics")
        for node in (here, there):
            assert f'relayd_nodes{{tree_digest="{node["digest"][:12]}"}} 1\n' in metrics
        assert float(metrics.partition("\nrelayd_config_drift_seconds ")[2].split()[0]) > 0
        capsys.readouterr()
        a.run("status")
        out = capsys.readouterr().out
        assert "nodes: 2, a change is on its way: 1 node behind a, since " in out
        assert f"  - b: tree {there['digest'][:12]}; BEHIND since " in out

        b.write(GOOD)
        assert b.run("reload") == 0
        a.until(lambda: not a.behind() and not b.behind(), "the drift to end")
        assert len(set(a.sees().values())) == 1
        assert "\nrelayd_config_drift_seconds 0\n" in a.asked("metrics")

        second.stop()
        a.until(lambda: set(a.sees()) == {"a"}, "b to have left")

        if server is not None:
            server.stop()
            a.until(lambda: a.asked("status")["nodes_problem"] != "", "the others to be unknown")
            a.write("")
            assert a.run("reload") == 0
            capsys.readouterr()
            a.run("status")
            assert "nodes: the others are unknown (" in capsys.readouterr().out


def test_a_node_whose_clock_is_wrong_says_so_and_hears_of_rests_all_the_same(tmp_path: Path) -> None:
    trees = [write_tree(tmp_path / name, accounts={"bad": REFUSED}) for name in ("right", "behind")]
    controls = [tree.parent / "control.sock" for tree in trees]
    with redis_running() as server:
        options = [("--state", server.url, "--node", str(n), "--control", str(controls[n])) for n in range(2)]
        with running(trees[0], *options[0]) as first:
            second = start(trees[1], *options[1], environment=clock_of(-3600), program=("-m", "skewed"))
            try:
                right, behind = (Node(name, first, control) for name, control in zip("ab", controls, strict=True))
                right.until(lambda: len(behind.asked("status")["nodes"]) == 2, "the nodes to know each other")
                # Measured anew for each who asks; what a busy machine makes of one question, the next one mends.
                said = "the clock of this node is 3600 s behind that of the state store: "
                right.until(lambda: [text.startswith(said) for text in of_clocks(behind)] == [True], said)
                right.until(lambda: abs(right.asked("status")["store_clock_ahead"]) < 2, "a clock that is right")
                assert of_clocks(right) == []

                assert call_status(first.port, KEY) != 200
                for node in (right, behind):
                    right.until(
                        lambda node=node: any("account bad" in text for text in node.asked("status")["ailments"]),
                        f"{node.name} to know that the account is not let in",
                    )
                second.stop()
            finally:
                second.kill()


def of_clocks(node: Node) -> list[str]:
    return [text for text in node.asked("status")["ailments"] if "clock" in text]
