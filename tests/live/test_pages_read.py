"""Every page of a daemon that has served calls: for whom it is, in each language, and that hostile texts stay texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest
from builders import KEY
from daemon import SIMULATOR, Daemon, key_text, running, write_tree
from fleet import noon_zone
from pages_world import Browser, browser, csrf_of, pages_table
from waiting import PATIENCE

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"
PATHS = (
    "/web",
    "/web?span=week",
    "/web/accounts",
    "/web/accounts?state=serves&q=sim",
    "/web/accounts/sim",
    "/web/keys",
    "/web/keys?q=dev",
    "/web/keys/dev",
    "/web/calls",
    "/web/calls?key=dev",
    "/web/explain",
    "/web/explain?key=dev&model=claude-haiku-4-5",
    "/web/reports",
    "/web/reports?by=owner",
    "/web/reports?by=month",
    "/web/reports?by=day&from=2026-01-01&to=2026-02-01",
    "/web/config",
    "/web/audit",
)


class Shape(HTMLParser):
    """What stands in a page: elements that are closed in order, attributes, ids."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag, tag


def quoted(text: str) -> str:
    return "'" + text.replace("'", "") + "'"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    more = f"name = {quoted(HOSTILE)}\nowner = {quoted(HOSTILE)}\nlimits = {{ daily_requests = 100, concurrency = 5 }}"
    tree = write_tree(
        tmp_path_factory.mktemp("read"),
        relay=f'{pages_table()}[state]\ntimezone = "{noon_zone()}"\n',
        accounts={"sim": f"{SIMULATOR}name = {quoted(HOSTILE)}\n"},
        keys={"dev": key_text(more=more)},
    )
    with running(tree) as daemon:
        for model in ("claude-haiku-4-5", HOSTILE):
            ask = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
            headers = {"x-api-key": KEY, "user-agent": HOSTILE}
            assert (
                httpx2.post(f"{daemon.url}/v1/messages", headers=headers, json=ask, timeout=PATIENCE).status_code == 200
            )
        daemon.wait_for("call.done", 2)
        yield daemon


@pytest.fixture(scope="module")
def visitor(daemon: Daemon) -> Browser:
    one = browser(daemon)
    one.sign_in("victor")
    return one


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("path", PATHS)
def test_every_page_reads_well_and_holds_no_hostile_text(visitor: Browser, path: str, language: str) -> None:
    page = visitor.get(path, cookie=f"relayd-language={language}; {cookies(visitor)}")
    assert page.status_code == 200, page.text
    shape = Shape()
    shape.feed(page.text)
    assert shape.open == []
    assert shape.tags.count("script") == 1
    assert shape.tags.count("h1") == 1
    assert "img" not in shape.tags
    assert not [name for name, _ in shape.attributes if name.startswith("on") or name == "style"]
    ids = [value for name, value in shape.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert "alert(1)</script>" not in page.text
    assert "49" not in re.findall(r"onerror=alert\(2\)&gt;(\S+?)<", page.text)
    assert f'lang="{language}"' in page.text
    assert len(page.content) < 200_000


def cookies(visitor: Browser) -> str:
    return "; ".join(f"{name}={value}" for name, value in visitor.http.cookies.items())


@pytest.mark.parametrize("path", PATHS)
def test_every_page_has_a_form_for_programs(visitor: Browser, path: str) -> None:
    place, _, query = path.partition("?")
    place = "/web/overview" if place == "/web" else place
    if path == "/web/explain":
        return
    answer = visitor.get(f"{place}.json?{query}")
    assert isinstance(answer.json(), dict)
    table = visitor.get(f"{place}.csv?{query}")
    assert table.status_code == 200
    assert not [line for line in table.text.splitlines() if line.startswith(("=", "+", "@"))]


def test_each_table_of_a_page_is_csv_and_json(visitor: Browser) -> None:
    page = visitor.get("/web/keys/dev")
    assert "/web/keys/dev.csv?table=history" in page.text
    assert visitor.get("/web/keys/dev.csv?table=models").text.startswith("model,calls,errors,tokens,cost\r\n")
    (day,) = visitor.get("/web/keys/dev.json?table=history").json()["rows"]  # none from before the first call
    assert day["calls"] == 2
    wrong = visitor.get("/web/keys/dev.csv?table=nothing")
    assert (wrong.status_code, "expected one of limits, models" in wrong.text) == (404, True)


def test_an_account_is_the_same_in_its_document_and_in_the_table_of_all(visitor: Browser) -> None:
    row = visitor.get("/web/accounts.json").json()["rows"][0]
    alone = visitor.get(f"/web/accounts/{row['account']}.json").json()
    assert row["last_used"].endswith("Z")
    assert {name: alone[name] for name in row} == row


def test_the_holder_of_a_key_sees_its_own_use_and_no_account(daemon: Daemon) -> None:
    holder = browser(daemon)
    page = holder.post("/web/sign-in", {"key": KEY})
    assert page.url.path == "/web/my-key"
    daemon.wait_until(lambda: len(holder.get("/web/my-key.json").json()["calls"]) == 2, "the store to have both calls")
    document = holder.get("/web/my-key.json").json()
    assert {(row["unit"], row["limit"]) for row in document["limits"]} >= {("requests", 100), ("concurrent", 5)}
    assert "account" not in document["calls"][0]
    assert "/web/accounts" not in page.text
    assert "sim" not in re.sub(r"<head>.*?</head>", "", page.text, flags=re.DOTALL).split()


def test_the_books_and_the_page_say_the_same(visitor: Browser) -> None:
    rows = visitor.get("/web/reports.json?by=account").json()["rows"]
    assert [(row["account"], row["calls"]) for row in rows] == [("sim", 2)]
    (today,) = visitor.get("/web/reports.json?by=day").json()["rows"]
    account = visitor.get("/web/accounts.json").json()["rows"][0]
    assert (account["account"], account["state"]) == ("sim", "serves")
    key = visitor.get("/web/keys.json").json()["rows"][0]
    assert key["key"] == "dev"
    assert account["calls"] == key["calls"] == today["calls"] == 2
    assert key["used_share"] == pytest.approx(key["calls"] / 100)
    traffic = visitor.get("/web/overview.csv").text.splitlines()
    calls = traffic[0].split(",").index("calls")
    assert sum(int(line.split(",")[calls]) for line in traffic[1:]) == 2


def test_an_editor_reloads_sees_the_change_and_rolls_back(daemon: Daemon) -> None:
    editor = browser(daemon)
    editor.sign_in("alice")
    page = editor.get("/web/config")
    unchanged = editor.post("/web/config/reload", csrf_of(page))
    assert "unchanged" in unchanged.text
    path = daemon.tree / "keys.d" / "dev.toml"
    text = path.read_text()
    path.write_text(text + "\nnonsense = 1\n")
    broken = editor.post("/web/config/reload", csrf_of(page))
    assert "keys.d/dev.toml:" in broken.text
    assert "unknown key" in broken.text
    path.write_text(text)
    assert "rejected" not in editor.post("/web/config/reload", csrf_of(page)).text.partition("<h2")[0]
    acts = editor.get("/web/audit.json").json()["rows"]
    assert [(act["who"], act["what"], act["result"]) for act in acts[:3]] == [
        ("alice", "reload", "unchanged"),
        ("alice", "reload", "rejected"),
        ("alice", "reload", "unchanged"),
    ]

    def logged() -> list[tuple[str, str]]:
        return [(one["who"], one["result"]) for one in daemon.events("admin.audit") if one["what"] == "reload"]

    daemon.wait_until(lambda: len(logged()) == 3, "three lines in the log")
    assert logged() == [("alice", act["result"]) for act in reversed(acts[:3])]


def test_many_accounts_come_in_parts_for_people_and_whole_for_programs(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay=pages_table(), accounts={f"a{number:03}": SIMULATOR for number in range(130)})
    with running(tree) as daemon:
        one = browser(daemon)
        one.sign_in("victor")
        first = one.get("/web/accounts?q=a")
        more = re.search(r'href="([^"]*after=[^"]*)" rel="next"', first.text)
        assert more is not None
        second = one.get(unescape(more[1]))
        assert ["/web/accounts/a099" in page.text for page in (first, second)] == [True, False]
        assert ["/web/accounts/a100" in page.text for page in (first, second)] == [False, True]
        assert 'rel="next"' not in second.text
        assert len(one.get("/web/accounts.json").json()["rows"]) == 130
