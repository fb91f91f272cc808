"""One-time codes of a real daemon: set up on a page, put into the tree by the command that it offers, asked for."""

from __future__ import annotations

import html
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from daemon import Daemon, running, write_tree
from pages_world import browser, csrf_of, pages_table

from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import new_identity
from relayd.core.access.sign_in import STEP, one_time_code, read_seed


@attrs.frozen
class Sealing:
    """A daemon that has the identity of its tree's recipient."""

    daemon: Daemon

    def run(self, *words: str) -> str:
        """relayd on the tree."""
        command = [sys.executable, "-m", "relayd", *words, "--config", str(self.daemon.tree)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def sealing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealing]:
    root = tmp_path_factory.mktemp("codes")
    identity = new_identity(os.urandom)
    secrets = f'\n[[secrets.recipients]]\nname = "prod"\npublic = "{identity.public.text}"\n'
    tree = write_tree(root, relay=pages_table() + secrets)
    write_identity(root / "identity", tree, identity)
    with running(tree, environment={"RELAYD_IDENTITY": str(root / "identity")}) as daemon:
        yield Sealing(daemon)


def now_step() -> int:
    return int(time.time()) // STEP


def test_codes_are_set_up_on_a_page_and_asked_for_from_then_on(sealing: Sealing) -> None:
    daemon = sealing.daemon
    one = browser(daemon)
    token = csrf_of(one.sign_in())
    page = one.post("/web/me/codes", token)
    seed_text = re.search(r"<code>([A-Z2-7 ]+)</code>", page.text)
    assert seed_text is not None, page.text
    seed = read_seed(seed_text[1])
    picture = one.get("/web/me/codes/qr.svg")
    assert picture.headers["content-type"] == "image/svg+xml"
    assert picture.headers["cache-control"] == "no-store"
    assert picture.content.startswith(b"<?xml") or picture.content.startswith(b"<svg")
    other = browser(daemon)
    other.sign_in()
    assert other.get("/web/me/codes/qr.svg").status_code == 404, "another session"
    wrong = one.post("/web/me/codes/confirm", {**token, "code": one_time_code(seed, now_step() + 9)})
    assert wrong.status_code == 422
    right = one.post("/web/me/codes/confirm", {**token, "code": one_time_code(seed, now_step())})
    assert right.status_code == 200, right.text
    assert one.get("/web/me/codes/qr.svg").status_code == 404, "the seed is forgotten"
    command = re.search(r'id="command">([^<]*)<', right.text)
    assert command is not None
    program, *words = shlex.split(html.unescape(command[1]))
    assert program == "relayd"
    sealing.run(*words)
    daemon.wait_until(lambda: one.get("/web").url.path == "/web/sign-in", "the session has ended with the change")

    fresh = browser(daemon)
    assert 'name="code"' in fresh.get("/web/sign-in").text
    assert fresh.sign_in().status_code == 401, "no code"
    assert fresh.sign_in(code=one_time_code(seed, now_step() + 9)).status_code == 401
    code = one_time_code(seed, now_step())
    assert fresh.sign_in(code=f"{code[:3]} {code[3:]}").url.path == "/web"
    assert "/web/me" in fresh.get("/web").text
    assert fresh.get("/web/me.json").json()["one_time_codes"] is True
    assert browser(daemon).sign_in(code=code).status_code == 401, "a code counts once"
    assert seed_text[1].replace(" ", "") not in daemon.text()


def test_codes_made_on_the_command_line_sign_in_too(sealing: Sealing) -> None:
    daemon = sealing.daemon
    before = browser(daemon)
    assert before.sign_in("victor").url.path == "/web"
    seed = re.search(r'"seed": ?"([A-Z2-7]+)"', sealing.run("secret", "totp", "victor", "--add", "--json"))
    assert seed is not None
    daemon.wait_until(lambda: before.get("/web").url.path == "/web/sign-in", "the daemon asks victor for codes")
    one = browser(daemon)
    assert one.sign_in("victor").status_code == 401
    assert one.sign_in("victor", code=one_time_code(read_seed(seed[1]), now_step())).url.path == "/web"


def test_without_a_recipient_the_page_says_what_to_do(tmp_path: Path) -> None:
    with running(write_tree(tmp_path, relay=pages_table())) as daemon:
        one = browser(daemon)
        refused = one.post("/web/me/codes", csrf_of(one.sign_in()))
        assert refused.status_code == 409
        assert "relayd secret keygen" in refused.text
