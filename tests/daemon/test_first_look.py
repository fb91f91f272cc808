"""What a newcomer reads: the banner, the log on a terminal, warnings of keys in clear, and why a start did not work."""

from __future__ import annotations

import ast
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from builders import account, api_key, snapshot
from daemon import PATIENCE, write_tree

from relayd.config import environment
from relayd.config.compile import compile_tree
from relayd.daemon.banner import banner, in_clear
from relayd.daemon.log import line_form, render
from relayd.daemon.log_output import Screen, screen_of
from relayd.daemon.net.port_owner import PortOwner, advice, owner_of_port

ROOT = Path(__file__).parent.parent.parent


def test_the_banner_says_where_and_what_is_still_to_be_done() -> None:
    bare = attrs.evolve(snapshot(), accounts={}, keys={})
    text = banner(bare, ["http://127.0.0.1:3000"], ["http://127.0.0.1:3001"], "/srv/relay")
    assert "on /srv/relay, listening on http://127.0.0.1:3000\n" in text
    assert "http://127.0.0.1:3001" in text
    assert "relayd account add NAME" in text
    assert "Ctrl-C stops it" in text

    keyless = attrs.evolve(snapshot(), keys={})
    assert "no key yet; the first one: relayd key new NAME" in banner(keyless, [], [], "/x")
    simulated = snapshot(accounts=(account(),), keys=(api_key(),))
    assert "1 key, 1 account, simulated; the first real ones" in banner(simulated, [], [], "/x")


@pytest.mark.parametrize(
    ("addresses", "trusted", "expected"),
    [
        (["http://127.0.0.1:3000", "http://[::1]:3000", "unix:/run/x"], [], []),
        (
            ["http://0.0.0.0:3000", "http://[::]:3000"],
            ["127.0.0.1", "::1"],
            ["http://0.0.0.0:3000", "http://[::]:3000"],
        ),
        (["http://192.0.2.7:3000"], [], ["http://192.0.2.7:3000"]),
        (["http://0.0.0.0:3000"], ["127.0.0.1", "172.16.0.0/12"], []),
        (["http://0.0.0.0:3000"], ["127.0.0.0/8"], ["http://0.0.0.0:3000"]),
    ],
)
def test_addresses_that_others_reach_without_tls(addresses: list[str], trusted: list[str], expected: list[str]) -> None:
    assert in_clear(addresses, trusted) == expected


def test_the_log_is_text_on_a_terminal_and_json_elsewhere() -> None:
    colour: Screen = "colour"
    plain: Screen = "plain"
    none: Screen = "none"
    assert screen_of(True, {"TERM": "xterm"}) == colour
    assert screen_of(True, {"TERM": "xterm", "NO_COLOR": ""}) == colour  # no-color.org: present and not empty
    assert screen_of(True, {"TERM": "xterm", "NO_COLOR": "1"}) == plain
    assert screen_of(True, {"TERM": "dumb"}) == screen_of(True, {}) == plain
    assert screen_of(False, {"TERM": "xterm"}) == none
    screens: tuple[Screen, ...] = (colour, plain, none)
    assert [line_form("auto", screen) for screen in screens] == ["colour", "text", "json"]
    assert [line_form("json", screen) for screen in screens] == ["json", "json", "json"]
    assert [line_form("text", screen) for screen in screens] == ["colour", "text", "text"]


def test_colours_add_nothing_to_the_text_of_a_line() -> None:
    entry = {"time": "t", "level": "warning", "event": "a.b", "name": "\x1b[31mred", "n": 1}
    assert render(entry, "text") == b"t WARNING a.b name='\\x1b[31mred' n=1\n"
    painted = render(entry, "colour").decode()
    for code in ("\x1b[0m", "\x1b[2m", "\x1b[33;1m", "\x1b[1m"):
        painted = painted.replace(code, "")
    assert painted.encode() == render(entry, "text")


def test_a_start_at_a_terminal_greets_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    tree = write_tree(tmp_path)
    master, slave = pty.openpty()
    options = ["--config", str(tree), "--listen", "127.0.0.1:0", "--admin-listen", "off"]
    command = [sys.executable, "-m", "relayd", "run", *options]
    environ = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environ)
    os.close(slave)
    said = b""
    while b"\n" not in said.partition(b"daemon.listening")[2]:  # a terminal may hand out a line in pieces
        said += os.read(master, 65536)
    child.send_signal(signal.SIGINT)
    assert child.wait(PATIENCE) == 0
    os.close(master)
    text = said.decode()
    assert f"on {tree}, listening on http://127.0.0.1:" in text
    assert "Ctrl-C stops it" in text
    assert " INFO    daemon.listening version=" in text
    assert "\x1b[" not in text
    assert '{"time"' not in text


def test_who_has_a_port_is_found_in_proc() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = owner_of_port(port)
        assert found is not None
        assert found.pid == os.getpid()
        assert found.command == Path("/proc/self/comm").read_text().strip()
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert owner_of_port(client.getsockname()[1]) is None  # connected, and not listening
    found = owner_of_port(port)
    assert found is None or found.pid != os.getpid()  # a process beside this one may have it by now


def test_a_proc_that_hides_others_and_processes_that_end_are_no_error(tmp_path: Path) -> None:
    assert owner_of_port(3000, tmp_path) is None
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n"
    )
    (tmp_path / "12").mkdir()
    (tmp_path / "13/fd").mkdir(parents=True)
    assert owner_of_port(3000, tmp_path) is None
    (tmp_path / "13/fd/3").symlink_to("socket:[4711]")
    assert owner_of_port(3000, tmp_path) == PortOwner(pid=13, command="")
    (tmp_path / "13/comm").write_text("ng\x1binx\n")
    assert owner_of_port(3000, tmp_path) == PortOwner(pid=13, command="ng?inx")


def test_a_taken_port_comes_with_what_to_do() -> None:
    other = PortOwner(pid=4711, command="nginx")
    assert advice(3000, other, 1).startswith("taken by process 4711 (nginx); stop it (kill 4711), or choose")
    assert "3001" in advice(3000, other, 1)
    assert advice(3000, other, 4711).startswith("this very process")
    assert "as root" in advice(3000, None, 1)
    assert "65534" in advice(65535, None, 1)


def test_what_is_missing_for_a_proxy_is_told_by_the_environment_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = 'kind = "simulator"\nproxy = "socks5://127.0.0.1:1080"\n'
    files = {"relay.toml": b'schema = 1\nrealm = "x"\n', "accounts.d/a.toml": account.encode()}

    def lacking() -> list[str]:
        compiled = compile_tree(files).require()
        found = environment.environment_problems(files, compiled, tmp_path, "", {})
        return [str(problem) for problem in found if problem.code == "E-ENV-PACKAGE"]

    assert lacking() == []
    monkeypatch.setattr(environment, "has_socks", lambda: False)
    (line,) = lacking()
    assert line.startswith("accounts.d/a.toml:2:9: error[E-ENV-PACKAGE]: proxy: python-socks is not installed")
    assert "pip install python-socks" in line
    files["accounts.d/a.toml"] = b"enabled = false\n" + account.encode()
    assert lacking() == []


@pytest.mark.parametrize("file", ["relayd/__init__.py", "relayd/__main__.py", "relayd/entry.py"])
def test_what_runs_before_the_version_is_known_parses_on_old_pythons(file: str) -> None:
    ast.parse((ROOT / file).read_text(), feature_version=(3, 6))


def test_an_old_python_is_told_what_is_needed() -> None:
    old = "import sys; sys.version_info = (3, 10, 13); from relayd.entry import main; sys.exit(main())"
    ended = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert ended.returncode == 1
    assert ended.stderr == f"relayd needs Python 3.11 or newer; this is 3.10 ({sys.executable})\n"
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
