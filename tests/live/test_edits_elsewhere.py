"""Edits where the tree is read-only or pulled, and the sign-in of an account on the pages, at real daemons."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from daemon import PATIENCE, Daemon, running, start, write_tree
from pages_world import Browser, browser, csrf_of, pages_table
from test_account import serving

from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import new_identity, open_sealed
from relayd.config.secrets.sealed_fields import sealed_fields
from relayd.config.source.tree import read_files

TOKENS = {"access_token": "sk-ant-oat01-canary", "refresh_token": "sk-ant-ort01-canary", "expires_in": 3600}
READ_ONLY = ["unshare", "-rm", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"']


def commit_all(tree: Path) -> None:
    own = ("-c", "user.name=setup", "-c", "user.email=setup@example.com")
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(tree), *own, *words], check=True)


def key_preview(one: Browser) -> str:
    """The page that a form for a new key leads to."""
    fields = {**csrf_of(one.get("/web/edit/new-key")), "do": "key.new", "id": "robot"}
    answer = one.post("/web/edit/preview", fields)
    assert answer.status_code == 200, answer.text
    return answer.text


def patch_of(page: str) -> str:
    found = re.search(r'<code id="patch">(.*?)</code>', page, re.DOTALL)
    assert found is not None, page
    return unescape(found[1])


def may_mount(place: Path) -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run([*READ_ONLY, str(place), "true"], capture_output=True, check=False).returncode == 0


def test_a_read_only_tree_gets_a_patch_that_fits_its_repository(tmp_path: Path) -> None:
    if not may_mount(tmp_path):
        pytest.skip("no mount namespaces here")
    tree = write_tree(tmp_path / "repository", relay=pages_table())
    commit_all(tree.parent)  # the tree is a folder of it
    output = tmp_path / "daemon.log"
    run = [sys.executable, "-m", "relayd", "run", "--config", str(tree), "--listen", "127.0.0.1:0"]
    run += ["--state", f"sqlite:{tmp_path}/relayd.db", "--control", str(tmp_path / "c.sock")]
    with output.open("wb") as file:
        process = subprocess.Popen([*READ_ONLY, str(tree.parent), *run], stdout=file, stderr=file)
    daemon = Daemon(process, output, tree)
    try:
        daemon.wait_for("daemon.listening")
        one = browser(daemon)
        one.sign_in()
        page = key_preview(one)
        assert "is read-only here" in page
        assert "/web/edit/confirm" not in page
        assert 'id="new-key"' in page, "the key comes with its patch"
        patch = patch_of(page)
        assert "+++ b/tree/keys.d/robot.toml" in patch
        subprocess.run(["git", "apply"], cwd=tree.parent, input=patch, text=True, check=True)
        assert "sha256" in (tree / "keys.d/robot.toml").read_text()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_a_pulled_tree_gets_a_patch_for_where_it_is_pulled_from(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "origin", relay=pages_table())
    commit_all(tree.parent)
    node = tmp_path / "node"
    node.mkdir()
    source = f"git+file://{tree.parent}#main:tree"
    daemon = start(node, environment={"RELAYD_SOURCE": source, "RELAYD_STATE_DIR": str(node)})
    try:
        one = browser(daemon)
        one.sign_in()
        page = key_preview(one)
        assert "the tree is pulled from git+file://" in page
        subprocess.run(["git", "apply"], cwd=tree.parent, input=patch_of(page), text=True, check=True)
        assert (tree / "keys.d/robot.toml").exists()
    finally:
        daemon.stop()


def test_an_account_signs_in_on_the_pages_and_its_tokens_are_sealed(tmp_path: Path) -> None:
    identity = new_identity(lambda size: b"\x07" * size)
    with serving((200, TOKENS), (400, {"error": "invalid_grant"}), (200, TOKENS)) as endpoint:
        url = f"{endpoint.url}/token"
        relay = pages_table() + f'\n[oauth]\nclient_id = "ours"\ntoken_url = "{url}"\n'
        relay += f'\n[secrets]\nrecipients = [{{ name = "prod", public = "{identity.public.text}" }}]\n'
        tree = write_tree(tmp_path, relay=relay, files={".gitignore": "var/\n"})
        write_identity(tmp_path / "identity", tree, identity)
        commit_all(tree)
        with running(tree, "--identity", str(tmp_path / "identity")) as daemon:
            one = browser(daemon)
            one.sign_in()
            token = csrf_of(one.get("/web/edit/new-account"))
            assert one.post("/web/edit/sign-in", {**token, "id": "No Id"}).status_code == 400
            assert "of kind simulator" in sign_in(one, token, "sim", "abc").text
            assert "invalid_grant" in sign_in(one, token, "max", "wrong").text
            foreign = sign_in(one, token, "max", "http://127.0.0.1/callback?code=abc&state=other")
            assert foreign.status_code == 400
            preview = sign_in(one, token, "max", "")
            assert preview.status_code == 200, preview.text
            assert 'kind = "oauth"' in unescape(preview.text)
            done = one.submit(preview, "/web/edit/confirm")
            assert done.status_code == 200, done.text
            again = one.submit(preview, "/web/edit/confirm")
            seen = daemon.text() + preview.text + done.text + again.text + one.get("/web/audit").text
        for secret in ("canary", "rlsec", endpoint.asked[-1][2]["code_verifier"]):
            assert secret not in seen
        (field,) = [found for found in sealed_fields(read_files(tree)) if found.name == "account max"]
        assert field.binding is not None
        kept = json.loads(open_sealed(field.value, field.binding, [identity]).reveal())
        assert kept["refresh_token"] == TOKENS["refresh_token"]
        log = subprocess.run(["git", "-C", str(tree), "log", "-1", "--format=%s"], capture_output=True, text=True)
        assert log.stdout.strip() == "account max: login"


def sign_in(one: Browser, token: dict[str, str], account: str, code: str) -> Any:
    """Begin a sign-in and send a code; "" for the address at which a browser would arrive."""
    begun = one.post("/web/edit/sign-in", {**token, "id": account})
    assert begun.status_code == 200, begun.text
    (url,) = [unescape(found) for found in re.findall(r'<a href="(https://claude[^"]*)"', begun.text)]
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query["code_challenge_method"] == "S256"
    arrived = f"{query['redirect_uri']}?code=abc&state={query['state']}"
    return one.submit(begun, "/web/edit/sign-in-code", code=code or arrived)
