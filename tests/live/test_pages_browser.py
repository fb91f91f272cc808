"""The admin pages in a real Chromium: every page in both languages, both themes, narrow and wide; by keyboard, without
scripts, for axe; and that what a stranger stored in them stays a text."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import httpx2
import pytest
from builders import KEY
from chromium import Chromium, chromium
from daemon import SIMULATOR, Daemon, key_text, running, write_tree
from edits_world import git
from openai_programs import javascript
from pages_world import PASSWORD, admin_url, pages_table
from waiting import PATIENCE

from relayd.config.load import load_tree
from relayd.config.model.tree_digest import tree_digest
from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import new_identity
from relayd.config.source.history import Meta, save
from relayd.config.source.tree import read_files
from relayd.core.access.enrolment import Enrolment, enrol
from relayd.core.access.sign_in import STEP, one_time_code

HOSTILE = "'\"><script>window.hacked=1</script><img src=x onerror=window.hacked=1><svg onload=window.hacked=1>"
NARROW, WIDE = 320, 1280
SLOW = 'name = "Slow"\ngroups = ["default", "spare"]\n[simulator]\nstatus = 529\n'
ODD = f"[simulator]\nstatus = 418\nerror_type = '''{HOSTILE}'''\n"  # what an upstream says may be anything


@attrs.frozen
class World:
    """A daemon with pages, and whoever may sign in there with a code."""

    daemon: Daemon
    base: str
    codes: Enrolment
    call: str  # id of one that was made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("browser")
    identity = new_identity(os.urandom)
    secrets = f'\n[[secrets.recipients]]\nname = "prod"\npublic = "{identity.public.text}"\n'
    toml = "'''" + HOSTILE + "'''"
    tree = write_tree(
        root,
        relay=pages_table() + secrets,
        accounts={
            "sim": f"{SIMULATOR}name = {toml}\n",
            "slow": f"{SIMULATOR}{SLOW}",
            "off": f"{SIMULATOR}enabled = false\n",
            "odd": f'{SIMULATOR}groups = ["odd"]\n{ODD}',
        },
        keys={
            "dev": key_text(more=f"name = {toml}\nowner = {toml}\nlimits = {{ daily_requests = 50, concurrency = 5 }}"),
            "strange": key_text(f"{KEY[:-2]}zy", 'groups = ["odd"]'),
            **{f"team-{number}": key_text(f"{KEY[:-2]}{number:02}") for number in range(20)},
        },
    )
    relay = load_tree(tree).require().relay
    codes = enrol("alice", relay.realm, relay.secrets.recipients, os.urandom)
    text = (tree / "relay.toml").read_text()
    (tree / "relay.toml").write_text(text.replace('name = "alice"', f'name = "alice"\ntotp = "{codes.sealed}"'))
    (tree / ".gitignore").write_text("var/\n")
    write_identity(root / "identity", tree, identity)
    _store_older(tree)
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-qm", "first")):
        git(tree, *words)
    with running(tree, environment={"RELAYD_IDENTITY": str(root / "identity")}) as daemon:
        _call(daemon, "claude-haiku-4-5", key=f"{KEY[:-2]}zy")
        names = [_call(daemon, model) for model in ("claude-haiku-4-5", "claude-sonnet-4-5", HOSTILE)]
        base = admin_url(daemon)
        guess = {"name": HOSTILE, "password": "wrong"}
        assert (
            httpx2.post(f"{base}/web/sign-in", headers={"origin": base}, data=guess, timeout=PATIENCE).status_code
            == 401
        )
        yield World(daemon, base, codes, names[-1])


def _call(daemon: Daemon, model: str, key: str = KEY) -> str:
    return str(_answer(daemon, model, key).headers["relayd-request-id"])


def _answer(daemon: Daemon, model: str, key: str) -> httpx2.Response:
    ask = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"x-api-key": key, "user-agent": HOSTILE}
    return httpx2.post(f"{daemon.url}/v1/messages", headers=headers, json=ask, verify=False, timeout=PATIENCE)


def _store_older(tree: Path) -> None:
    """As if the tree had run for a while before its last change: one that a rollback can go to."""
    files = {**read_files(tree), "keys.d/older.toml": key_text(f"{KEY[:-2]}zz").encode()}
    digest = tree_digest(files, ())
    save(
        tree / "var" / "generations", files, Meta(digest=digest, realm="test", saved=time.time() - 3600, trigger="boot")
    )


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chromium]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def axe() -> str:
    return (javascript().modules / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def alice(world: World, chrome: Chromium) -> Chromium:
    """A browser in which she has signed in with password and code."""
    chrome.size(WIDE)
    chrome.open(f"{world.base}/web/reports")
    chrome.fill(name="alice", password=PASSWORD, code=one_time_code(world.codes.seed, int(time.time()) // STEP))
    chrome.click("form button")
    assert chrome.path == "/web/reports", chrome.text
    return chrome


PAGES = (
    "/web",
    "/web/accounts",
    "/web/accounts/sim",
    "/web/keys",
    "/web/keys/dev",
    "/web/calls",
    "/web/calls/CALL",
    "/web/explain?key=dev&model=claude-haiku-4-5",
    "/web/reports?by=owner",
    "/web/config",
    "/web/audit",
    "/web/me",
    "/web/edit",
    "/web/edit/new-key",
    "/web/edit/accounts/sim",
    "/web/edit/relay",
    "/web/edit/file?path=relay.toml",
    "/web/nothing-here",
)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_reads_and_is_reached_by_keyboard(world: World, alice: Chromium, axe: str, page: str) -> None:
    alice.complaints()
    for language, theme in (("en", "light"), ("ko", "dark")):
        alice.theme(theme)
        alice.open(f"{world.base}{page.replace('CALL', world.call)}{'&' if '?' in page else '?'}lang={language}")
        assert alice.run("return document.documentElement.lang") == language
        assert alice.run("return window.hacked") is None
        for width in (WIDE, NARROW):
            alice.size(width)
            assert alice.overflow() == [], (language, width)
        assert alice.axe(axe) == [], (language, theme)  # at 320 px
        assert [one for one in alice.complaints() if "404" not in one or "nothing-here" not in one] == []
    alice.size(WIDE)
    assert alice.out_of_reach() == []


def test_the_checks_above_see_what_they_look_for(world: World, alice: Chromium, axe: str) -> None:
    alice.open(f"{world.base}/web/audit")
    alice.complaints()
    alice.run(
        "document.body.insertAdjacentHTML('beforeend',"
        " '<input><div class=planted></div><button tabindex=-1>x</button>');"
        "document.querySelector('.planted').textContent = 'x'.repeat(400); console.error('planted')"
    )
    assert any("planted" in one for one in alice.overflow())
    assert any(one.startswith("label:") for one in alice.axe(axe))
    assert [one for one in alice.out_of_reach() if "tabindex" in one]
    assert any("planted" in one for one in alice.complaints())
    alice.run("document.body.insertAdjacentHTML('beforeend', '<p onclick=1 style=color:red>x</p>')")
    alice.wait(lambda: any("Content Security Policy" in one for one in alice.complaints()), "a complaint of the policy")


def test_times_are_in_the_zone_of_the_visitor(world: World, alice: Chromium) -> None:
    alice.zone("Asia/Seoul")
    alice.open(f"{world.base}/web/audit?lang=en")
    shown, exact, title = alice.run(
        "const t = document.querySelector('main time'); return [t.textContent, t.dateTime, t.title]"
    )
    seoul = alice.run(
        "return new Intl.DateTimeFormat('en', {hour: '2-digit', minute: '2-digit', hourCycle: 'h23',"
        " timeZone: 'Asia/Seoul'})"
        ".format(new Date(arguments[0]))",
        exact,
    )
    assert shown.endswith(seoul)
    assert exact.endswith("Z")
    assert exact in title
    assert "GMT+9" in title
    alice.zone("UTC")


def test_a_living_part_changes_by_itself(world: World, alice: Chromium) -> None:
    alice.open(f"{world.base}/web?lang=en")
    alice.run("document.querySelector('#health').textContent = 'old'; document.querySelector('#health').dataset.live")
    alice.wait(lambda: alice.run("return document.querySelector('#health').textContent !== 'old'"), "fresh figures")


RELOAD = "form[action='/web/config/reload']:not(:has([name=dry_run], [name=accept])) button"
PREVIEW = "form[action='/web/edit/preview']:has([value='{}']) button"
CONFIRM = "form[action='/web/edit/confirm'] button"


def test_a_key_is_added_used_and_disabled_and_each_step_is_a_commit(world: World, alice: Chromium, axe: str) -> None:
    tree = world.daemon.tree
    alice.open(f"{world.base}/web/edit/new-key?lang=en")
    alice.fill(id="robot", name="Robot", daily_requests="50")
    before = git(tree, "rev-parse", "HEAD")
    alice.click(PREVIEW.format("key.new"))
    assert "+daily_requests = 50" in alice.text
    assert "relayd key new Robot --id robot --limit 50/day" in alice.text
    assert alice.axe(axe) == []
    assert git(tree, "rev-parse", "HEAD") == before, "nothing is written yet"
    alice.click(CONFIRM)
    commit = git(tree, "log", "-1", "--format=%h %an <%ae> %s").split(maxsplit=1)
    assert commit[1].strip() == "alice <alice@example.com> key robot: new"
    assert commit[0] in alice.text
    assert alice.axe(axe) == []
    key = alice.run("return document.querySelector('#new-key').textContent")
    assert _answer(world.daemon, "claude-haiku-4-5", key).status_code == 200
    alice.open(f"{world.base}/web/keys/robot")
    assert key not in alice.driver.page_source
    alice.click("a[href='/web/edit/keys/robot']")
    alice.click(PREVIEW.format("key.disable"))
    assert "+enabled = false" in alice.text
    alice.click(CONFIRM)
    assert git(tree, "log", "-1", "--format=%s").strip() == "key robot: disable"
    refused = _answer(world.daemon, "claude-haiku-4-5", key)
    assert refused.status_code == 401
    page = f"{world.base}/web/calls/{refused.headers['relayd-request-id']}"
    alice.wait(lambda: alice.open(page) or "401" in alice.text, "a refusal's id to open its page, too")


def test_a_broken_tree_is_mended_from_the_page_that_says_where(world: World, alice: Chromium) -> None:
    path = world.daemon.tree / "keys.d" / "team-1.toml"
    sound = path.read_text()
    path.write_text(f"{sound}nonsense = 1\n")
    odd = world.daemon.tree / "keys.d" / "<img src=x onerror=window.hacked=1>.toml"
    odd.write_text("")
    git(world.daemon.tree, "commit", "-qam", "broken")
    alice.open(f"{world.base}/web/config?lang=en")
    alice.click(RELOAD)
    assert "rejected" in alice.text
    assert alice.run("return document.querySelector('.problems mark').textContent") == "nonsense"
    assert "<img src=x onerror" in alice.text
    assert alice.run("return window.hacked") is None
    odd.unlink()
    alice.click("a[href='/web/edit/file?path=keys.d%2Fteam-1.toml']")
    alice.fill(text=sound)
    alice.click(PREVIEW.format("file.edit"))
    assert "-nonsense = 1" in alice.text
    alice.click(CONFIRM)
    assert path.read_text() == sound
    assert git(world.daemon.tree, "log", "-1", "--format=%an").strip() == "alice"
    assert alice.run("return document.querySelector('[role=status] .tag').textContent") in ("runs", "applied")
    alice.open(f"{world.base}/web/config")
    assert "rejected" not in alice.text


def test_an_account_is_tested_rests_and_wakes(world: World, alice: Chromium) -> None:
    act = "form[action='/web/accounts/sim/{}'] button"
    alice.open(f"{world.base}/web/accounts/sim?lang=en")
    alice.click(act.format("test"))
    assert "Test: 200: the account works" in alice.text
    alice.click(act.format("rest"))
    assert "at the wish of alice" in alice.text
    alice.click(act.format("wake"))
    assert "at the wish of alice" not in alice.run("return document.querySelector('main > p:has(.tag)').innerText")
    assert _answer(world.daemon, "claude-haiku-4-5", KEY).status_code == 200
    alice.open(f"{world.base}/web/audit")
    assert all(word in alice.text for word in ("account.test", "account.rest", "account.wake"))


def test_what_is_held_is_accepted_and_a_rollback_taken_back(world: World, alice: Chromium) -> None:
    alice.open(f"{world.base}/web/config?lang=en")
    removed = sorted((world.daemon.tree / "keys.d").glob("team-*.toml"))
    kept = {one: one.read_text() for one in removed}
    for one in removed:
        one.unlink()
    alice.click(RELOAD)
    assert "held" in alice.text
    alice.click("form[action='/web/config/reload']:has([name=accept]) button")
    assert "applied" in alice.run("return document.querySelector('[role=status]').innerText")
    alice.open(f"{world.base}/web/keys")
    assert "team-1" not in alice.text

    alice.open(f"{world.base}/web/config")
    alice.click("form[action='/web/config/rollback']:has([name=generation][value='1']) button")
    assert "it would let revoked keys in again: older, team-0" in alice.text
    alice.click("form:has([name=allow_unrevoke]) button")
    assert "A rollback holds stored generation 1" in alice.text
    alice.open(f"{world.base}/web/keys/older")
    assert alice.run("return document.querySelector('h1').innerText") == "older"
    for one, text in kept.items():
        one.write_text(text)
    alice.open(f"{world.base}/web/config")
    alice.click("form[action='/web/config/resume'] button")
    assert "A rollback holds" not in alice.text
    alice.open(f"{world.base}/web/audit")
    assert all(word in alice.text for word in ("reload.accept", "rollback", "resume"))


def test_pages_work_without_scripts(world: World, alice: Chromium) -> None:
    alice.scripts(on=False)
    try:
        alice.open(f"{world.base}/web/accounts?lang=en")
        alice.fill(q="spare")
        alice.press("form.filters button")
        alice.wait(lambda: "q=spare" in alice.driver.current_url, "the filter in the URL")
        assert "/web/accounts/slow" in alice.driver.page_source
        assert "/web/accounts/off" not in alice.driver.page_source
        alice.open(f"{world.base}/web/config")
        alice.press("form[action='/web/config/reload']:has([name=dry_run]) button")
        alice.wait(lambda: 'role="status"' in alice.driver.page_source, "the verdict")
        alice.open(f"{world.base}/web/audit")
        assert "reload.check" in alice.driver.page_source
    finally:
        alice.scripts(on=True)


def test_the_first_page_loads_little(world: World, alice: Chromium) -> None:
    alice.open(f"{world.base}/web")
    sizes: dict[str, int] = alice.run(
        "return Object.fromEntries([...performance.getEntriesByType('navigation'),"
        " ...performance.getEntriesByType('resource')].map(e => [new URL(e.name).pathname, e.encodedBodySize]))"
    )
    assert {"/web/static/style.css", "/web/static/pages.js"} <= set(sizes)
    assert all(path.startswith("/web") for path in sizes)
    assert sum(sizes.values()) <= 60 << 10


@pytest.mark.parametrize("language", ["en", "ko"])
def test_whoever_is_not_signed_in_and_the_holder_of_a_key(
    world: World, alice: Chromium, axe: str, language: str
) -> None:
    alice.forget()
    alice.open(f"{world.base}/web/sign-in?lang={language}")
    rules = () if language == "en" else ("color-contrast",)
    for theme, width in (("light", WIDE), ("dark", NARROW)):
        alice.theme(theme)
        alice.size(width)
        assert alice.overflow() == []
        assert alice.axe(axe, *rules) == []
    assert alice.out_of_reach() == []
    alice.fill(key=KEY)
    alice.click("form:has([name=key]) button")
    assert alice.path == "/web/my-key"
    assert alice.overflow() == []
    assert alice.axe(axe, *rules) == []
    alice.size(WIDE)
    assert alice.run("return window.hacked") is None
    assert "'\"><script>" in alice.text, "the hostile name is a text"
