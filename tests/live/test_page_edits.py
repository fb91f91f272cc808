"""Edits on the admin pages of a real daemon whose tree is a real git repository: from the form to the call."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

import httpx2
import pytest
from builders import KEY
from daemon import SIMULATOR, key_text, running, write_tree
from edits_world import ASK, EditWorld, confirm, diff_of, git, look, may_confirm
from pages_world import browser, pages_table
from test_pages_read import Shape, cookies
from waiting import PATIENCE

from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import Identity, new_identity

CREDENTIAL = "sk-ant-api03-" + "canary" * 12
HOSTILE = "<img src=x onerror=alert(1)>'\"; $(id)"


@pytest.fixture(scope="module")
def identity() -> Identity:
    return new_identity(lambda size: b"\x07" * size)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, identity: Identity) -> Iterator[EditWorld]:
    root = tmp_path_factory.mktemp("edits")
    users = {"alice": "editor", "erin": "editor", "victor": "viewer"}
    relay = pages_table(more='push = "origin"\n', users=users)
    relay += f'\n[secrets]\nrecipients = [{{ name = "prod", public = "{identity.public.text}" }}]\n'
    relay += '\n[models]\n# kept\nfast = "claude-haiku-4-5"\n'
    tree = write_tree(
        root,
        relay=relay,
        accounts={"sim": SIMULATOR, "idle": f'{SIMULATOR}proxy = "http://me:pr0xy-canary@127.0.0.1:9"\n'},
        keys={"dev": key_text(more='owner = "team"\n'), "calm": key_text(KEY[:-1], more='owner = "team"\n')},
        files={".gitignore": "var/\n"},
    )
    write_identity(root / "identity", tree, identity)
    remote = root / "remote.git"
    git(root, "init", "-q", "--bare", "-b", "main", str(remote))
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "first")
    git(tree, "remote", "add", "origin", str(remote))
    git(tree, "push", "-q", "origin", "main")
    with running(tree, "--identity", str(root / "identity")) as daemon:
        yield EditWorld(daemon, remote)


def test_a_new_key_is_committed_pushed_shown_once_and_works_until_it_is_disabled(world: EditWorld) -> None:
    alice = world.editor()
    before = world.head()
    fields = {"id": "robot", "name": "Robot", "owner": "team", "daily_requests": "50", "daily_cost": "2.50"}
    preview = look(alice, "/web/edit/new-key", "key.new", **fields)
    assert preview.status_code == 200, preview.text
    assert "daily_requests = 50" in preview.text
    command = "relayd key new Robot --id robot --owner team --limit 50/day --limit 2.50usd/day"
    assert command in preview.text
    assert "sk-relay" not in preview.text.replace("sk-relay-", "", preview.text.count("hint = "))
    assert world.head() == before, "nothing is done yet"
    done = confirm(alice, preview)
    assert done.status_code == 200, done.text
    assert done.headers["cache-control"] == "no-store"
    key = re.search(r'<code id="new-key">([^<]+)</code>', done.text)
    assert key is not None
    assert world.call(key[1]) == 200
    for words in ("ANTHROPIC_BASE_URL", "anthropic.Anthropic", "openai.OpenAI", "curl ", f"{world.daemon.url}/v1"):
        assert words in done.text
    assert git(world.tree, "log", "-1", "--format=%an <%ae> %cn: %s").strip() == (
        "alice <alice@example.com> alice: key robot: new"
    )
    assert git(world.tree, "show", "--name-only", "--format=", "HEAD").split() == ["keys.d/robot.toml"]
    assert git(world.remote, "rev-parse", "main").strip() == world.head()
    assert git(world.tree, "status", "--porcelain") == ""
    assert alice.submit(preview, "/web/edit/confirm").status_code == 409, "a draft is used once"
    off = look(alice, "/web/edit/keys/robot", "key.disable")
    assert diff_of(off) == ["+enabled = false"]
    assert "relayd key disable robot" in off.text
    confirm(alice, off)
    assert world.call(key[1]) == 401
    rows = alice.get("/web/audit.json").json()["rows"]
    assert [(row["what"], row["subject"], row["who"]) for row in rows[:2]] == [
        ("key.disable", "robot", "alice"),
        ("key.new", "robot", "alice"),
    ]
    assert all(row["result"].startswith("ok: commit ") for row in rows[:2])
    seen = world.daemon.text() + alice.get("/web/audit").text + alice.get("/web/keys/robot").text
    assert key[1] not in seen
    assert key[1] not in git(world.tree, "log", "-p", "--all")


def test_a_key_is_rotated_and_deleted(world: EditWorld) -> None:
    alice = world.editor()
    confirm(alice, look(alice, "/web/edit/new-key", "key.new", id="turns"))
    done = confirm(alice, look(alice, "/web/edit/keys/turns", "key.rotate", grace="0s"))
    found = re.search(r'<code id="new-key">([^<]+)</code>', done.text)
    assert found is not None
    assert world.call(found[1]) == 200
    gone = confirm(alice, look(alice, "/web/edit/keys/turns", "key.delete"))
    assert gone.status_code == 200
    assert not (world.tree / "keys.d/turns.toml").exists()
    assert world.call(found[1]) == 401
    assert alice.get("/web/edit/keys/turns").status_code == 404


def test_settings_change_and_nothing_else(world: EditWorld) -> None:
    alice = world.editor()
    path = world.tree / "keys.d/dev.toml"
    same = look(alice, "/web/edit/keys/dev", "key.change")
    assert "Nothing would change" in same.text
    assert not may_confirm(same)
    wanted = {"models": "claude-haiku-*, fast", "daily_tokens": "1000", "expires": "2099-01-01"}
    done = confirm(alice, look(alice, "/web/edit/keys/dev", "key.change", **wanted))
    assert done.status_code == 200, done.text
    text = path.read_text()
    assert 'models = ["claude-haiku-*", "fast"]' in text
    assert "[limits]\ndaily_tokens = 1000" in text
    back = confirm(alice, look(alice, "/web/edit/keys/dev", "key.change", models="", daily_tokens="", expires=""))
    assert back.status_code == 200
    assert "models" not in path.read_text()
    assert ">held<" in back.text, "a key that may more is held until somebody accepts it"
    assert ">applied<" in alice.submit(back, "/web/config/reload").text
    assert alice.get("/web/edit/keys/nobody").status_code == 404


def test_limits_of_an_owner_are_one_commit(world: EditWorld) -> None:
    alice = world.editor()
    assert "team" in alice.get("/web/edit").text
    done = confirm(alice, look(alice, "/web/edit/owner?owner=team", "owner.limits", monthly_cost="100"))
    assert done.status_code == 200, done.text
    files = git(world.tree, "show", "--name-only", "--format=", "HEAD").split()
    assert {"keys.d/dev.toml", "keys.d/calm.toml"} <= set(files)
    assert look(alice, "/web/edit/owner?owner=team", "owner.limits").status_code == 400
    assert look(alice, "/web/edit/owner?owner=team", "owner.limits", monthly_cost="ten").status_code == 422


def test_a_credential_is_sealed_and_shown_nowhere(world: EditWorld, identity: Identity) -> None:
    from relayd.config.secrets.seal import open_sealed
    from relayd.config.secrets.sealed_fields import sealed_fields
    from relayd.config.source.tree import read_files

    alice = world.editor()
    fields = {"id": "main", "kind": "api-key", "groups": "spare", "credential": CREDENTIAL, "requests_per_minute": "5"}
    preview = look(alice, "/web/edit/new-account", "account.new", **fields)
    assert "(hidden 1)" in preview.text
    done = confirm(alice, preview)
    assert done.status_code == 200, done.text

    def sealed() -> str:
        (field,) = [one for one in sealed_fields(read_files(world.tree)) if one.name == "account main"]
        assert field.binding is not None
        return open_sealed(field.value, field.binding, [identity]).reveal()

    assert sealed() == CREDENTIAL
    other = CREDENTIAL.replace("canary", "other-")
    again = look(alice, "/web/edit/accounts/main", "account.change", credential=other, base_url="https://api.example")
    confirm(alice, again)
    assert sealed() == other
    off = confirm(alice, look(alice, "/web/edit/accounts/main", "account.disable"))
    gone = look(alice, "/web/edit/accounts/main", "account.delete")
    seen = "".join(page.text for page in (preview, done, again, off, gone)) + world.daemon.text()
    assert confirm(alice, gone).status_code == 200
    for secret in (CREDENTIAL, other, "rlsec"):
        assert secret not in seen
    assert not (world.tree / "accounts.d/main.toml").exists()
    bad = look(alice, "/web/edit/new-account", "account.new", id="bad", kind="api-key", credential="two words canary")
    assert bad.status_code == 400
    assert "two words" not in bad.text


def test_aliases_clients_and_the_deny_list(world: EditWorld) -> None:
    alice = world.editor()
    form = alice.get("/web/edit/relay").text
    assert "fast = claude-haiku-4-5</textarea>" in form
    aliases = "fast = claude-haiku-4-5\nnew.one = claude-sonnet-4-5\n"
    preview = look(alice, "/web/edit/relay", "models.aliases", aliases=aliases)
    assert diff_of(preview) == ['+"new.one" = "claude-sonnet-4-5"']
    assert confirm(alice, preview).status_code == 200
    assert "# kept" in (world.tree / "relay.toml").read_text()
    rule = {"id": "ours", "name": "Ours", "user_agent": "^ours/", "headers": "x-team: ^(a|b)$"}
    fields = {"do": "client.set", **rule}
    token = re.search(r'name="csrf" value="([0-9a-f]+)"', form)
    assert token is not None
    made = alice.post("/web/edit/preview", {"csrf": token[1], **fields})
    assert confirm(alice, made).status_code == 200
    assert "[clients.ours" in (world.tree / "relay.toml").read_text()
    broken = alice.post("/web/edit/preview", {"csrf": token[1], **fields, "user_agent": "(["})
    assert (broken.status_code, may_confirm(broken)) == (422, False)
    denied = alice.post(
        "/web/edit/preview", {"csrf": token[1], "do": "deny.add", "field": "ips", "value": "203.0.113.9"}
    )
    assert "relayd revoke 203.0.113.9" in denied.text
    assert confirm(alice, denied).status_code == 200
    assert "203.0.113.9" in alice.get("/web/edit/relay").text
    assert confirm(alice, look(alice, "/web/edit/relay", "deny.remove")).status_code == 200
    assert "203.0.113.9" not in (world.tree / "deny.toml").read_text()


def test_a_file_changed_underneath_is_a_conflict_with_the_difference_as_it_is_now(world: EditWorld) -> None:
    alice, erin = world.editor(), world.editor("erin")
    first = look(alice, "/web/edit/keys/calm", "key.change", name="Alice's")
    second = look(erin, "/web/edit/keys/calm", "key.change", daily_requests="7")
    assert confirm(alice, first).status_code == 200
    refused = confirm(erin, second)
    assert refused.status_code == 409
    assert "has changed since you looked" in refused.text
    assert "-name = &#34;Alice&#39;s&#34;" in refused.text, "hers is the form without the name"
    assert "Alice" in (world.tree / "keys.d/calm.toml").read_text()
    assert confirm(erin, refused).status_code == 200, "who has seen the difference may go on"
    assert git(world.tree, "log", "-2", "--format=%an").split() == ["erin", "alice"]
    assert "conflict" in [row["result"] for row in erin.get("/web/audit.json").json()["rows"]]


def test_two_editors_at_one_moment_do_not_tread_on_each_other(world: EditWorld) -> None:
    alice, erin = world.editor(), world.editor("erin")
    for targets, answers in ((("idle", "sim"), [200, 200]), (("idle", "idle"), [200, 409])):
        weights = iter(range(world_weight(world), 1000))
        drafts = [
            look(one, f"/web/edit/accounts/{target}", "account.change", weight=str(next(weights)))
            for one, target in zip((alice, erin), targets, strict=True)
        ]
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(confirm, (alice, erin), drafts))
        assert sorted(page.status_code for page in done) == answers
        assert git(world.tree, "status", "--porcelain") == ""


def world_weight(world: EditWorld) -> int:
    """One that no account has."""
    return 100 + int(git(world.tree, "rev-list", "--count", "HEAD"))


def test_an_owner_of_many_keys_is_one_edit(tmp_path: Path) -> None:
    keys = {f"k{number}": key_text(f"{KEY}{number}", more='owner = "many"\n') for number in range(210)}
    tree = write_tree(tmp_path, relay=pages_table(), keys=keys, files={".gitignore": "var/\n"})
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "first")
    with running(tree) as daemon:
        alice = browser(daemon)
        alice.sign_in()
        done = confirm(alice, look(alice, "/web/edit/owner?owner=many", "owner.limits", daily_requests="9"))
        assert done.status_code == 200, done.text
    assert len(git(tree, "show", "--name-only", "--format=", "HEAD").split()) == 210


def test_a_draft_is_of_its_session_and_its_files(world: EditWorld) -> None:
    alice, erin = world.editor(), world.editor("erin")
    preview = look(alice, "/web/edit/keys/calm", "key.change", name="Mine")
    draft = re.search(r'name="draft" value="([0-9a-f]+)"', preview.text)
    own = re.search(r'name="csrf" value="([0-9a-f]+)"', erin.get("/web/edit").text)
    assert draft is not None
    assert own is not None
    assert erin.post("/web/edit/confirm", {"csrf": own[1], "draft": draft[1]}).status_code == 409
    assert alice.submit(preview, "/web/edit/confirm", files="0" * 64).status_code == 409
    assert "Mine" not in (world.tree / "keys.d/calm.toml").read_text()


def test_uncommitted_work_of_somebody_else_is_left_alone_and_a_patch_offered(world: EditWorld) -> None:
    alice = world.editor()
    path = world.tree / "keys.d/calm.toml"
    clean = path.read_text()
    path.write_text(f"# mine\n{clean}")
    preview = look(alice, "/web/edit/keys/calm", "key.disable")
    assert "uncommitted changes in keys.d/calm.toml" in preview.text
    assert not may_confirm(preview)
    patch = re.search(r'<code id="patch">(.*?)</code>', preview.text, re.DOTALL)
    assert patch is not None
    done = subprocess.run(
        ["git", "-C", str(world.tree), "apply"], input=unescape(patch[1]), text=True, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert path.read_text().startswith("# mine\n")
    assert "enabled = false" in path.read_text()
    path.write_text(clean)
    other = world.tree / "keys.d/dev.toml"
    kept = other.read_text()
    other.write_text(f"# not finished\n{kept}")
    assert confirm(alice, look(alice, "/web/edit/keys/calm", "key.disable")).status_code == 200
    assert git(world.tree, "status", "--porcelain").split() == ["M", "keys.d/dev.toml"], "only the edit was committed"
    other.write_text(kept)


def test_a_broken_edit_is_explained_and_a_broken_tree_is_mended(world: EditWorld) -> None:
    alice = world.editor()
    bad = look(alice, "/web/edit/keys/dev", "key.change", groups="NO SUCH GROUP")
    assert bad.status_code == 422
    assert "keys.d/dev.toml:" in bad.text
    assert not may_confirm(bad)
    path = world.tree / "keys.d/dev.toml"
    sound = path.read_text()
    path.write_text(f"{sound}nonsense = 1\n")
    git(world.tree, "commit", "-qam", "broken")
    shown = alice.get("/web/edit/file?path=keys.d/dev.toml")
    text = re.search(r"<textarea name=\"text\"[^>]*>\n(.*?)</textarea>", shown.text, re.DOTALL)
    assert text is not None
    mended = unescape(text[1]).replace("nonsense = 1\n", "")
    done = confirm(alice, look(alice, "/web/edit/file?path=keys.d/dev.toml", "file.edit", text=mended))
    assert done.status_code == 200, done.text
    assert path.read_text() == sound
    assert ">applied<" in done.text or ">runs<" in done.text, done.text


def test_secrets_of_a_file_are_hidden_and_kept(world: EditWorld) -> None:
    alice = world.editor()
    for path, secret in (("accounts.d/idle.toml", "pr0xy-canary"), ("relay.toml", "scrypt")):
        assert secret not in alice.get(f"/web/edit/file?path={path}").text
    page = look(alice, "/web/edit/file?path=accounts.d/idle.toml", "file.edit")
    assert "Nothing would change" in page.text
    text = 'kind = "simulator"\nweight = 3\nproxy = "(hidden 1)"\n'
    preview = look(alice, "/web/edit/file?path=accounts.d/idle.toml", "file.edit", text=text)
    assert "canary" not in preview.text
    assert confirm(alice, preview).status_code == 200
    assert 'proxy = "http://me:pr0xy-canary@127.0.0.1:9"' in (world.tree / "accounts.d/idle.toml").read_text()
    odd = look(alice, "/web/edit/file?path=accounts.d/idle.toml", "file.edit", text='proxy = "(hidden 9)"\n')
    assert odd.status_code == 400
    for path in ("../../etc/passwd", ".git/config", "accounts.d/none.toml", "/etc/passwd"):
        assert alice.get(f"/web/edit/file?path={path}").status_code == 404


@pytest.mark.parametrize(
    "page", ["", "/new-key", "/new-account", "/keys/dev", "/accounts/sim", "/relay", "/owner", "/file"]
)
def test_viewers_change_nothing(world: EditWorld, page: str) -> None:
    victor = world.editor("victor")
    assert victor.get(f"/web/edit{page}").status_code == 403
    assert "/web/edit" not in victor.get("/web/keys/dev").text


def test_what_changes_something_needs_an_editor_a_token_and_our_own_page(world: EditWorld) -> None:
    alice, victor = world.editor(), world.editor("victor")
    head = world.head()
    own = re.search(r'name="csrf" value="([0-9a-f]+)"', victor.get("/web/keys").text)
    assert own is not None
    for path in ("preview", "confirm", "sign-in", "sign-in-code"):
        fields = {"do": "key.delete", "id": "dev"}
        assert victor.post(f"/web/edit/{path}", {"csrf": own[1], **fields}).status_code == 403
        assert alice.post(f"/web/edit/{path}", fields).status_code == 403
        assert alice.post(f"/web/edit/{path}", fields, origin="https://evil.example").status_code == 403
    assert world.head() == head


def test_hostile_texts_stay_texts_and_run_nothing(world: EditWorld) -> None:
    alice = world.editor()
    preview = look(alice, "/web/edit/keys/calm", "key.change", name=HOSTILE, owner=HOSTILE)
    assert "<img" not in preview.text
    done = confirm(alice, preview)
    assert done.status_code == 200
    for page in (done, alice.get("/web/edit"), alice.get("/web/edit/keys/calm"), alice.get("/web/keys/calm")):
        assert "<img" not in page.text
    new = look(alice, "/web/edit/new-key", "key.new", id="sly", name="--help; $(touch x)")
    assert "-- &#39;--help; $(touch x)&#39;" in new.text, "a command that is shown is quoted for a shell"
    for name in ("../up", "-x", "a b", "A", "a/b", "", "x" * 64, ".git", "a\nb"):
        token = re.search(r'name="csrf" value="([0-9a-f]+)"', new.text)
        assert token is not None
        for do in ("key.new", "key.delete", "account.new", "client.set"):
            answer = alice.post("/web/edit/preview", {"csrf": token[1], "do": do, "id": name, "kind": "simulator"})
            assert answer.status_code == 400, (do, name)


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(
    "page",
    [
        "",
        "/new-key",
        "/new-account",
        "/keys/calm",
        "/accounts/idle",
        "/relay",
        "/owner?owner=team",
        "/file?path=relay.toml",
    ],
)
def test_each_form_is_well_made_in_both_languages(world: EditWorld, page: str, language: str) -> None:
    alice = world.editor()
    found = alice.get(f"/web/edit{page}", cookie=f"relayd-language={language}; {cookies(alice)}")
    assert found.status_code == 200, found.text
    shape = Shape()
    shape.feed(found.text)
    assert shape.open == []
    assert shape.tags.count("script") == 1
    assert f'lang="{language}"' in found.text
    assert not [name for name, _ in shape.attributes if name.startswith("on") or name == "style"]


def test_a_push_that_fails_is_said_and_undoes_nothing(world: EditWorld) -> None:
    alice = world.editor()
    moved = world.remote.rename(world.remote.with_name("away.git"))
    done = confirm(alice, look(alice, "/web/edit/accounts/idle", "account.change", weight="4"))
    moved.rename(world.remote)
    assert done.status_code == 200
    assert "not pushed to origin" in done.text
    assert "weight = 4" in git(world.tree, "show", "HEAD:accounts.d/idle.toml")


def test_a_detached_head_and_an_unfinished_merge_get_a_patch(world: EditWorld) -> None:
    alice = world.editor()
    git(world.tree, "checkout", "-q", "--detach")
    page = look(alice, "/web/edit/accounts/idle", "account.change", weight="5")
    assert "on no branch" in page.text
    git(world.tree, "checkout", "-q", "main")
    (world.tree / ".git/MERGE_HEAD").write_text(world.head() + "\n")
    page = look(alice, "/web/edit/accounts/idle", "account.change", weight="5")
    (world.tree / ".git/MERGE_HEAD").unlink()
    assert "a merge is not finished" in page.text
    assert not may_confirm(page)


def test_without_a_repository_the_key_comes_with_its_patch(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay=pages_table())
    with running(tree) as daemon:
        alice = browser(daemon)
        alice.sign_in()
        page = look(alice, "/web/edit/new-key", "key.new", id="robot")
        assert "is in no git repository" in page.text
        assert not may_confirm(page)
        patch = re.search(r'<code id="patch">(.*?)</code>', page.text, re.DOTALL)
        key = re.search(r'<code id="new-key">([^<]+)</code>', page.text)
        assert patch is not None
        assert key is not None
        subprocess.run(["git", "apply"], cwd=tree, input=unescape(patch[1]), text=True, check=True)
        ask = {"headers": {"x-api-key": key[1]}, "json": ASK}
        daemon.wait_until(
            lambda: httpx2.post(f"{daemon.url}/v1/messages", **ask, timeout=PATIENCE).status_code == 200,
            "the key of the patch works",
        )
