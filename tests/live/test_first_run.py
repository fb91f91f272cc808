"""The first quarter of an hour: `relayd init`, then what it prints, pasted into a shell, and then a real account."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from ports import free_port
from upstream_api import upstream

from relayd.config.secrets.api_keys import KEY_PATTERN

PATIENCE = 60.0  # s
CREDENTIAL = "sk-ant-api03-first-run-0123456789"


class Person:
    """Somebody at a shell, in a home directory of their own, with relayd on the PATH."""

    def __init__(self, home: Path) -> None:
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "relayd").write_text(f'#!/bin/sh\nexec {sys.executable} -m relayd "$@"\n')
        (home / "bin" / "relayd").chmod(0o755)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        path = f"{home / 'bin'}:{os.environ['PATH']}"
        self.home = home
        self.environment = {**inherited, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "PATH": path}

    def paste(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE,
            cwd=self.home, env=self.environment,
        )  # fmt: skip

    def start(self, command: str, output: Path) -> subprocess.Popen[bytes]:
        with output.open("wb") as file:
            return subprocess.Popen(
                ["bash", "-c", f"exec {command}"], stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.home,
                env=self.environment,
            )  # fmt: skip

    def until(self, command: str, words: str) -> str:
        """Paste the command until its output has the words."""
        deadline = time.monotonic() + PATIENCE
        while True:
            ran = self.paste(command)
            if words in ran.stdout:
                return ran.stdout
            assert time.monotonic() < deadline, (ran.stdout, ran.stderr)
            time.sleep(0.1)


def printed_commands(farewell: str) -> list[str]:
    """The commands under "Next:" and "Then", each with its continued lines."""
    part = farewell.split("Next:\n", 1)[1].split("git", 1)[0].replace("\\\n", " ")
    return [line.strip() for line in part.splitlines() if line.startswith("  ") and line.strip()]


def test_what_init_prints_works_as_pasted(tmp_path: Path) -> None:
    person = Person(tmp_path / "home of one")
    made = person.paste(f"relayd init 'my relay' --listen 127.0.0.1:{free_port()}")
    assert made.returncode == 0, made.stderr
    relay = person.home / "my relay" / "relay.toml"
    if "[admin]" not in relay.read_text():  # the test's machine may have something on the usual port
        relay.write_text(relay.read_text() + '\n[admin]\nlisten = ""\n')
    check, run, curl, add, new, remove = printed_commands(made.stdout)

    assert person.paste(check).returncode == 0
    output = tmp_path / "daemon.log"
    daemon = person.start(run, output)
    try:
        identity = person.home / ".config" / "relayd" / "my-relay.identity"
        answer = json.loads(person.until(f"{curl} --silent", '"message"'))
        assert answer["content"][0]["text"]

        with upstream() as (url, seen):
            added = person.paste(f"{add} --base-url {url}", stdin=f"{CREDENTIAL}\n")
            assert added.returncode == 0, added.stderr
            minted = person.paste(new)
            assert minted.returncode == 0, minted.stderr
            (demo,) = set(re.findall(KEY_PATTERN, curl))
            served = person.until(f"{curl.replace(demo, minted.stdout.strip())} --silent", '"output_tokens"')
            assert json.loads(served)["type"] == "message"
            assert set(seen) == {CREDENTIAL}
        gone = person.paste(remove)
        assert gone.returncode == 0, gone.stderr
        assert "applied: generation" in gone.stdout + gone.stderr

        assert CREDENTIAL not in "".join(path.read_text() for path in relay.parent.rglob("*.toml"))
        assert daemon.poll() is None, output.read_text()
        assert "identity.loaded" in output.read_text()
        assert str(identity) in output.read_text()
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 ", limits), limits  # no opened credential in a core file
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(PATIENCE)
    assert code == 0, output.read_text()
