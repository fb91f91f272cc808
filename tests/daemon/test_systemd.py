"""The units in deploy/systemd: good for systemd, and what they start does as they say. Played here as systemd does it:
the unit's command and environment, the directories it makes, a credential, a notification socket, signals."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import httpx2
import pytest
import trio
from builders import KEY
from daemon import PATIENCE, SIMULATOR, Daemon, key_text, running, write_tree
from fleet import noon_zone
from redis_server import running as redis_running
from systemd_units import RELAYD, UNITS, Unit, analyze, needs_systemd, read_unit
from trio.testing import MockClock
from upstream_api import upstream
from waiting import wait_until

from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Admin, Server
from relayd.daemon.inherited import ADMIN, PUBLIC
from relayd.daemon.run import EX_CONFIG
from relayd.daemon.systemd import ServiceManager, interval

NOTIFY_RELOAD = 253  # the first systemd that has Type=notify-reload
OURS = ("relayd.service", "relayd.socket", "relayd-admin.socket", "relayd-backup.service", "relayd-backup.timer")
ASK = {"model": "claude-sonnet-4-5", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}

# --- what systemd thinks of them


def installed(place: Path, *, drop_in: str = "") -> list[str]:
    """The units on a machine that has relayd, in the words of this machine's systemd."""
    place.mkdir()
    version = int(analyze("--version").stdout.split()[1])
    for path in (*OURS, *([f"relayd.service.d/{drop_in}.conf"] if drop_in else [])):
        text = (UNITS / path).read_text().replace(RELAYD, sys.executable)
        (place / path).parent.mkdir(exist_ok=True)
        fit = text if version >= NOTIFY_RELOAD else text.replace("Type=notify-reload", "Type=notify")
        (place / path).write_text(fit)
    shutil.copy(place / "relayd.service", place / "relayd-standby.service")
    return [str(place / name) for name in (*OURS, "relayd-standby.service")]


@needs_systemd
@pytest.mark.parametrize("drop_in", ["", "notify-reload", "push"])
def test_systemd_finds_nothing_to_complain_of(tmp_path: Path, drop_in: str) -> None:
    done = analyze("verify", *installed(tmp_path / "units", drop_in=drop_in))

    assert [line for line in done.stderr.splitlines() if "relayd" in line] == []
    assert done.returncode == 0


@needs_systemd
def test_the_service_is_exposed_as_little_as_a_service_on_the_network_can_be(tmp_path: Path) -> None:
    units = [unit for unit in installed(tmp_path / "units") if unit.endswith(".service")]
    done = analyze("security", "--offline=true", "--threshold=15", *units)
    found = dict(re.findall(r"exposure level for (relayd[-a-z]*)\.service: ([\d.]+)", done.stdout))

    assert sorted(found) == ["relayd", "relayd-backup", "relayd-standby"], done.stderr
    assert max(map(float, found.values())) <= 1.5
    assert done.returncode == 0


# --- what they start


SERVICE = read_unit("relayd.service")
BACKUP = read_unit("relayd-backup.service")


@attrs.define(eq=False)
class Host:
    """The directories that systemd makes, and the socket at which it listens."""

    root: Path
    sock: socket.socket
    heard: list[str] = attrs.field(factory=list)

    @property
    def environment(self) -> dict[str, str]:
        named = {
            "STATE_DIRECTORY": self.root / "state",
            "RUNTIME_DIRECTORY": self.root / "run",
            "CREDENTIALS_DIRECTORY": self.root / "credentials",
            "NOTIFY_SOCKET": self.root / "notify",
        }
        return {name: str(place) for name, place in named.items()}

    def hear(self, word: str, patience: float = PATIENCE) -> list[str]:
        """What is told up to the message that has this line's beginning. Raises: TimeoutError."""
        told: list[str] = []
        self.sock.settimeout(patience)
        while True:
            told.append(self.sock.recv(65536).decode())
            if any(line.startswith(word) for line in told[-1].split("\n")):
                self.heard += told
                return told

    def fill(self) -> None:
        """Leave no room for a message of the daemon's."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
            others.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while others.sendto(b"STATUS=", str(self.root / "notify")):
                    pass

    def silent(self) -> bool:
        """Whether nothing is told for a moment."""
        self.sock.settimeout(0.3)
        try:
            self.heard.append(self.sock.recv(65536).decode())
        except TimeoutError:
            return True
        return False


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    root = tmp_path / "host"
    for name in ("state", "run", "credentials"):
        (root / name).mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(root / "notify"))
        yield Host(root, sock)


@contextlib.contextmanager
def service(unit: Unit, tree: Path, host: Host, **more: str) -> Iterator[Daemon]:
    """The unit's ExecStart, in its environment."""
    assert unit.command("ExecStart")[3:] == ["run"]
    environment = {**unit.environment(tree, host.root / "state"), **host.environment, **more}
    with running(tree, environment=environment) as daemon:
        yield daemon


def call(daemon: Daemon) -> int:
    answer = httpx2.post(
        f"{daemon.url}/v1/messages", json=ASK, headers={"x-api-key": KEY}, trust_env=False, timeout=PATIENCE
    )
    return answer.status_code


def files_of(tree: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tree)): path.read_bytes() for path in sorted(tree.rglob("*")) if path.is_file()}


def test_the_service_opens_sealed_secrets_with_systemds_credential_and_never_writes_to_its_tree(
    tmp_path: Path, host: Host
) -> None:
    identity = new_identity()
    name, _, source = SERVICE.settings["LoadCredential"][0].partition(":")
    credential = host.root / "credentials" / name
    credential.write_text(f"# prod\n{identity.secret.reveal()}\n")
    credential.chmod(0o440)  # systemd 254 and later: the group's bits are the mask of an ACL
    with upstream() as (url, keys):
        sealed = seal(Secret("sk-ant-test-of-the-credential"), account_binding("test", "a", url), [identity.public])
        recipients = f'[secrets]\nrecipients = [{{ name = "prod", public = "{identity.public.text}" }}]\n'
        account = f'kind = "api-key"\nbase_url = "{url}"\n[credential]\nsealed = "{sealed}"\n'
        tree = write_tree(tmp_path, relay=recipients, accounts={"a": account})
        before = files_of(tree)
        with service(SERVICE, tree, host) as daemon:
            assert call(daemon) == 200
            daemon.wait_until(lambda: (host.root / "run" / "relayd.sock").is_socket(), "its control socket")

    assert source == "/etc/relayd/identity"
    assert keys == ["sk-ant-test-of-the-credential"]
    assert (host.root / "state" / "relayd.db").exists()
    assert files_of(tree) == before


def test_with_redis_what_is_the_nodes_own_lies_in_the_state_directory(tmp_path: Path, host: Host) -> None:
    with redis_running() as redis:
        tree = write_tree(tmp_path, relay=f'[state]\nurl = "{redis.url}"\n')
        before = files_of(tree)
        with service(SERVICE, tree, host, RELAYD_STATE_URL="") as daemon:
            assert call(daemon) == 200

    assert (host.root / "state" / "side.db").exists()
    assert not (host.root / "state" / "relayd.db").exists()
    assert files_of(tree) == before


def test_a_tree_that_cannot_be_served_is_not_tried_again(tmp_path: Path, host: Host) -> None:
    tree = write_tree(tmp_path, relay="wrong = 1\n")
    environment = {**os.environ, **SERVICE.environment(tree, host.root / "state"), **host.environment}
    done = subprocess.run(
        SERVICE.command("ExecStart"), env=environment, capture_output=True, timeout=PATIENCE, check=False
    )

    assert SERVICE.settings["Restart"] == ["always"]
    assert SERVICE.settings["RestartPreventExitStatus"] == [str(done.returncode)] == [str(EX_CONFIG)]


# --- watchdog


@pytest.mark.parametrize(
    ("environ", "pause"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
    ],
)
def test_the_watchdog_is_told_twice_as_often_as_it_wants_and_only_if_it_wants(
    environ: dict[str, str], pause: float
) -> None:
    assert interval(environ, 7) == pause


def test_the_loop_tells_that_it_runs_as_long_as_it_does(tmp_path: Path, host: Host) -> None:
    assert SERVICE.settings["WatchdogSec"] == ["60"]
    with service(SERVICE, write_tree(tmp_path), host, WATCHDOG_USEC="100000") as daemon:
        for _ in range(3):
            host.hear("WATCHDOG=1")
        daemon.signal(signal.SIGSTOP)
        wait_until(host.silent)  # what was on the way comes first
        daemon.signal(signal.SIGCONT)
        host.hear("WATCHDOG=1")


def test_a_manager_that_does_not_read_its_messages_holds_no_call_up(tmp_path: Path, host: Host) -> None:
    with service(SERVICE, write_tree(tmp_path), host, WATCHDOG_USEC="10000") as daemon:
        host.hear("READY=1")
        host.fill()
        assert [call(daemon) for _ in range(10)] == [200] * 10  # each takes longer than the 5 ms between two messages
        host.hear("WATCHDOG=1")  # there is room again


def test_a_stop_waits_for_no_manager_that_does_not_read(tmp_path: Path, host: Host) -> None:
    with service(SERVICE, write_tree(tmp_path), host, WATCHDOG_USEC="10000") as daemon:
        host.hear("READY=1")
        host.fill()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


async def test_what_a_manager_has_no_room_for_it_is_told_later_in_order(autojump_clock: MockClock) -> None:
    told, room = [], 1

    def send(state: str) -> bool:
        nonlocal room
        room -= 1
        if room >= 0:
            told.append(state)
        return room >= 0

    manager = ServiceManager(send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.run)
        for state in ("RELOADING=1", "READY=1", "STOPPING=1"):
            manager.tell(state)
        await trio.sleep(1.0)
        assert told == ["RELOADING=1"]
        room = 2
        await trio.sleep(1.0)
        room = 1
        manager.tell("STATUS=")
        await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
    assert told == ["RELOADING=1", "READY=1", "STOPPING=1", "STATUS="]


# --- reload


def test_a_reload_by_signal_is_one_reloading_and_one_ready_whatever_comes_of_it(tmp_path: Path, host: Host) -> None:
    tree = write_tree(tmp_path)
    account = tree / "accounts.d" / "sim.toml"
    with service(SERVICE, tree, host, RELAYD_WATCH="off") as daemon:
        assert host.hear("READY=1")[-1].startswith("READY=1\nSTATUS=generation 1 ")
        for round_ in (1, 2):
            for text, words in (
                (f"priority = {round_}\n", f"STATUS=generation {round_ + 1} "),
                ("wieght = 1\n", "REJECTED accounts.d/sim.toml:2:1: error[E-UNKNOWN-KEY]"),
                (f"priority = {round_}\n", "ok"),
            ):
                account.write_text(SIMULATOR + text)
                asked = time.monotonic_ns() // 1000
                daemon.signal(signal.SIGHUP)  # what Type=notify-reload does
                begin, end = host.hear("READY=1")

                assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", begin)
                assert asked <= int(begin.rpartition("=")[2]) <= time.monotonic_ns() // 1000
                assert end.startswith("READY=1\nSTATUS=")
                assert words in end
                assert call(daemon) == 200
        assert host.silent()


def test_the_exit_status_of_systemctl_reload_tells(tmp_path: Path, host: Host) -> None:
    keys = {name: key_text(f"another-{name}") for name in ("k1", "k2")}
    tree = write_tree(tmp_path, keys={"k0": key_text(), **keys})
    account = tree / "accounts.d" / "sim.toml"
    with service(SERVICE, tree, host, RELAYD_WATCH="off") as daemon:
        host.hear("READY=1")

        def reload() -> int:
            environment = {**os.environ, **SERVICE.environment(tree, host.root / "state"), **host.environment}
            done = subprocess.run(
                SERVICE.command("ExecReload"), env=environment, capture_output=True, timeout=PATIENCE, check=False
            )
            return done.returncode

        for round_ in (1, 2):
            account.write_text(f"{SIMULATOR}priority = {round_}\n")
            assert reload() == 0
            account.write_text(f"{SIMULATOR}wieght = 1\n")
            assert reload() == 1
            assert call(daemon) == 200
        account.write_text(f"{SIMULATOR}priority = 2\n")
        for name in ("k1", "k2"):
            (tree / "keys.d" / f"{name}.toml").unlink()
        assert reload() == 3
        assert call(daemon) == 200
    assert SERVICE.settings["Type"] == ["notify"]
    assert not any("RELOADING" in told for told in host.heard)


# --- workers


def test_a_supervisor_tells_for_all_its_workers_from_start_over_reloads_and_a_new_version_to_the_stop(
    tmp_path: Path, host: Host
) -> None:
    tree = write_tree(tmp_path, relay='[server]\nworkers = 2\n[upstream]\nmodels_every = "0s"\n')
    account = tree / "accounts.d" / "sim.toml"
    with service(SERVICE, tree, host, RELAYD_WATCH="off", WATCHDOG_USEC="100000") as daemon:
        host.hear("READY=1")
        assert len(daemon.events("worker.serves")) == 2, "ready once all serve"
        for _ in range(3):
            host.hear("WATCHDOG=1")

        account.write_text(f"{SIMULATOR}priority = 1\n")
        daemon.signal(signal.SIGHUP)
        host.hear("RELOADING=1")
        assert host.hear("READY=1")[-1].startswith("READY=1\nSTATUS=generation 2 ")
        assert call(daemon) == 200

        os.kill(daemon.events("worker.serves")[0]["pid"], signal.SIGKILL)
        daemon.wait_for("worker.serves", 3)
        daemon.signal(signal.SIGUSR2)
        assert host.hear("READY=1")[-1].startswith("READY=1\nSTATUS=generation 1 ")
        assert daemon.process.poll() is None, "the main process is the same, so systemd need not be told of another"
        host.hear("WATCHDOG=1")
        daemon.signal(signal.SIGTERM)
        assert host.hear("STOPPING=1")[-1].startswith("STOPPING=1\nSTATUS=draining: ")
        assert daemon.wait() == 0
    assert not any(line.startswith(("MAINPID=", "ERRNO=")) for told in host.heard for line in told.split("\n"))
    assert sum("READY=1" in told for told in host.heard) == 3


def test_a_stop_is_told_to_the_main_process_alone_and_what_is_left_of_the_others_is_killed() -> None:
    assert SERVICE.settings["KillMode"] == ["mixed"]
    minutes = int(SERVICE.settings["TimeoutStopSec"][0].removesuffix("min"))
    assert 60 * minutes > Server().drain_timeout


# --- sockets and backups


def test_the_sockets_have_the_names_that_relayd_knows_and_the_addresses_of_a_new_tree() -> None:
    public, admin = read_unit("relayd.socket").settings, read_unit("relayd-admin.socket").settings
    assert (public["FileDescriptorName"], admin["FileDescriptorName"]) == ([PUBLIC], [ADMIN])
    assert (public["ListenStream"], admin["ListenStream"]) == (list(Server().listen), [Admin().listen])
    assert SERVICE.settings["Sockets"] == ["relayd.socket relayd-admin.socket"]


def test_every_night_there_is_a_backup_of_the_day_of_the_week(tmp_path: Path, host: Host) -> None:
    identity = new_identity()
    recipients = f'[secrets]\nrecipients = [{{ name = "prod", public = "{identity.public.text}" }}]\n'
    (tmp_path / "own.identity").write_text(f"{identity.secret.reveal()}\n")
    (tmp_path / "own.identity").chmod(0o600)
    tree = write_tree(tmp_path, relay=recipients)
    with service(SERVICE, tree, host) as daemon:
        assert call(daemon) == 200
    state, backups = host.root / "state", host.root / "backups"
    backups.mkdir()
    [shell, option, line] = BACKUP.command_line("ExecStart")
    for old, new in {"/var/lib/relayd-backups": str(backups), RELAYD: f"{sys.executable} -m relayd"}.items():
        line = line.replace(old, new)
    environment = {**os.environ, **BACKUP.environment(tree, state), "STATE_DIRECTORY": f"{state}:{backups}"}
    environment["TZ"] = noon_zone()  # both are of one day
    for _ in range(2):
        subprocess.run([shell, option, line], env=environment, check=True, capture_output=True, timeout=PATIENCE)

    (backup,) = backups.iterdir()
    assert re.fullmatch(r"relayd-[1-7]\.backup", backup.name)
    look = [sys.executable, "-m", "relayd", "restore", "--dry-run", str(backup), "--config", str(tmp_path / "new")]
    done = subprocess.run(
        [*look, "--identity", str(tmp_path / "own.identity")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert BACKUP.settings["StateDirectory"] == ["relayd relayd-backups"]
