"""fail2ban and logrotate on the log of a daemon that runs."""

from __future__ import annotations

import gzip
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from daemon import PATIENCE, Daemon, start, write_tree
from steady_calls import ASK, Way, steady_calls
from waiting import wait_until

from relayd.config.secrets.password_hash import hash_password
from relayd.config.secrets.secret import Secret

DEPLOY = Path(__file__).parents[2] / "deploy"
CALLER, GUESSER, VISITOR = "127.0.0.2", "127.0.0.3", "127.0.0.4"
FORGED = '"}\n{"time":"","level":"warning","event":"access.refused","from":"203.0.113.66","what":"key'
FORGED_TEXT = "x\n2026-11-29T02:03:04.123Z WARNING access.refused from=203.0.113.66 what=key"


@attrs.frozen
class Logged:
    """A daemon that writes a file."""

    daemon: Daemon
    admin: str
    log: Path

    def lines(self, event: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if event in line]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    place = tmp_path_factory.mktemp("logged")
    password = hash_password(Secret("a long password"), lambda size: b"\x01" * size)
    user = f'[[admin.users]]\nname = "ann"\nrole = "viewer"\npassword_hash = "{password}"\n'
    relay = f'[log]\nfile = "relayd.log"\n[admin]\nlisten = "127.0.0.1:0"\n{user}'
    log = place / "relayd.log"
    daemon = start(write_tree(place, relay=relay), output=log)  # nothing is printed: the file is the log's alone
    yield Logged(daemon, daemon.events("daemon.listening")[0]["admin"][0], log)
    daemon.stop()


def guess(logged: Logged, name: str) -> None:
    """Three bad keys, a bad token, a failed sign-in under a name; and calls whose words say what is not so."""
    with Way(logged.daemon.url, address=GUESSER).client() as client:
        for key in ("sk-relay-none", "", FORGED.replace("\n", " ")):
            assert client.post("/v1/messages", json=ASK, headers={"x-api-key": key}).status_code == 401
    with Way(logged.admin, address=GUESSER).client() as client:
        assert client.get("/api/status", headers={"authorization": "Bearer rladm_none"}).status_code == 401
    with Way(logged.admin, address=VISITOR).client() as client:
        form = {"name": name, "password": "wrong"}
        assert client.post("/web/sign-in", data=form, headers={"origin": logged.admin}).status_code == 401
    with Way(logged.daemon.url, address=CALLER, headers={"x-request-id": "203.0.113.66"}).client() as client:
        for name in (FORGED, FORGED_TEXT):
            client.post("/v1/messages", json={**ASK, "model": name})


def found_by_fail2ban(log: Path, place: Path) -> Counter[str]:
    """Addresses by the times that the shipped filter finds them."""
    program = shutil.which("fail2ban-regex")
    assert program is not None, "fail2ban is not installed"
    shutil.copytree("/etc/fail2ban", place / "etc", dirs_exist_ok=True)
    shutil.copytree(DEPLOY / "fail2ban", place / "etc", dirs_exist_ok=True)
    asked = [program, "-c", str(place / "etc"), "-o", "ip", str(log), "relayd"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Counter(done.stdout.split())


def test_fail2ban_finds_who_is_not_let_in_in_both_forms_and_nobody_else(logged: Logged, tmp_path: Path) -> None:
    guess(logged, FORGED)
    tree = logged.daemon.tree / "relay.toml"
    text = tree.read_text()
    tree.write_text(text.replace("[log]\n", '[log]\nformat = "text"\n'))
    logged.daemon.signal(signal.SIGHUP)
    wait_until(lambda: logged.lines(" reload.applied "), "the other form")
    guess(logged, FORGED_TEXT)
    tree.write_text(text)
    logged.daemon.signal(signal.SIGHUP)
    wait_until(lambda: len(logged.lines("reload.applied")) == 2, "the form before")

    assert found_by_fail2ban(logged.log, tmp_path) == {GUESSER: 8, VISITOR: 2}
    syslog = tmp_path / "syslog"
    lines = [f"Nov 29 02:03:04 host relayd[7]: {line}\n" for line in logged.log.read_text().splitlines()]
    syslog.write_text("".join(lines))
    assert found_by_fail2ban(syslog, tmp_path) == {GUESSER: 8, VISITOR: 2}


def test_a_rotation_under_calls_loses_no_line(logged: Logged, tmp_path: Path) -> None:
    program = shutil.which("logrotate", path="/usr/sbin:/usr/bin")
    assert program is not None, "logrotate is not installed"
    config = (DEPLOY / "logrotate" / "relayd").read_text()
    told = "systemctl kill --kill-whom=main --signal=SIGUSR1 relayd.service"
    for old, new in {"/var/log/relayd/*.log": str(logged.log), told: f"kill -USR1 {logged.daemon.process.pid}"}.items():
        assert old in config
        config = config.replace(old, new)
    (tmp_path / "relayd").write_text(config)
    before = len(logged.lines("call.done"))
    with steady_calls(Way(logged.daemon.url, address="127.0.0.5"), clients=2) as calls:
        for _ in range(2):
            rotate = [program, "--force", "--state", str(tmp_path / "state"), str(tmp_path / "relayd")]
            subprocess.run(rotate, check=True, capture_output=True, timeout=PATIENCE)
            wait_until(logged.log.exists, "the new file")
            calls.wait_for(20)
    wait_until(lambda: len(call_ids(logged.log)) >= before + len(calls.took), "the last lines")

    assert calls.failures == []
    ids = call_ids(logged.log)
    assert len(set(ids)) == len(ids) == before + len(calls.took)
    assert sorted(path.name for path in logged.log.parent.glob("relayd.log*")) == [
        *("relayd.log", "relayd.log.1", "relayd.log.2.gz"),
    ]


def call_ids(log: Path) -> list[str]:
    """The ids of all calls in a log and in what was rotated away."""
    texts = [path.read_text() for path in log.parent.glob("relayd.log*") if path.suffix != ".gz"]
    texts += [gzip.decompress(path.read_bytes()).decode() for path in log.parent.glob("relayd.log*.gz")]
    lines = [line for text in texts for line in text.splitlines() if "call.done" in line]
    return [line.partition('"id":"')[2].partition('"')[0] or line.partition(" id=")[2].split()[0] for line in lines]
