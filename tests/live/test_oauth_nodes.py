"""Four daemons, one Redis, one OAuth account: a provider that ends a family of tokens when one is used twice sees each
used once, whatever hundred calls and a `kill -9` do.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import daemon as daemons
import redis_server
from builders import KEY
from patient import FOUND, PROGRAM
from provider import provider
from upstream_api import call_status

from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret

NODES = ("n1", "n2", "n3", "n4")
PATIENCE = 30.0  # s


def call(at: daemons.Daemon) -> int:
    return call_status(at.port, KEY)


@attrs.define(eq=False)
class Nodes:
    """The daemons, each with a copy of the tree."""

    root: Path
    store: redis_server.RedisServer
    url: str
    identity: Any = attrs.field(factory=lambda: new_identity(os.urandom))
    running: dict[str, daemons.Daemon] = attrs.field(factory=dict)

    def account(self, name: str, tokens: dict[str, Any]) -> str:
        sealed = seal(
            Secret(json.dumps(tokens)),
            account_binding("test", name, self.url, f"{self.url}/token"),
            [self.identity.public],
        )
        return f'kind = "oauth"\nbase_url = "{self.url}"\n[credential]\nsealed = "{sealed}"\n'

    def start(self, accounts: dict[str, str]) -> None:
        relay = (
            f'[state]\nurl = "{self.store.url}"\n[oauth]\nclient_id = "ours"\ntoken_url = "{self.url}/token"\n'
            f'[secrets]\nrecipients = [{{ name = "prod", public = "{self.identity.public.text}" }}]\n'
            "[guard]\nmax_removed_share = 1.0\n"
        )
        write_identity(self.root / "identity", self.root / "none", self.identity)
        environment = {"RELAYD_IDENTITY": str(self.root / "identity"), **FOUND}

        def one(node: str) -> daemons.Daemon:
            tree = daemons.write_tree(self.root / node, relay=relay, accounts=accounts)
            return daemons.start(tree, "--node", node, environment=environment, program=PROGRAM)

        with ThreadPoolExecutor(len(NODES)) as pool:
            self.running = dict(zip(NODES, pool.map(one, NODES), strict=True))

    def put(self, accounts: dict[str, str]) -> None:
        """Commit these accounts in place of the others, and have every node reload."""
        for node in self.running.values():
            folder = node.tree / "accounts.d"
            for old in folder.glob("*.toml"):
                if old.stem not in accounts:
                    old.unlink()
            for name, text in accounts.items():
                (folder / f"{name}.toml").write_text(text)
            node.signal(signal.SIGHUP)

    def told(self, event: str) -> list[dict[str, Any]]:
        return [entry for node in self.running.values() for entry in node.events(event)]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        next(iter(self.running.values())).wait_until(condition, what)


def asking(nodes: Nodes) -> str:
    """The node whose name is in the note as the one that asks the provider; "" for none."""
    client = nodes.store.client()
    bodies = [body for key in client.keys("*") if client.type(key) == b"hash" for body in client.hvals(key)]
    found = [match[1].decode() for body in bodies if (match := re.search(rb'"asking":"(n[0-9])-', body))]
    return found[0] if found else ""


def end_lock(nodes: Nodes) -> None:
    """As the passing of its 30 s would."""
    client = nodes.store.client()
    (lock,) = [key for key in client.keys("*oauth/*") if client.type(key) == b"zset"]
    client.delete(lock)


def test_each_refresh_token_is_used_once_by_four_nodes_and_a_lost_rotation_is_told(tmp_path: Path) -> None:
    with ExitStack() as stack:
        tokens = stack.enter_context(provider())
        store = stack.enter_context(redis_server.running())
        nodes = Nodes(tmp_path, store, tokens.url)
        seed = tokens.sign_in("first")
        tokens.access.clear()  # the provider has revoked the access token, whatever its life
        nodes.start({"max": nodes.account("max", seed)})
        for node in nodes.running.values():
            stack.callback(node.kill)

        # A hundred calls, 25 at each node, are all refused before the one refresh is answered.
        tokens.release = lambda: tokens.refused >= 100
        at = [nodes.running[NODES[number % 4]] for number in range(100)]
        with ThreadPoolExecutor(100) as pool:
            assert list(pool.map(call, at)) == [200] * 100
        assert tokens.posts == [seed["refresh_token"]]
        assert tokens.revoked == set()

        # A node is killed between the provider's answer and storing it.
        tokens.release, tokens.hold = lambda: False, PATIENCE
        lost = tokens.sign_in("second", life=-10)
        nodes.put({"lost": nodes.account("lost", lost)})
        nodes.until(lambda: len(tokens.posts) == 2, "somebody to ask")
        victim = asking(nodes)
        dead = nodes.running.pop(victim)
        dead.kill()
        tokens.release = lambda: True
        end_lock(nodes)
        nodes.until(lambda: any(e.get("hint", "").startswith("sign in") for e in nodes.told("oauth.refresh_failed")),
                    "the loss to be told")  # fmt: skip
        interrupted = nodes.told("oauth.rotation_interrupted")
        assert interrupted
        assert all(entry["level"].upper() == "WARNING" for entry in interrupted)
        assert interrupted[0]["node"].startswith(f"{victim}-")
        assert tokens.posts[1] == lost["refresh_token"]
        survivor = next(iter(nodes.running.values()))
        assert call(survivor) != 200

        # A new sign-in in git wins, at once.
        again = tokens.sign_in("third")
        nodes.put({"lost": nodes.account("lost", again)})
        for node in nodes.running.values():
            node.wait_until(lambda node=node: call(node) == 200, "the new seed to serve")

        # Without the store nothing is refreshed: two nodes would spend one token.
        store.stop()
        asked = len(tokens.posts)
        tokens.access.clear()
        assert call(survivor) != 200
        survivor.wait_for("oauth.refresh_failed")
        assert len(tokens.posts) == asked
        for node in nodes.running.values():
            node.stop()
