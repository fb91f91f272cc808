"""Refresh tokens that may be used once, while the node that asks for the next ones is cut off from its store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import trio
from builders import KEY
from cluster_world import NODES, Outcome, World, world
from daemon import key_text
from fleet import eventually
from ledger import asking
from netspaces import Network
from provider import Provider, provider

from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret
from relayd.daemon.accounts.oauth import GRACE, LOCK_MS

PORT = 9001  # of the provider, on each node's loopback
LIFE = 180  # s of the seed's token; the half of it is used before it is refreshed


async def one_refresh(network: Network, place: Path) -> Outcome:
    """A node is cut off in mid-rotation for longer than its lock lives; then while the others refresh."""
    out = Outcome("OAuth tokens, each refresh token used once through two partitions")
    sockets = [network.listening(f"n{number}", PORT) for number in range(NODES)]
    with provider(sockets) as at:
        seed = at.sign_in("max", life=LIFE)
        relay, files, environment = signed_in(place.parent, at, seed)
        async with world(
            network,
            place,
            keys={"dev": key_text(KEY)},
            relay=relay,
            files=files,
            environments=dict.fromkeys(range(NODES), environment),
        ) as cluster:
            at.release, at.hold = lambda: False, 60.0
            await in_mid_rotation(out, cluster, at, seed)
            await while_others_refresh(out, cluster, at)
            out.note("refresh tokens used, more than once", f"{len(at.posts)}, {len(at.posts) - len(set(at.posts))}")
            out.must(not at.revoked, "the provider has ended the family of tokens")
    return out


def signed_in(root: Path, at: Provider, seed: dict[str, object]) -> tuple[str, dict[str, str], dict[str, str]]:
    """Tables of relay.toml, files and environment of a node with an OAuth account that serves before the other."""
    identity = new_identity(os.urandom)
    write_identity(root / "identity", root / "none", identity)
    binding = account_binding("test", "max", at.url, f"{at.url}/token")
    sealed = seal(Secret(json.dumps(seed)), binding, [identity.public])
    relay = (
        f'[oauth]\nclient_id = "ours"\ntoken_url = "{at.url}/token"\n[upstream]\nmodels_every = "0s"\n'
        f'[secrets]\nrecipients = [{{ name = "prod", public = "{identity.public.text}" }}]\n'
    )
    account = f'kind = "oauth"\nbase_url = "{at.url}"\npriority = 1\n[credential]\nsealed = "{sealed}"\n'
    return relay, {"accounts.d/max.toml": account}, {"RELAYD_IDENTITY": str(root / "identity")}


async def in_mid_rotation(out: Outcome, cluster: World, at: Provider, seed: dict[str, object]) -> None:
    await cluster.until(lambda: bool(at.posts), "somebody to ask", LIFE)
    victim = await asker(cluster)
    cluster.network.cut(f"n{victim}")
    began = time.monotonic()
    at.release = lambda: True
    node = cluster.relays.nodes[victim]
    await cluster.until(lambda: bool(node.events("oauth.not_stored")), "the answer to lie at the node")
    others = [number for number in range(NODES) if number != victim]
    await cluster.until(
        lambda: any(cluster.events(number, "oauth.rotation_interrupted") for number in others), "the others to wonder"
    )
    await trio.sleep(GRACE + 1)
    apart = time.monotonic() - began
    out.note("cut off in mid-rotation for, its lock lives", f"{apart:.0f} s, {LOCK_MS / 1000:.0f} s")
    out.must(at.posts == [seed["refresh_token"]], f"{len(at.posts)} refreshes were asked for")
    await served_by_the_account(out, cluster, at, others, "while a node was cut off")
    await cluster.heal(victim)
    await all_have_the_newest(cluster, at)
    out.must(len(at.posts) == 1, f"{len(at.posts)} refreshes were asked for")
    await served_by_the_account(out, cluster, at, range(NODES), "with the new tokens")


async def while_others_refresh(out: Outcome, cluster: World, at: Provider) -> None:
    await cluster.cut_off(0)
    at.access.clear()  # the provider has revoked the access token, whatever its life
    before = len(at.posts)
    await trio.sleep(61)  # within a minute after a refresh a 401 is not answered by another one
    await served_by_the_account(out, cluster, at, (1, 2), "after the access token was revoked")
    out.must(len(at.posts) == before + 1, f"{len(at.posts) - before} refreshes were asked for")
    await cluster.client(0).ask(asking(KEY, "claude-x"))
    out.must(len(at.posts) == before + 1, "the node without a store refreshed")
    await cluster.heal(0)
    await all_have_the_newest(cluster, at)
    await served_by_the_account(out, cluster, at, range(NODES), "with the next tokens")


async def served_by_the_account(out: Outcome, cluster: World, at: Provider, nodes: Iterable[int], when: str) -> None:
    for number in nodes:
        before = at.served["max"]
        reply = await cluster.client(number).ask(asking(KEY, "claude-x"))
        out.must(
            reply.status == 200 and at.served["max"] == before + 1, f"n{number}, {when}: {reply.status} {reply.body!r}"
        )


async def asker(cluster: World) -> int:
    """The node whose name the note has: it asks the provider."""
    return await trio.to_thread.run_sync(_asker, cluster)


def _asker(cluster: World) -> int:
    with contextlib.closing(cluster.master().client()) as client:
        bodies = [body for key in client.keys("*n:oauth") for body in client.hvals(key)]
    (found,) = [match for body in bodies if (match := re.search(rb'"asking":"n([0-9])', body))]
    return int(found[1])


async def all_have_the_newest(cluster: World, at: Provider) -> None:
    """Wait until every node presents the tokens that were made last."""

    async def they_do() -> bool:
        for number in range(NODES):
            await cluster.client(number).ask(asking(KEY, "claude-x"))
            if at.presented != list(at.access)[-1]:
                return False
        return True

    await eventually(they_do, "all nodes to have the new tokens")
