"""Alerts of two daemons on one Redis, to a real receiver: each thing is told once, whoever saw it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import daemon as daemons
import httpx2
import pytest
import redis_server
from builders import KEY, OTHER_KEY
from fleet import noon_zone
from patient import FOUND, PROGRAM
from receivers import Receiver, receiving

from relayd.cli import main
from relayd.wire.current_models import SMALL

FAST = 'url_file = "hook"\nallow_private = true\ngather = "300ms"\ncalm = "1s"\nrepeat = "0s"\n'
ZONE = f'[state]\ntimezone = "{noon_zone()}"\n'
RELAY = f'{ZONE}[alerts.ops]\n{FAST}[alerts.team]\n{FAST}keys = ["dev"]\nevents = ["limit.*"]\nrecoveries = false\n'
REFUSED = 'kind = "simulator"\ngroups = ["refused"]\n[simulator]\nstatus = 401\n'


class Pair:
    """Two daemons with the same tree, and what they told."""

    def __init__(self, place: Path, redis: redis_server.RedisServer, receiver: Receiver) -> None:
        self.redis, self.receiver, self.place = redis, receiver, place
        self.nodes: dict[str, daemons.Daemon] = {}

    def start(self, *names: str) -> None:
        for name in names:
            root = self.place / name
            keys = {
                "dev": daemons.key_text(KEY, "[limits]\ndaily_requests = 5"),
                "refused": daemons.key_text(OTHER_KEY, 'groups = ["refused"]'),
            }
            tree = daemons.write_tree(root, relay=RELAY, accounts={"sim": daemons.SIMULATOR, "bad": REFUSED}, keys=keys)
            (root / "hook").write_text(self.receiver.url)
            options = ("--state", self.redis.url, "--control", str(root / "control.sock"), "--node", name)
            self.nodes[name] = daemons.start(tree, *options, environment={"TZ": "UTC", **FOUND}, program=PROGRAM)

    def call(self, name: str, key: str, model: str = SMALL) -> int:
        body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        return httpx2.post(
            f"{self.nodes[name].url}/v1/messages", json=body, headers={"x-api-key": key}, timeout=60
        ).status_code

    def write(self, text: str) -> None:
        for node in self.nodes.values():
            place = node.tree / "relay.toml"
            fresh = place.with_name(".relay.new")
            fresh.write_text(f'schema = 1\nrealm = "test"\n{RELAY}{text}[admin]\nlisten = ""\n')
            fresh.replace(place)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        next(iter(self.nodes.values())).wait_until(condition, f"{what}; told: {self.receiver.told}")

    def told(self, *expected: str) -> None:
        """Wait until all of this was told to `ops`."""
        self.until(lambda: set(expected) <= set(self.to("ops")), str(expected))

    def to(self, target: str) -> list[str]:
        return [
            f"{one['saying']} {one['event']}"
            for document in self.receiver.documents
            if document["target"] == target
            for one in document["events"]
        ]

    def verb(self, name: str, *words: str) -> int:
        node = self.nodes[name]
        control = str(node.tree.parent / "control.sock")
        return main([*words, "--config", str(node.tree), "--control", control])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with redis_server.running() as redis, receiving() as receiver:
        found = Pair(tmp_path, redis, receiver)
        try:
            yield found
        finally:
            for node in found.nodes.values():
                node.kill()


def test_two_nodes_tell_each_thing_once_through_a_bad_deploy_a_change_of_teller_and_an_outage(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.start("n1", "n2")
    # A key comes to its limit by calls on both nodes; an upstream refuses a credential on both.
    assert [pair.call(name, KEY) for name in ("n1", "n2", "n1", "n2")] == [200] * 4
    pair.told("once limit.near")
    assert pair.call("n1", KEY) == 200
    assert pair.call("n2", KEY) == 429
    for name in ("n1", "n2"):
        pair.call(name, OTHER_KEY)
    pair.told("once limit.near", "once limit.reached", "begins account.credential", "begins group.down")
    # A bad deploy reaches both, and is mended.
    pair.write("[limits]\nconcurency = 1\n")
    pair.told("begins reload.rejected")
    for node in pair.nodes.values():
        node.wait_for("reload.rejected")

    def is_shown() -> bool:
        pair.verb("n2", "alert", "list")
        shown = capsys.readouterr().out
        return "reload.rejected" in shown and "for: ops; told: ops" in shown

    pair.until(is_shown, "the list to have it")
    pair.write("")
    pair.told("ends reload.unchanged")
    # Whoever tells leaves; the other goes on, and tells nothing again.
    teller = "n1" if pair.nodes["n1"].events("alert.delivered") else "n2"
    pair.nodes.pop(teller).stop()
    (left,) = pair.nodes
    pair.write("[limits]\nconcurency = 2\n")
    pair.until(lambda: pair.to("ops").count("begins reload.rejected") == 2, "the second rejection")
    # The store goes away and comes back.
    pair.redis.stop()
    pair.told("begins state.unavailable")
    pair.redis.start()
    pair.told("ends state.available")

    pair.until(lambda: len(pair.to("team")) >= 2, "the team to be told as well")
    count = Counter(pair.to("ops"))
    assert count.pop("begins reload.rejected") == 2
    assert set(count.values()) == {1}, count
    assert Counter(pair.to("team")) == {"once limit.near": 1, "once limit.reached": 1}
    assert pair.verb(left, "alert", "test", "team") == 0
    assert pair.to("team")[-1] == "once alert.test"


def test_a_receiver_that_is_down_is_told_all_of_it_later_and_status_says_so_meanwhile(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.receiver.answers = [500, *[(429, {"retry-after": "1"})] * 100]
    pair.start("n1")
    pair.call("n1", OTHER_KEY)
    node = pair.nodes["n1"]
    failed = node.wait_for("alert.failed")
    assert failed[0]["reason"] == "status 500"
    assert pair.verb("n1", "alert", "list", "--json") == 0
    (ops,) = [one for one in json.loads(capsys.readouterr().out)["targets"] if one["target"] == "ops"]
    assert ops["failing_since"]
    assert ops["failed"] >= 1
    assert pair.verb("n1", "alert", "test", "ops") == 1  # 429 by now
    assert "status 429" in capsys.readouterr().err
    pair.receiver.answers.clear()
    pair.until(lambda: bool(node.events("alert.delivered")), "the notice in the end")

    assert "a-secret-path" not in node.text()
    assert "begins account.credential" in pair.to("ops")
    assert "localhost" not in node.text()
