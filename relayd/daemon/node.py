"""Node: what is this node's own: its settings, and the sockets that it opens before the daemon is made.

Rule: an address that somebody chose must be had; one that is only a default may be done without.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import attrs

from relayd.config.snapshot import Admin, Snapshot
from relayd.daemon.admin.control_socket import open_control
from relayd.daemon.paths import control_socket
from relayd.daemon.reload.prepare import Sockets, admin_addresses, open_all, public_addresses
from relayd.daemon.reloading import Intervals

log = logging.getLogger("relayd")


@attrs.frozen(kw_only=True)
class NodeSettings:
    """What is this node's own, from the command line and the environment.

    Args:
        listen: instead of [server].listen, when it is not empty.
        admin_listen: instead of [admin].listen; "" = no admin listener, None = as the tree says.
        state_url: instead of [state].url, when it is not empty.
        identity: identity file(s); None looks at the environment.
        own: a directory for what is this node's own, where the state is no file; "" = `var` in the tree.
        control: path of the control socket; "" = where places.control_socket says.
        watch: whether to look for changes of the tree; without it only signals and commands reload.
        strict_boot: start with the tree or not at all.
    """

    tree: Path
    listen: tuple[str, ...] = ()
    admin_listen: str | None = None
    state_url: str = ""
    identity: str | None = None
    node: str = ""
    own: str = ""
    control: str = ""
    watch: bool = True
    strict_boot: bool = False
    pace: Intervals = attrs.field(factory=Intervals)


@attrs.frozen(kw_only=True)
class Openings:
    """The sockets that are open before the daemon is made.

    Args:
        given_up: addresses of the admin listener that could not be had.
        control: with its path; None = there is none.
    """

    public: Sockets
    admin: Sockets = attrs.field(factory=dict)
    given_up: frozenset[str] = frozenset()
    control: tuple[socket.socket, Path] | None = None


def open_sockets(node: NodeSettings, snapshot: Snapshot) -> Openings:
    """Every socket that the daemon listens on. Raises: OSError, ValueError."""
    public = open_all(node.listen or public_addresses(snapshot))
    admin, given_up = open_admin(node, snapshot)
    control = open_control_socket(node, snapshot.relay.state.url)
    return Openings(public=public, admin=admin, given_up=given_up, control=control)


def open_admin(node: NodeSettings, snapshot: Snapshot) -> tuple[Sockets, frozenset[str]]:
    """The admin listener, and which address it does without. A second daemon on this machine finds the default address
    taken; that is no reason not to serve. Raises: OSError for an address that somebody chose.
    """
    asked = admin_addresses(snapshot)
    if node.admin_listen is not None:
        asked = [node.admin_listen] if node.admin_listen else []
    try:
        return open_all(asked), frozenset()
    except OSError as error:
        if node.admin_listen is not None or asked != [Admin().listen]:
            raise
        log.warning("admin.unavailable", extra={"error": str(error), "hint": 'choose [admin].listen, or "" for none'})
        return {}, frozenset(asked)


def open_control_socket(node: NodeSettings, state_url: str) -> tuple[socket.socket, Path] | None:
    """The control socket. Where nobody named a place and none can be had, the daemon goes without.

    Raises: OSError for a place that somebody named.
    """
    path = control_socket(node.control, node.state_url or state_url, node.tree, os.environ)
    try:
        return open_control(path), path
    except OSError as error:
        if node.control:
            raise
        log.warning("control.unavailable", extra={"error": str(error), "hint": "choose a place with --control"})
        return None
