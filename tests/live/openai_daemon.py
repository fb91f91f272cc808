"""A running relay for OpenAI clients: one daemon, and behind each of its API keys an upstream of another temper.

A lane is an account of kind simulator, the group it is alone in and the key that may use this group. Headers of an
OpenAI client do not travel upstream, so what an upstream shall do wrong is said in the lane's account; and since a
failure rests its account, a lane that fails is good for one call.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
from daemon import Daemon, key_text, running, write_tree

from relayd.config.secrets.api_keys import mint

MODEL = "claude-sonnet-4-5"
OLDER = "claude-opus-4-1"  # has no structured output of its own: a forced tool takes its place


@attrs.frozen
class Lane:
    """One key and its upstream.

    Args:
        simulator: lines of the account's [simulator] table: how the upstream behaves.
        key: further lines of the key's file.
        backup: a lane whose account the key may use as well, when its own cannot serve.
    """

    simulator: str = ""
    key: str = ""
    backup: str = ""


@attrs.frozen
class Relay:
    """The daemon, as its clients see it."""

    daemon: Daemon

    @property
    def base_url(self) -> str:
        """The base that an OpenAI client is given."""
        return f"{self.daemon.url}/openai/v1"

    def key(self, lane: str) -> str:
        """The API key of a lane."""
        return _key(lane)


def _key(lane: str) -> str:
    seed = hashlib.sha256(lane.encode()).digest()
    return mint(lambda size: (seed * (size // len(seed) + 1))[:size])


@contextlib.contextmanager
def relaying(root: Path, lanes: Mapping[str, Lane], relay: str = "") -> Iterator[Relay]:
    """A relay with `lanes`, by name.

    Args:
        relay: further tables of relay.toml.
    """
    accounts, keys = {}, {}
    for name, lane in lanes.items():
        accounts[name] = f'kind = "simulator"\ngroups = ["{name}"]\n[simulator]\n{lane.simulator}\n'
        groups = ", ".join(f'"{group}"' for group in (name, lane.backup) if group)
        keys[name] = key_text(_key(name), f"groups = [{groups}]\n{lane.key}")
    with running(write_tree(root, relay=relay, accounts=accounts, keys=keys)) as daemon:
        yield Relay(daemon)
