"""Node settings: what is this node's own, and the sockets that it opens before the daemon is made.

Rule: an address that somebody chose must be had; one that is only a default may be done without.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import attrs

from relayd.config.snapshot import Admin, Snapshot
from relayd.config.source.tree import QUIET
from relayd.daemon.hand_over import HandedOver
from relayd.daemon.inherited import Inherited
from relayd.daemon.net.listen import Sockets, open_listeners, open_unix
from relayd.daemon.paths import MAX_PATH, control_socket, generation_store
from relayd.daemon.source.settings import SourceSettings
from relayd.noun import noun
from relayd.state.contract import FORBIDDING

CONTROL_BACKLOG = 16  # peers of the control socket that wait; as many are served at a time

log = logging.getLogger("relayd")


@noun(kw_only=True)
class Intervals:
    """How often and how long, s. Tests have less time.

    Args:
        poll: between looks at the tree's stat signature.
        hash_every: between readings of all bytes.
        interval: between reloads that nobody asked for.
        proof: that a config runs before it counts as good, and is stored.
        patience: that a reload waits for a tree to hold still.
        quiet: that a tree has to have been left alone.
        heartbeat: between heartbeats.
        silence: without a word of a worker, after which it hangs.
    """

    poll: float = 2.0
    hash_every: float = 60.0
    interval: float = 1.0
    proof: float = 30.0
    patience: float = 10.0
    quiet: float = QUIET
    heartbeat: float = 10.0
    silence: float = 30.0


@noun(kw_only=True)
class NodeSettings:
    """What is this node's own, from the command line and the environment.

    Args:
        inherited: sockets that we were given; they count instead of every other word on that listener.
        handed_over: what this process has from before it began anew.
        listen: instead of [server].listen, when it is not empty.
        admin_listen: instead of [admin].listen; "" = no admin listener, None = as the tree says.
        state_url: instead of [state].url, when it is not empty.
        identity: identity file(s); None looks at the environment.
        own: a directory for what is this node's own, where the state is not a file; "" = `var` in the tree.
        control: path of the control socket; "" = where paths.control_socket says.
        control_group: id of a group whose members may push; None for none.
        watch: whether to look for changes of the tree; without it only signals and commands reload.
        strict_boot: start with the tree or not at all.
        source: where the tree is pulled from; None where it lies in `tree`. With a source, `tree` is only the directory
            from which relative paths count; what is this node's own lies beside the state that the node itself names,
            else in `own`, else in `var` of that directory.
    """

    tree: Path
    inherited: Inherited = attrs.field(factory=Inherited)
    handed_over: HandedOver = attrs.field(factory=HandedOver)
    listen: tuple[str, ...] = ()
    admin_listen: str | None = None
    state_url: str = ""
    identity: str | None = None
    node: str = ""
    own: str = ""
    control: str = ""
    control_group: int | None = None
    watch: bool = True
    strict_boot: bool = False
    source: SourceSettings | None = None
    pace: Intervals = attrs.field(factory=Intervals)

    def generations(self, state_url: str) -> Path:
        """Where generations are stored. A node that pulls must find them when it has no tree that names its state."""
        return generation_store(self.state_url if self.source is not None else state_url, self.tree, self.own)


@noun(kw_only=True)
class OpenSockets:
    """The sockets that are open before the daemon is made.

    Args:
        given_up: addresses of the admin listener that could not be had.
        control: with its path; None = there is none.
    """

    public: Sockets
    admin: Sockets = attrs.field(factory=dict)
    given_up: frozenset[str] = frozenset()
    control: tuple[socket.socket, Path] | None = None


def public_addresses(snapshot: Snapshot) -> Sequence[str]:
    """Where clients come in."""
    return snapshot.relay.server.listen


def admin_addresses(snapshot: Snapshot) -> Sequence[str]:
    """Where the admin listener is; none when it is off."""
    return [snapshot.relay.admin.listen] if snapshot.relay.admin.listen else []


def open_sockets(node: NodeSettings, snapshot: Snapshot) -> OpenSockets:
    """Every socket that the daemon listens on. Raises: OSError, ValueError."""
    public = node.inherited.public or open_listeners(node.listen or public_addresses(snapshot), node.handed_over.public)
    admin, given_up = (node.inherited.admin, frozenset[str]()) if node.inherited.admin else open_admin(node, snapshot)
    control = open_control_socket(node, snapshot.relay.state.url)
    return OpenSockets(public=public, admin=admin, given_up=given_up, control=control)


def open_admin(node: NodeSettings, snapshot: Snapshot) -> tuple[Sockets, frozenset[str]]:
    """The admin listener, and which address it does without. A second daemon on this machine finds the default address
    taken; that is no reason not to serve. Raises: OSError for an address that somebody chose.
    """
    wanted = admin_addresses(snapshot)
    if node.admin_listen is not None:
        wanted = [node.admin_listen] if node.admin_listen else []
    try:
        return open_listeners(wanted), frozenset()
    except OSError as error:
        if node.admin_listen is not None or wanted != [Admin().listen]:
            raise
        log.warning("admin.unavailable", extra={"error": str(error), "hint": 'choose [admin].listen, or "" for none'})
        return {}, frozenset(wanted)


def open_control_socket(node: NodeSettings, state_url: str) -> tuple[socket.socket, Path] | None:
    """The control socket. Where nobody named a path and none can be had, the daemon goes without.

    Raises: OSError for a path that somebody named.
    """
    url = node.state_url or ("" if node.source is not None else state_url)
    path = control_socket(node.control, url, node.tree, os.environ)
    try:
        return open_control(path, node.control_group), path
    except OSError as error:
        if node.control or node.control_group is not None:
            raise
        log.warning("control.unavailable", extra={"error": str(error), "hint": "choose a path with --control"})
        return None


def open_control(path: Path, group: int | None = None) -> socket.socket:
    """The listening control socket, for our user and at most one group. A dead daemon's file is replaced, a live one's
    is not.

    Raises: OSError, naming the path.
    """
    try:
        if len(os.fsencode(path)) > MAX_PATH:
            raise OSError(f"the path is longer than {MAX_PATH} bytes (choose a shorter one with --control)")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sock = open_unix(str(path), mode=0o600, backlog=CONTROL_BACKLOG)
        if group is not None:
            os.chown(path, -1, group)
            os.chmod(path, 0o660)
        return sock
    except OSError as error:
        why = error.strerror or error
        if error.errno == errno.EADDRINUSE:
            why = "another relayd is listening there (stop it, or choose another path with --control)"
        elif error.errno in FORBIDDING:
            why = f"{why} (choose a path that relayd may write to with --control)"
        raise OSError(f"control socket {path}: {why}") from error
