"""relayd run: the daemon in the foreground, and the settings that belong to a node instead of the tree.

Rule: nothing heavy is imported before SIGHUP is ignored, because it would end the process.
"""

from __future__ import annotations

import argparse
import grp
import os
import signal
import socket

from relayd.cli import add_config
from relayd.cli.output import say

# Node-local settings: (variable, command-line option of `relayd run` or "", what it is), for docs/config-reference.md.
ENVIRONMENT = (
    ("RELAYD_CONFIG", "--config", "directory of the config tree; default: the working directory"),
    (
        "RELAYD_SOURCE",
        "--source",
        "repository from which the daemon pulls the tree by itself: git+ssh://, git+https:// or git+file:// with "
        "#BRANCH (default main) and :FOLDER; see docs/pull.md",
    ),
    ("RELAYD_SOURCE_INTERVAL", "", 'time between fetches, such as "30s"; "off": only when asked; default 60s'),
    (
        "RELAYD_SOURCE_KEY",
        "",
        "deploy key: for git+ssh a private key file, for git+https a file with a token or `user:token`",
    ),
    (
        "RELAYD_SOURCE_KNOWN_HOSTS",
        "",
        "known_hosts file; an ssh host that is not in it is refused; default: ssh's own files",
    ),
    (
        "RELAYD_ALLOWED_SIGNERS",
        "",
        "files, separated by colons, of those who must have signed every new commit: ssh allowed signers, armoured PGP "
        "public keys; default: nobody has to",
    ),
    ("RELAYD_LISTEN", "--listen", "listen addresses instead of [server].listen, separated by commas"),
    ("RELAYD_ADMIN_LISTEN", "--admin-listen", 'admin listener instead of [admin].listen; "off" for none'),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "collector that is sent a trace of each call, as http://localhost:4318, with relayd[otel]; see docs/tracing.md",
    ),
    ("RELAYD_STATE_URL", "--state", "state store instead of [state].url"),
    ("RELAYD_STATE_PASSWORD", "", "password of the state store"),
    ("RELAYD_STATE_PASSWORD_FILE", "", "file whose first line is that password, instead of [state].password_file"),
    (
        "RELAYD_IDENTITY",
        "--identity",
        "identity file that opens sealed secrets, several separated by colons; default: the systemd credential "
        "`identity`, else REALM.identity in $XDG_CONFIG_HOME/relayd (~/.config/relayd), else in /etc/relayd",
    ),
    (
        "RELAYD_CREDENTIALS",
        "",
        "directories, separated by colons, in which the tree may name files with secrets; default: the directory of "
        "systemd's credentials ($CREDENTIALS_DIRECTORY), /run/relayd, /etc/relayd/credentials",
    ),
    (
        "RELAYD_ORIGINS",
        "",
        "origins, separated by commas, to which a credential in a file may be sent, besides the Claude API and this "
        "machine",
    ),
    (
        "RELAYD_LOG_DIR",
        "",
        "directory in which the tree may name the log's file; default: $LOGS_DIRECTORY (systemd), else /var/log/relayd",
    ),
    (
        "RELAYD_CONTROL",
        "--control",
        "control socket; default: relayd.sock in $RUNTIME_DIRECTORY (systemd), else beside the state",
    ),
    (
        "RELAYD_CONTROL_GROUP",
        "",
        "group whose members may ask the daemon for what a push needs: examine, reload, diff and status",
    ),
    ("RELAYD_WATCH", "--no-watch", '"off": reload on SIGHUP and `relayd reload` only, not when the tree changes'),
    ("RELAYD_NODE", "--node", "name of this node; default: the host name"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    _add(parser, "--source", "URL", "RELAYD_SOURCE", "pull the tree from this git repository, URL#BRANCH")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="listen here instead of [server].listen; may be given several times (RELAYD_LISTEN, comma-separated)",
    )
    _add(
        parser,
        "--admin-listen",
        "ADDRESS",
        "RELAYD_ADMIN_LISTEN",
        'admin listener instead of [admin].listen; "off" for none',
    )
    _add(parser, "--state", "URL", "RELAYD_STATE_URL", "state store instead of [state].url")
    parser.add_argument(
        "--identity",
        metavar="FILE",
        help="identity that opens sealed secrets (RELAYD_IDENTITY; default: the realm's in ~/.config/relayd or "
        "/etc/relayd)",
    )
    beside = "default: $RUNTIME_DIRECTORY/relayd.sock, else beside the state"
    _add(parser, "--control", "PATH", f"RELAYD_CONTROL; {beside}", "control socket")
    parser.add_argument(
        "--no-watch", action="store_true", help="reload only on SIGHUP and `relayd reload`, not when the tree changes"
    )
    parser.add_argument(
        "--strict-boot", action="store_true", help="exit with status 78 rather than start with a stored config"
    )
    _add(parser, "--node", "NAME", "RELAYD_NODE; default: the host name", "name of this node")


def _add(parser: argparse.ArgumentParser, option: str, metavar: str, variable: str, text: str) -> None:
    """An option whose default is an environment variable; `variable` may say more behind a semicolon."""
    default = os.environ.get(variable.partition(";")[0], "")
    parser.add_argument(option, metavar=metavar, default=default, help=f"{text} ({variable})")


def main(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the daemon listens: the tree is not read yet, nothing is lost
    from relayd.daemon.hand_over import take_over
    from relayd.daemon.inherited import take_inherited
    from relayd.daemon.node import NodeSettings
    from relayd.daemon.paths import own_directory, state_directory
    from relayd.daemon.run import EX_CONFIG, run
    from relayd.daemon.source.settings import source_settings

    own = own_directory(os.environ)
    watch = not args.no_watch and os.environ.get("RELAYD_WATCH", "on") != "off"
    try:
        inherited, handed_over = take_inherited(os.environ, os.getpid()), take_over(os.environ)
        place = state_directory(args.state, args.config.absolute(), own)
        source = source_settings(args.source, place, os.environ, watch=watch)
    except ValueError as error:
        say(f"relayd: {error}")
        return EX_CONFIG
    try:
        group = group_id(os.environ.get("RELAYD_CONTROL_GROUP", ""))
    except LookupError as error:
        say(f"relayd run: {error.args[0]}")
        return 2
    return run(
        NodeSettings(
            tree=args.config,
            inherited=inherited,
            handed_over=handed_over,
            listen=tuple(args.listen or _from_environment("RELAYD_LISTEN", ",")),
            admin_listen="" if args.admin_listen == "off" else args.admin_listen or None,
            state_url=args.state,
            identity=args.identity,
            node=args.node or socket.gethostname(),
            own=own,
            control=args.control,
            control_group=group,
            watch=watch,
            strict_boot=args.strict_boot,
            source=source,
        )
    )


def group_id(name: str) -> int | None:
    """A group by its name or number; None for "". Raises: LookupError, which says what is wrong."""
    if not name or name.isdigit():
        return int(name) if name else None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise LookupError(f"RELAYD_CONTROL_GROUP: there is no group {name!r} (groupadd --system {name})") from None


def _from_environment(name: str, separator: str) -> list[str]:
    return [part.strip() for part in os.environ.get(name, "").split(separator) if part.strip()]
