"""The admin pages of a real daemon: who is let in, what each form of a page says, what no stranger can make it do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from builders import KEY
from daemon import Daemon, running, write_tree
from pages_world import PASSWORD, Browser, admin_url, browser, csrf_of, pages_table
from waiting import PATIENCE


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    more = 'hosts = ["relay.example.com"]\nproxy_user_header = "X-Remote-User"\n'
    with running(write_tree(tmp_path_factory.mktemp("pages"), relay=pages_table(more=more))) as daemon:
        yield daemon


@pytest.fixture
def visitor(daemon: Daemon) -> Browser:
    return browser(daemon)


def test_a_browser_that_has_the_address_alone_comes_to_the_pages_and_a_program_to_json(visitor: Browser) -> None:
    assert visitor.get("/").json()["name"] == "relayd"
    assert visitor.get("/", accept="text/html,application/xhtml+xml;q=0.9").url.path == "/web/sign-in"


def test_web_leads_to_sign_in_and_from_there_to_where_one_wanted(visitor: Browser) -> None:
    page = visitor.get("/web/audit?x=1")
    assert page.url.path == "/web/sign-in"
    assert "Sign in" in page.text
    first = visitor.submit(page, "/web/sign-in", name="alice", password=PASSWORD)
    assert first.url.path == "/web/audit"
    assert "sign-in" in first.text
    assert visitor.get("/web").url.path == "/web"


def test_a_wrong_password_is_one_answer_whoever_was_meant(visitor: Browser) -> None:
    answers = [visitor.sign_in(name=name, password="wrong") for name in ("alice", "nobody")]
    assert [answer.status_code for answer in answers] == [401, 401]
    texts = [re.sub(r'value="(alice|nobody)"', "", answer.text) for answer in answers]
    assert texts[0] == texts[1]
    assert "set-cookie" not in answers[0].headers
    assert visitor.sign_in().url.path == "/web"


def test_guessing_is_slowed_down_and_the_owner_elsewhere_is_not(daemon: Daemon) -> None:
    stranger = browser(daemon, x_forwarded_for="198.51.100.7")
    owner = browser(daemon, x_forwarded_for="192.0.2.7")
    answers = [stranger.sign_in(name="victor", password="wrong").status_code for _ in range(6)]
    assert answers == [401] * 4 + [429] * 2
    held_off = stranger.sign_in(name="victor")
    assert held_off.status_code == 429
    assert int(held_off.headers["retry-after"]) >= 1
    assert owner.sign_in(name="victor").url.path == "/web"


def test_a_key_that_is_not_one_signs_nobody_in(visitor: Browser) -> None:
    assert visitor.post("/web/sign-in", {"key": KEY[:-1] + "x"}).status_code == 401


def test_cookies_are_out_of_reach(visitor: Browser, daemon: Daemon) -> None:
    answer = visitor.http.post(
        f"{admin_url(daemon)}/web/sign-in",
        data={"name": "alice", "password": PASSWORD},
        headers={"origin": visitor.base},
    )
    cookies = answer.headers.get_list("set-cookie")
    assert answer.status_code == 303
    assert all("HttpOnly" in one and "SameSite=Strict" in one for one in cookies)
    secure = visitor.http.post(
        f"{admin_url(daemon)}/web/sign-in",
        data={"name": "alice", "password": PASSWORD},
        headers={"origin": "https://relay.example.com", "host": "relay.example.com", "x-forwarded-proto": "https"},
    )
    session = next(one for one in secure.headers.get_list("set-cookie") if one.startswith("__Host-relayd="))
    assert "; Secure" in session
    assert "; Path=/;" in session


def test_every_answer_is_locked_down(visitor: Browser) -> None:
    visitor.sign_in()
    for path in ("/web", "/web/nothing-here", "/web/audit.json", "/web/audit.csv"):
        answer = visitor.get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["relayd-request-id"]
    page = visitor.get("/web").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=|https?://", page)


def test_pages_have_three_forms(visitor: Browser) -> None:
    visitor.sign_in()
    assert visitor.get("/web/overview.json").json()["realm"] == "test"
    rows = visitor.get("/web/audit.json").json()["rows"]
    assert rows[0]["what"] == "sign-in"
    assert rows[0]["who"] == "alice"
    table = visitor.get("/web/audit.csv")
    assert table.headers["content-type"].startswith("text/csv")
    assert table.text.splitlines()[0] == "at,who,what,subject,address,result"


def test_a_call_is_found_by_the_id_in_its_answer(visitor: Browser, daemon: Daemon) -> None:
    ask = {
        "model": "claude-haiku-4-5<script>",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "the prompt"}],
    }
    answer = httpx2.post(f"{daemon.url}/v1/messages", headers={"x-api-key": KEY}, json=ask, timeout=PATIENCE)
    name = answer.headers["relayd-request-id"]
    visitor.sign_in()
    daemon.wait_until(lambda: visitor.get(f"/web/calls/{name}").status_code == 200, "the store to have the call")
    page = visitor.get(f"/web/calls/{name}")
    assert "claude-haiku-4-5&lt;script&gt;" in page.text
    assert "<script>" not in page.text.partition("<main")[2]
    assert "the prompt" not in page.text
    document = visitor.get(f"/web/calls/{name}.json").json()
    assert document["attempts"][0]["account"] == "sim"
    assert document["revision"]
    assert visitor.get("/web/calls.json?key=dev&status=200").json()["rows"][0]["id"] == name
    assert visitor.get("/web/calls.json?key=other").json()["rows"] == []
    assert visitor.get("/web/calls/req_nothing").status_code == 404
    assert visitor.get("/web/calls?status=x").status_code == 400


def test_calls_survive_the_daemon_and_can_be_turned_off(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay=pages_table())
    ask = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
    with running(tree) as daemon:
        name = httpx2.post(f"{daemon.url}/v1/messages", headers={"x-api-key": KEY}, json=ask, timeout=PATIENCE).headers[
            "relayd-request-id"
        ]
    with running(tree) as daemon:
        one = browser(daemon)
        one.sign_in()
        assert one.get(f"/web/calls/{name}").status_code == 200
    (tree / "relay.toml").write_text((tree / "relay.toml").read_text().replace("[admin]", "[admin]\ncalls = 0"))
    with running(tree) as daemon:
        httpx2.post(f"{daemon.url}/v1/messages", headers={"x-api-key": KEY}, json=ask, timeout=PATIENCE)
        one = browser(daemon)
        one.sign_in()
        daemon.wait_until(lambda: "[admin].calls = 0" in one.get("/web/calls").text, "all are forgotten")


def test_both_languages(daemon: Daemon) -> None:
    korean = browser(daemon, accept_language="ko-KR,ko;q=0.9,en;q=0.8")
    assert "로그인" in korean.get("/web").text
    assert 'lang="en"' in korean.get("/web/sign-in?lang=en").text.split("<head>")[0]
    assert "Sign in" in korean.get("/web/sign-in").text, "the choice is kept"


def test_another_host_name_is_refused(visitor: Browser) -> None:
    for host, status in (("relay.example.com", 200), ("relay.example.com:3001", 200), ("evil.example", 421)):
        answer = visitor.http.get(f"{visitor.base}/web/sign-in", headers={"host": host})
        assert answer.status_code == status, host


def test_signing_in_ends_the_session_that_a_browser_had(visitor: Browser) -> None:
    visitor.sign_in()
    before = visitor.http.cookies["relayd-session"]
    visitor.sign_in()
    after = visitor.http.cookies["relayd-session"]
    assert before != after
    stale = httpx2.get(
        f"{visitor.base}/web/audit.json", headers={"cookie": f"relayd-session={before}"}, timeout=PATIENCE
    )
    assert stale.status_code == 401


def test_signing_out_everywhere_ends_all_of_them(daemon: Daemon) -> None:
    one, other = browser(daemon), browser(daemon)
    page = one.sign_in()
    other.sign_in()
    one.post("/web/sign-out-everywhere", csrf_of(page))
    assert [each.get("/web").url.path for each in (one, other)] == ["/web/sign-in"] * 2


def test_a_proxy_signs_people_in_and_nobody_else_can(visitor: Browser) -> None:
    named = {"x-remote-user": "victor"}
    assert httpx2.get(f"{visitor.base}/web/audit.json", headers=named, timeout=PATIENCE).status_code == 200
    for wrong in ([("x-remote-user", "stranger")], [("x-remote-user", "victor"), ("x-remote-user", "alice")]):
        assert httpx2.get(f"{visitor.base}/web/audit.json", headers=wrong, timeout=PATIENCE).status_code == 401


def test_a_change_of_the_tree_ends_a_session_at_once(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay=pages_table())
    with running(tree) as daemon:
        one, other = browser(daemon), browser(daemon)
        one.sign_in("alice")
        other.sign_in("victor")
        text = (tree / "relay.toml").read_text()
        (tree / "relay.toml").write_text(text.replace('role = "editor"', 'role = "viewer"'))
        daemon.wait_until(lambda: one.get("/web").url.path == "/web/sign-in", "the session has ended")
        assert other.get("/web").url.path == "/web"


def test_without_users_the_page_says_how_to_add_one(tmp_path: Path) -> None:
    with running(write_tree(tmp_path, relay=pages_table(users={}))) as daemon:
        page = browser(daemon).get("/web")
        assert "relayd secret password" in page.text
        assert "<form" not in page.text.split("<main")[1]
        assert browser(daemon).sign_in().status_code == 200
        assert browser(daemon).get("/web/audit.json").status_code == 401
