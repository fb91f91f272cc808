"""relayd account: adding, sealing, switching, trying and signing in."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import random
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cli_tree import RELAY, SealingTree, make_sealing_tree, make_tree
from ports import refusing_port

from relayd.cli.login import Loopback
from relayd.config.load import load_tree
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.binding import credential_binding
from relayd.config.secrets.credential import shape_warning, why_unusable
from relayd.config.secrets.seal import open_sealed
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import OAuth
from relayd.daemon.accounts import code_grant
from relayd.daemon.accounts.account_test import judge

CANARY = "sk-ant-api03-canary-c0de"


def credential(sealing: SealingTree, account: str) -> str:
    snapshot = load_tree(sealing.tree.root).require()
    one = snapshot.accounts[account]
    return open_sealed(one.credential.sealed, credential_binding(one, snapshot.relay), [sealing.identity]).reveal()


def test_adding_an_account_seals_the_secret_from_stdin(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    ran = sealing.tree.run(
        "account", "add", "main", "--kind", "api-key", "--name", "Main", "--email", "a@b.example", "--priority", "10",
        "--groups", "default,fast", "--requests-per-minute", "50", "--base-url", "https://api.example/relay", "--json",
        stdin=CANARY + "\n",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.json["file"] == "accounts.d/main.toml"
    assert CANARY not in ran.all + sealing.tree.content
    assert credential(sealing, "main") == CANARY
    written = tomllib.loads(sealing.tree.read("accounts.d/main.toml"))
    assert written["pace"] == {"requests_per_minute": 50}
    assert list(written) == ["kind", "name", "email", "groups", "priority", "base_url", "pace", "credential"]


def test_an_account_may_take_its_secret_from_a_file_of_the_node_or_have_none(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    file = ("--credential-file", "/run/credentials/main")
    assert tree.run("account", "add", "main", "--kind", "api-key", *file).code == 0
    assert tree.run("account", "add", "play", "--kind", "simulator").code == 0
    accounts = load_tree(tree.root).require().accounts
    assert accounts["main"].credential.file == "/run/credentials/main"
    assert accounts["play"].kind == "simulator"


def test_what_is_missing_or_wrong_is_said_before_anything_is_written(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    before = tree.content
    for words, stdin, text in (
        (("main",), "", "--kind is needed (api-key, oauth, session-key, simulator)"),
        (("main", "--kind", "api-key"), CANARY, "lists no recipient to seal for"),
        (("sample", "--kind", "simulator"), "", "accounts.d/sample.toml exists already"),
        (("main", "--kind", "simulator", "--groups", "A B"), "", "groups"),
    ):
        ran = tree.run("account", "add", *words, stdin=stdin)
        assert ran.code == 1
        assert text in ran.err
        assert CANARY not in ran.all
    assert tree.content == before
    sealing = make_sealing_tree(tmp_path / "b")
    assert "secret is empty; nothing was written" in sealing.tree.run("account", "add", "m", "--kind", "api-key").err
    assert sealing.tree.run("account", "add", "Main One", "--kind", "simulator").code == 2
    plain = sealing.tree.run("account", "add", "m", "--kind", "api-key", "--base-url", "http://10.0.0.1", stdin=CANARY)
    assert "would carry the credential in clear" in plain.err


def test_personal_credentials_are_warned_of_in_plain_words(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path, RELAY + '\n[oauth]\nclient_id = "ours"\n')
    session = sealing.tree.run(
        "account", "add", "s", "--kind", "session-key", "--base-url", "https://claude.ai", stdin="sk-ant-sid01-x"
    )
    assert session.code == 0
    assert "W-SESSION-KEY" in session.err
    oauth = sealing.tree.run("account", "add", "o", "--kind", "oauth", stdin="sk-ant-oat01-x")
    assert oauth.code == 0, oauth.err
    assert "W-OAUTH-PERSONAL" in oauth.err
    for kind, codes in (("api-key", []), ("simulator", []), ("oauth", ["W-OAUTH-PERSONAL"])):
        assert [warning.code for warning in (ACCOUNT_KINDS[kind].warning,) if warning] == codes
    for kind in ("oauth", "session-key"):
        warning = ACCOUNT_KINDS[kind].warning
        assert warning is not None
        assert "terms" in warning.message
        assert "API key is the supported way" in warning.message


@pytest.mark.parametrize(
    ("kind", "text", "warning"),
    [
        ("api-key", "sk-ant-api03-abc", ""),
        ("api-key", "sk-ant-oat01-abc", "looks like the credential of an account of kind oauth"),
        ("api-key", "hunter2", "usually starts with sk-ant-api"),
        ("oauth", "sk-ant-oat01-abc", ""),
        ("oauth", '{"access_token":"a"}', ""),
        ("session-key", "sk-ant-sid01-abc", ""),
        ("session-key", "sk-ant-api03-abc", "looks like the credential of an account of kind api-key"),
    ],
)
def test_a_secret_of_an_unusual_shape_is_warned_of_without_quoting_it(kind: str, text: str, warning: str) -> None:
    found = shape_warning(kind, Secret(text))
    assert warning in found
    assert bool(found) == bool(warning)
    assert text not in found


def test_a_secret_that_no_header_can_carry_is_refused() -> None:
    for text in ("", "a b", "a\nb", "é", "a\x00"):
        assert why_unusable(Secret(text))
    for text in ("sk-ant-api03-x", '{"access_token": "x"}'):
        assert not why_unusable(Secret(text))


def test_sealing_a_new_credential_changes_one_line(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    sealing.tree.run("account", "add", "main", "--kind", "api-key", stdin="sk-ant-api03-old")
    sealing.tree.write("accounts.d/main.toml", "# ours\n" + sealing.tree.read("accounts.d/main.toml"))
    before = sealing.tree.read("accounts.d/main.toml").splitlines()
    assert sealing.tree.run("account", "seal", "main", stdin=CANARY).code == 0
    after = sealing.tree.read("accounts.d/main.toml").splitlines()
    assert [number for number, (one, two) in enumerate(zip(before, after, strict=True)) if one != two] == [4]
    assert credential(sealing, "main") == CANARY
    assert "is a simulator" in sealing.tree.run("account", "seal", "sample", stdin=CANARY).err
    assert "there is no account x (known: main, sample)" in sealing.tree.run("account", "seal", "x", stdin="y").err


def test_disabling_enabling_and_listing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    assert tree.run("account", "disable", "sample").code == 0
    (entry,) = tree.run("account", "list", "--json").json["accounts"]
    assert (entry["id"], entry["enabled"], entry["credential"]) == ("sample", False, "")
    assert tree.run("account", "enable", "sample").code == 0
    lines = tree.run("account", "list").out.splitlines()
    assert lines[0].split()[:3] == ["ID", "KIND", "STATE"]
    assert lines[1].split()[:3] == ["sample", "simulator", "on"]


# --- test -----------------------------------------------------------------------------------------------------------


class Api(http.server.BaseHTTPRequestHandler):
    """Answers count_tokens as told by the server's `answers`, and remembers what it was asked."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        server.asked.append((self.path, dict(self.headers), json.loads(body)))
        status, answer = server.answers[min(len(server.asked), len(server.answers)) - 1]
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
        """Quiet."""


@contextmanager
def serving(*answers: tuple[int, Any]) -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.answers, server.asked = [(status, json.dumps(answer).encode()) for status, answer in answers], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def account_at(root: Path, url: str) -> SealingTree:
    sealing = make_sealing_tree(root)
    ran = sealing.tree.run("account", "add", "main", "--kind", "api-key", "--base-url", url, stdin=CANARY)
    assert ran.code == 0, ran.err
    return sealing


def test_trying_an_account_sends_its_credential_and_says_that_it_works(tmp_path: Path) -> None:
    with serving((200, {"input_tokens": 8})) as server:
        sealing = account_at(tmp_path, server.url)
        ran = sealing.tree.run("account", "test", "main", "--identity", str(sealing.file), "--model", "claude-x")
    assert (ran.code, ran.out) == (0, "main: 200: the account works\n")
    ((path, headers, body),) = server.asked
    assert path == "/v1/messages/count_tokens"
    assert body["model"] == "claude-x"
    sent = {name.lower(): value for name, value in headers.items()}
    assert sent["x-api-key"] == CANARY
    assert sent["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (401, {"error": {"type": "authentication_error", "message": "invalid x-api-key"}}, "wrong, expired or revoked"),
        (403, {"error": {"type": "permission_error", "message": "no"}}, "may not do this"),
        (404, {"error": {"type": "not_found_error", "message": "model: x"}}, "does not know the path or the model"),
        (429, {"error": {"type": "rate_limit_error", "message": "slow"}}, "rate limited at the moment"),
        (529, {"error": {"type": "overloaded_error", "message": "busy"}}, "overloaded at the moment"),
        (500, {}, "a fault of its own"),
        (200, {"hello": 1}, "not from a Claude API"),
    ],
)
def test_an_account_that_does_not_work_is_told_why(tmp_path: Path, status: int, answer: Any, words: str) -> None:
    with serving((status, answer)) as server:
        sealing = account_at(tmp_path, server.url)
        ran = sealing.tree.run("account", "test", "main", "--identity", str(sealing.file), "--json")
    assert ran.code == 1
    assert words in ran.json["message"]
    assert ran.json["status"] == status
    assert answer.get("error", {}).get("message", "") in ran.json["detail"]
    assert CANARY not in ran.all


def test_an_upstream_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    with refusing_port() as port:
        sealing = account_at(tmp_path, f"http://127.0.0.1:{port}")
        ran = sealing.tree.run("account", "test", "main", "--identity", str(sealing.file))
    assert ran.code == 1
    assert f"http://127.0.0.1:{port} cannot be reached" in ran.out


def test_an_upstream_that_breaks_off_its_answer_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=_answer_in_part, args=(listener,), daemon=True).start()
        sealing = account_at(tmp_path, url)
        ran = sealing.tree.run("account", "test", "main", "--identity", str(sealing.file))
    assert ran.code == 1
    assert f"{url} broke off its answer" in ran.out


def _answer_in_part(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"input_')


def test_a_credential_that_does_not_open_is_told(tmp_path: Path) -> None:
    sealing = account_at(tmp_path, "https://api.anthropic.com")
    ran = sealing.tree.run("account", "test", "main", "--identity", "")
    assert ran.code == 1
    assert "no identity is loaded (see RELAYD_IDENTITY)" in ran.err


def test_the_sample_account_works(tmp_path: Path) -> None:
    assert make_tree(tmp_path).run("account", "test", "sample").code == 0


def test_an_answer_of_no_json_or_with_control_characters_is_judged_calmly() -> None:
    assert not judge(200, b"<html>").ok
    assert not judge(401, b"\xff\xfe").ok
    trial = judge(400, json.dumps({"error": {"type": "x", "message": "\x1b[31mred" + "y" * 9999}}).encode())
    assert "\x1b" not in trial.detail
    assert len(trial.detail) <= 500


# --- login ----------------------------------------------------------------------------------------------------------

TOKENS = {"access_token": "sk-ant-oat01-canary", "refresh_token": "sk-ant-ort01-canary", "expires_in": 3600}
WITH_OAUTH = RELAY + '\n[oauth]\nclient_id = "ours"\ntoken_url = "{url}/token"\nredirect_uri = "{redirect}"\n'


def generator() -> Callable[[int], bytes]:
    """Random bytes that are the same in each run, and not the same twice in one."""
    return random.Random(7).randbytes


def oauth(url: str = "https://token.example", **fields: Any) -> OAuth:
    return OAuth(**{"client_id": "ours", "token_url": f"{url}/token", "scopes": ("a", "b"), **fields})


def test_the_address_carries_a_challenge_and_a_state_and_no_verifier() -> None:
    ask = code_grant.begin(oauth(), "http://127.0.0.1:1/callback", generator())
    query = {name: values[0] for name, values in parse_qs(urlsplit(ask.authorize_url).query).items()}
    digest = hashlib.sha256(ask.verifier.reveal().encode()).digest()
    assert query["code_challenge"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert (query["code_challenge_method"], query["client_id"], query["scope"]) == ("S256", "ours", "a b")
    assert query["state"] == ask.state.reveal()
    assert ask.verifier.reveal() not in repr(ask)
    assert len(ask.verifier.reveal()) == 43


def test_a_pasted_code_an_address_and_a_code_with_state_are_understood() -> None:
    ask = code_grant.begin(oauth(), "https://page.example", generator())
    state = ask.state.reveal()
    for text in (f"abc#{state}", f"https://page.example/?code=abc&state={state}", f"/cb?code=abc&state={state}\n"):
        assert code_grant.read_answer(text, ask).reveal() == "abc"
    assert code_grant.read_answer(" abc ", ask, pasted=True).reveal() == "abc"
    for text, words in (
        ("", "no code"), ("/cb?error=access_denied", "refused: access_denied"), ("abc#wrong", "another sign-in"),
        ("/cb?code=abc", "another sign-in"), ("abc", "another sign-in"), ("/cb?state=x", "no code"),
    ):  # fmt: skip
        with pytest.raises(code_grant.LoginError, match=words):
            code_grant.read_answer(text, ask)


def test_a_code_is_exchanged_with_its_verifier_for_the_json_that_is_sealed() -> None:
    with serving((200, TOKENS)) as server:
        ask = code_grant.begin(oauth(server.url), "http://127.0.0.1:1/callback", generator())
        secret = code_grant.exchange(oauth(server.url), ask, Secret("abc"), now=lambda: 1000.7)
    assert json.loads(secret.reveal()) == {
        "access_token": TOKENS["access_token"], "refresh_token": TOKENS["refresh_token"], "expires_at": 4600
    }  # fmt: skip
    ((path, _, sent),) = server.asked
    assert path == "/token"
    assert (sent["grant_type"], sent["code"], sent["client_id"]) == ("authorization_code", "abc", "ours")
    assert sent["code_verifier"] == ask.verifier.reveal()
    assert sent["redirect_uri"] == "http://127.0.0.1:1/callback"


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (400, {"error": "invalid_grant", "error_description": "abc"}, "answered 400: invalid_grant"),
        (200, {"token": "x"}, "no access_token"),
        (500, [], "answered 500"),
        (302, {}, "answered 302"),
    ],
)
def test_a_token_endpoint_that_says_no_is_told_without_the_code(status: int, answer: Any, words: str) -> None:
    with serving((status, answer)) as server:
        ask = code_grant.begin(oauth(server.url), "http://127.0.0.1:1/callback", generator())
        with pytest.raises(code_grant.LoginError, match=words) as caught:
            code_grant.exchange(oauth(server.url), ask, Secret("abc"), time.time)
    assert "abc" not in str(caught.value)


def test_the_redirect_is_taken_on_loopback_and_strangers_are_turned_away() -> None:
    loopback = Loopback("")
    ask = code_grant.begin(oauth(), loopback.redirect_uri, generator())
    found: list[Secret] = []
    thread = threading.Thread(target=lambda: found.append(loopback.wait(ask, 30)))
    thread.start()
    base = loopback.redirect_uri.removesuffix("/callback")
    for path, status in (("/favicon.ico", 404), ("/callback?code=evil&state=guess", 400)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(base + path, timeout=60)
        assert caught.value.code == status
        caught.value.close()
    with urllib.request.urlopen(f"{loopback.redirect_uri}?code=abc&state={ask.state.reveal()}", timeout=60) as answer:
        assert b"Signed in" in answer.read()
    thread.join()
    loopback.close()
    assert found[0].reveal() == "abc"


def test_a_person_who_declines_or_never_comes_ends_the_wait() -> None:
    loopback = Loopback("")
    ask = code_grant.begin(oauth(), loopback.redirect_uri, generator())
    with pytest.raises(code_grant.LoginError, match=r"no answer from the browser within 0\.05 s"):
        loopback.wait(ask, 0.05)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            loopback.wait(ask, 30)
        except code_grant.LoginError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(f"{loopback.redirect_uri}?error=access_denied", timeout=60)
    answer.value.close()
    thread.join()
    loopback.close()
    assert "refused: access_denied" in str(caught[0])


def test_login_by_pasting_seals_the_tokens_into_the_accounts_file(tmp_path: Path) -> None:
    with serving((200, TOKENS)) as server:
        relay = WITH_OAUTH.format(url=server.url, redirect="https://page.example/code")
        sealing = make_sealing_tree(tmp_path, relay)
        ran = sealing.tree.run("account", "login", "mine", "--paste", "--no-browser", stdin="abc\n")
    assert ran.code == 0, ran.err
    assert json.loads(credential(sealing, "mine"))["access_token"] == TOKENS["access_token"]
    assert load_tree(sealing.tree.root).require().accounts["mine"].kind == "oauth"
    assert "W-OAUTH-PERSONAL" in ran.err
    assert "https://claude.ai/oauth/authorize?" in ran.err
    for token in (TOKENS["access_token"], TOKENS["refresh_token"], server.asked[0][2]["code_verifier"]):
        assert str(token) not in ran.all + sealing.tree.content


def test_login_again_replaces_the_sealed_tokens_only(tmp_path: Path) -> None:
    with serving((200, TOKENS), (200, {**TOKENS, "access_token": "sk-ant-oat01-second"})) as server:
        relay = WITH_OAUTH.format(url=server.url, redirect="https://page.example/code")
        sealing = make_sealing_tree(tmp_path, relay)
        sealing.tree.run("account", "login", "mine", stdin="abc")
        sealing.tree.write("accounts.d/mine.toml", "# mine\n" + sealing.tree.read("accounts.d/mine.toml"))
        assert sealing.tree.run("account", "login", "mine", stdin="def").code == 0
    assert json.loads(credential(sealing, "mine"))["access_token"] == "sk-ant-oat01-second"
    assert sealing.tree.read("accounts.d/mine.toml").startswith("# mine\n")


def test_login_without_a_registration_or_a_page_says_what_is_missing(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    assert "[oauth].client_id is empty" in sealing.tree.run("account", "login", "mine").err
    sealing = make_sealing_tree(tmp_path / "b", RELAY + '\n[oauth]\nclient_id = "ours"\n')
    assert "[oauth].redirect_uri is empty" in sealing.tree.run("account", "login", "mine", "--paste").err


class Provider(http.server.BaseHTTPRequestHandler):
    """An authorisation server that consents at once, and gives tokens for the right code and verifier alone."""

    def do_GET(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        server: Any = self.server
        server.challenge, server.redirect = asked["code_challenge"], asked["redirect_uri"]
        assert (asked["response_type"], asked["code_challenge_method"], asked["client_id"]) == ("code", "S256", "ours")
        self.send_response(302)
        self.send_header("location", f"{asked['redirect_uri']}?code=the-code&state={asked['state']}")
        self.end_headers()

    def do_POST(self) -> None:
        server: Any = self.server
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        digest = hashlib.sha256(asked["code_verifier"].encode()).digest()
        fits = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == server.challenge
        good = fits and (asked["code"], asked["redirect_uri"]) == ("the-code", server.redirect)
        answer = json.dumps(TOKENS if good else {"error": "invalid_grant"}).encode()
        self.send_response(200 if good else 400)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
        """Quiet."""


def test_login_through_the_browser_and_back_to_loopback(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    relay = f'{RELAY}\n[oauth]\nclient_id = "ours"\nauthorize_url = "{url}/authorize"\ntoken_url = "{url}/token"\n'
    sealing = make_sealing_tree(tmp_path, relay)
    command = [sys.executable, "-m", "relayd", "account", "login", "max", "--config", str(sealing.tree.root)]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        said = []
        for line in child.stderr:
            said.append(line)
            if line.startswith(url):  # a person's browser
                with urllib.request.urlopen(line.strip(), timeout=30) as page:
                    assert b"Signed in" in page.read()
        child.stderr.close()
        assert child.wait(60) == 0, said
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    tokens = json.loads(credential(sealing, "max"))
    assert tokens["refresh_token"] == TOKENS["refresh_token"]
    assert TOKENS["access_token"] not in "".join(said) + sealing.tree.content


def test_login_does_not_put_tokens_into_an_account_of_another_kind(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path, WITH_OAUTH.format(url="http://127.0.0.1:1", redirect=""))
    sealing.tree.run("account", "add", "main", "--kind", "api-key", stdin=CANARY)
    ran = sealing.tree.run("account", "login", "main", "--paste", stdin="abc")
    assert (ran.code, "account main is of kind api-key" in ran.err) == (1, True)
    assert credential(sealing, "main") == CANARY


def test_trying_an_account_with_an_expired_token_or_out_of_service_says_so_first(tmp_path: Path) -> None:
    with serving((401, {"error": {"type": "authentication_error", "message": "expired"}})) as server:
        sealing = make_sealing_tree(tmp_path)
        tokens = json.dumps({**TOKENS, "expires_at": 1_000_000_000})
        add = ("account", "add", "max", "--kind", "oauth", "--base-url", server.url)
        assert sealing.tree.run(*add, stdin=tokens).code == 0
        sealing.tree.run("account", "disable", "max")
        ran = sealing.tree.run("account", "test", "max", "--identity", str(sealing.file))
    assert ran.code == 1
    assert "the sealed access token expired at 2001-09-09T01:46:40Z (a daemon refreshes it" in ran.err
    assert "the account is disabled" in ran.err
