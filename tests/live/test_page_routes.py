"""Every route of the pages by every kind of visitor that it is not for; the table is made from the routes themselves.

A route that is added is in it at once: with what it needs if it declares it wrongly, and with a failure here if nobody
has said what this test should ask for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import httpx2
import pytest
from builders import KEY
from daemon import Daemon, start, write_tree
from pages_world import Browser, admin_url, browser, csrf_of, pages_table

from relayd.config.atomic import replace_file
from relayd.core.access.sessions import MOST_OF_ONE, SESSION_AGE, SESSION_IDLE, Sessions
from relayd.daemon.admin.pages.build import build_site
from relayd.daemon.admin.pages.visit import PageRoute

# The daemon, with a wall clock that is ahead by what stands in a file: whole days pass here without a wait.
AHEAD = """\
import os, sys, time
real, ahead = time.time, os.environ["TEST_CLOCK"]
def moved():
    with open(ahead) as file:
        return real() + float(file.read() or 0)
time.time = moved
from relayd.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Anything:
    """Stands for whatever a page is made of: its routes are asked for, and nothing else."""

    def __getattr__(self, name: str) -> Any:
        return Anything()

    def __call__(self, *given: Any, **named: Any) -> Any:
        return Anything()


def routes_of_the_site() -> list[PageRoute]:
    names = ("sources", "queue", "history", "recent", "traffic", "keeper", "wall", "tree", "public")
    made = build_site(rng=os.urandom, **cast("Any", {name: Anything() for name in names}))
    assert isinstance(made.sessions, Sessions)
    return list(made.routes)


ROUTES = routes_of_the_site()
# Routes for whoever comes: that nobody is among them by mistake.
FOR_ALL = {("GET", "/web/sign-in"), ("POST", "/web/sign-in")}
NOT_FOR_ALL = [route for route in ROUTES if (route.method, route.pattern) not in FOR_ALL]
# What stands in the place of each {name} of a pattern. A new one has to be said here.
PLACES = {"account": "sim", "key": "dev", "call": "req_x"}
NEEDS = {
    "key": {("GET", "/web/my-key"), ("POST", "/web/sign-out"), ("POST", "/web/sign-out-everywhere")},
    "viewer": {
        ("GET", "/web"), ("GET", "/web/accounts"), ("GET", "/web/accounts/{account}"), ("GET", "/web/keys"),
        ("GET", "/web/keys/{key}"), ("GET", "/web/calls"), ("GET", "/web/calls/{call}"), ("GET", "/web/explain"),
        ("GET", "/web/reports"), ("GET", "/web/config"), ("GET", "/web/audit"), ("GET", "/web/me"),
        ("GET", "/web/me/codes/qr.svg"), ("POST", "/web/me/codes"), ("POST", "/web/me/codes/confirm"),
    },
}  # fmt: skip


@attrs.frozen
class World:
    """A daemon, and who is signed in."""

    daemon: Daemon
    base: str
    holder: Browser
    viewer: Browser
    editor: Browser
    stale: str  # cookie of a session that was signed out
    http: httpx2.Client  # of nobody
    clock: Path

    def ahead(self, seconds: float) -> None:
        """Set the daemon's clock."""
        replace_file(self.clock, str(seconds).encode())

    def ask(
        self, route: PageRoute, cookie: str = "", *, method: str = "", suffix: str = "", token: str = "", **headers: str
    ) -> httpx2.Response:
        sent = {"origin": self.base, **({"cookie": cookie} if cookie else {}), **headers}
        method = method or route.method
        return self.http.request(
            method,
            self.base + path_of(route) + suffix,
            headers={name.replace("_", "-"): value for name, value in sent.items()},
            data={"csrf": token} if method == "POST" else None,
        )


def path_of(route: PageRoute) -> str:
    return route.pattern.format(**PLACES)


def cookie_of(one: Browser) -> str:
    return f"relayd-session={one.http.cookies['relayd-session']}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("routes")
    clock = root / "clock"
    clock.write_text("0")
    daemon = start(write_tree(root, relay=pages_table()), program=("-c", AHEAD), environment={"TEST_CLOCK": str(clock)})
    try:
        holder, viewer, editor, gone = (browser(daemon) for _ in range(4))
        holder.post("/web/sign-in", {"key": KEY})
        viewer.sign_in("victor")
        editor.sign_in("alice")
        first = gone.sign_in("alice")
        stale = cookie_of(gone)
        gone.post("/web/sign-out", csrf_of(first))
        with httpx2.Client(verify=False, timeout=30) as nobody:
            yield World(daemon, admin_url(daemon), holder, viewer, editor, stale, nobody, clock)
    finally:
        daemon.stop()


def is_sent_away(route: PageRoute, answer: httpx2.Response) -> bool:
    """As somebody who is not signed in."""
    if route.method == "GET":
        return answer.status_code == 303 and answer.headers["location"].startswith("/web/sign-in")
    return answer.status_code == 401


def named(route: PageRoute) -> str:
    return f"{route.method} {route.pattern}"


def test_each_route_is_for_those_that_this_table_says() -> None:
    assert len({named(route) for route in ROUTES}) == len(ROUTES)
    for route in ROUTES:
        place = route.method, route.pattern
        wanted = "nobody" if place in FOR_ALL else next((who for who, of in NEEDS.items() if place in of), "editor")
        assert route.need == wanted, named(route)
    listed = FOR_ALL.union(*NEEDS.values())
    assert listed <= {(route.method, route.pattern) for route in ROUTES}, "a route that is gone"


def test_whoever_is_not_signed_in_gets_nowhere(world: World) -> None:
    for route in NOT_FOR_ALL:
        for cookie in ("", world.stale, f"relayd-session={'0' * 43}"):
            assert is_sent_away(route, world.ask(route, cookie)), (named(route), cookie)
        suffix = ".json" if route.pattern != "/web" else "/overview.json"
        assert world.ask(route, world.stale, suffix=suffix).status_code == 401, named(route)


@pytest.fixture
def moving(world: World) -> Iterator[World]:
    """The clock is set back behind a test. Nobody else's session is looked at meanwhile, so none of them ends."""
    yield world
    world.ahead(0)


def new_sessions(world: World, count: int) -> list[str]:
    """Cookies of so many sessions of a key holder, each in a browser of its own."""
    cookies = []
    for _ in range(count):
        answer = world.http.post(f"{world.base}/web/sign-in", data={"key": KEY}, headers={"origin": world.base})
        cookies.append(answer.headers["set-cookie"].partition(";")[0])
        world.http.cookies.clear()  # another browser's
    return cookies


def test_a_session_that_was_idle_for_too_long_is_none(moving: World) -> None:
    """One for each route: the first look at it ends it for good."""
    before, at = [one for one in NOT_FOR_ALL if one.method == "GET"][:2]
    most = MOST_OF_ONE - 3  # with the two here and the holder's own
    for begin in range(0, len(NOT_FOR_ALL), most):
        routes = NOT_FOR_ALL[begin : begin + most]
        moving.ahead(0)
        first, second, *cookies = new_sessions(moving, len(routes) + 2)
        moving.ahead(SESSION_IDLE - 60)
        assert not is_sent_away(before, moving.ask(before, first))
        moving.ahead(SESSION_IDLE + 1)
        assert not is_sent_away(at, moving.ask(at, first)), "it was used a minute ago"
        assert is_sent_away(at, moving.ask(at, second))
        for route, cookie in zip(routes, cookies, strict=True):
            assert is_sent_away(route, moving.ask(route, cookie)), named(route)
        moving.ahead(3 * SESSION_IDLE)
        assert is_sent_away(at, moving.ask(at, first))


def test_a_session_that_is_too_old_is_none_however_busy(moving: World) -> None:
    """One for each method and need, for each is kept busy for half a day."""
    kinds = {(route.method, route.need): route for route in NOT_FOR_ALL}
    mine = next(route for route in ROUTES if route.pattern == "/web/my-key")
    cookies = new_sessions(moving, len(kinds))
    for seconds in (*range(0, int(SESSION_AGE) - 60, int(SESSION_IDLE) - 60), int(SESSION_AGE) - 60):
        moving.ahead(seconds)
        for cookie in cookies:  # any request uses a session, also one that is refused
            assert moving.ask(mine, cookie, method="PUT").status_code == 405, seconds
    assert all(moving.ask(mine, cookie).status_code == 200 for cookie in cookies)
    moving.ahead(SESSION_AGE + 1)
    for route, cookie in zip(kinds.values(), cookies, strict=True):
        assert is_sent_away(route, moving.ask(route, cookie)), named(route)


def test_a_role_reaches_what_it_is_for_and_nothing_else(world: World) -> None:
    ranks = {"key": 1, "viewer": 2, "editor": 3}
    for who, rank in (("key", 1), ("viewer", 2)):
        cookie = cookie_of(world.holder if who == "key" else world.viewer)
        for route in ROUTES:
            if route.need == "nobody" or ranks[route.need] <= rank:
                continue
            answer = world.ask(route, cookie)
            if who == "key" and route.pattern == "/web":
                assert (answer.status_code, answer.headers["location"]) == (303, "/web/my-key")
            else:
                assert answer.status_code == 403, (who, named(route))
                assert "may not do this" in answer.text


def test_no_other_site_and_no_form_without_its_token_acts(world: World) -> None:
    cookie = cookie_of(world.editor)
    foreign = csrf_of(world.viewer.get("/web"))["csrf"]
    for route in ROUTES:
        if route.method != "POST":
            continue
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "", "sec_fetch_site": "cross-site"},
            {"origin": "", "sec_fetch_site": "same-site"},
            {"origin": ""},
        ):
            assert world.ask(route, cookie, **headers).status_code == 403, (named(route), headers)
        if route.pattern == "/web/sign-in":
            continue
        for token in ("", "0" * 64, foreign):
            answer = world.ask(route, cookie, token=token)
            assert answer.status_code == 403, (named(route), token)
            assert "another session" in answer.text
    assert world.editor.get("/web/audit.json").status_code == 200, "still signed in: nothing of it acted"


def test_no_route_answers_under_another_name(world: World) -> None:
    cookie = cookie_of(world.editor)
    for route in ROUTES:
        for host in ("127.0.0.1.evil.example", "evil.example:3001"):
            answer = world.ask(route, cookie, host=host, origin=f"http://{host}")
            assert answer.status_code == 421, (named(route), host)


def test_another_method_is_no_way_around(world: World) -> None:
    cookie = cookie_of(world.editor)
    methods = {route.pattern: {one.method for one in ROUTES if one.pattern == route.pattern} for route in ROUTES}
    for route in ROUTES:
        for method in {"PUT", "GET", "POST"} - methods[route.pattern]:
            assert world.ask(route, cookie, method=method).status_code in (404, 405), (method, named(route))


def test_every_page_that_is_for_somebody_answers_them(world: World) -> None:
    """So that the refusals above are not those of a site that refuses everything."""
    people = {"key": world.holder, "viewer": world.viewer, "editor": world.editor, "nobody": world.editor}
    for route in ROUTES:
        if route.method == "GET":
            answer = world.ask(route, cookie_of(people[route.need]))
            missing = route.pattern in ("/web/calls/{call}", "/web/me/codes/qr.svg", "/web/edit/file")
            wanted = 404 if missing else 303 if route.pattern == "/web/sign-in" else 200
            assert answer.status_code == wanted, named(route)
