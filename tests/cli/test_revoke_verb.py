"""relayd revoke, and `disable` and `delete`: what is taken out by name is refused, whatever becomes of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import KEY as PRINTED
from cli_tree import make_tree as offline_tree
from reload_world import living, make_tree
from test_verdict import run

from relayd.config.secrets.api_keys import key_hash

BROKEN = "wieght = 3"


@pytest.mark.parametrize("words", [("key", "disable"), ("key", "delete"), ("revoke",)])
async def test_a_revoked_key_is_refused_although_the_tree_has_errors_elsewhere(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    async with living(tree, watch=False) as world:
        tree.account(more=BROKEN)
        assert (await world.call(1)).status == 200
        code, _, err = await run(world, *words, "k1")
        assert (code, err[-1]) == (0, "revoked: the daemon refuses key k1")
        assert any(line.startswith("REJECTED: ") for line in err)
        assert (await world.call(1)).status == 401
        assert (await world.call(0)).status == 200

        tree.account()
        assert (await world.reload()).result in ("applied", "unchanged")
        assert (await world.call(1)).status == 401


async def test_the_guard_holds_nothing_that_was_taken_out_by_name(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=3)
    async with living(tree, watch=False) as world:
        assert (await run(world, "account", "disable", "a"))[::2][1][-1] == "applied: generation 2"
        for number in range(3):
            code, _, err = await run(world, "key", "delete", f"k{number}", "--yes")
            assert (code, err[-1]) == (0, f"applied: generation {number + 3}")
        assert not (tree.root / "deny.toml").exists()


async def test_what_else_the_guard_holds_stays_held_while_the_key_is_refused(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=6)
    async with living(tree, watch=False) as world:
        for number in (2, 3, 4, 5):
            tree.remove(f"keys.d/k{number}.toml")
        code, _, err = await run(world, "key", "disable", "k1")
        assert (code, err[-1]) == (0, "revoked: the daemon refuses key k1")
        assert any(line.startswith("HELD: 4 of 5 keys would go") for line in err)
        assert (await world.call(1)).status == 401
        assert (await world.call(2)).status == 200


async def test_a_rollback_does_not_keep_a_disabled_account_in_service(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.account("b")
    async with living(tree, watch=False) as world:
        await world.until(lambda: world.history.numbers() == [1])
        tree.account(more="priority = 3")
        await world.reload()
        assert (await run(world, "rollback", "1"))[0] == 0
        code, _, err = await run(world, "account", "disable", "a")
        assert (code, err[-1]) == (0, "revoked: the daemon refuses account a")
        assert (await run(world, "account", "disable", "b"))[0] == 0
        assert (await world.call()).status not in (200, 401)


async def test_revoking_twice_and_taking_it_back(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        code, out, _ = await run(world, "revoke", "k0", "--json")
        found = json.loads(out)
        assert (code, found["field"], found["daemon"]["refused"]) == (0, "keys", ["key k0"])
        written = (tree.root / "deny.toml").read_text()
        code, _, err = await run(world, "revoke", "k0")
        assert (code, err) == (0, ["nothing to change", "applied: generation 2"])
        assert (tree.root / "deny.toml").read_text() == written

        _, _, err = await run(world, "key", "enable", "k0")
        assert "note: deny.toml still refuses key k0 (relayd revoke --undo --key k0)" in err
        assert (await world.call()).status == 401
        assert (await run(world, "revoke", "--undo", "--key", "k0"))[2][-1] == "applied: generation 3"
        assert (await world.call()).status == 200


def test_what_a_word_means(tmp_path: Path) -> None:
    tree = offline_tree(tmp_path)
    assert tree.run("key", "new", "alice").code == 0
    for word in ("alice", "sample", "192.0.2.7", "2001:DB8::/32", PRINTED, "AB" * 32):
        assert tree.run("revoke", word).code == 0, word
    assert tree.read("deny.toml").splitlines()[1:] == [
        'keys = ["alice"]',
        'accounts = ["sample"]',
        'ips = ["192.0.2.7", "2001:db8::/32"]',
        f'sha256 = ["{key_hash(PRINTED)}", "{"ab" * 32}"]',
    ]
    assert tree.compiles()
    assert PRINTED not in tree.content

    ran = tree.run("revoke", "nobody")
    assert (ran.code, "there is no key or account nobody (known: alice, sample)" in ran.err) == (1, True)
    assert tree.run("key", "new", "sample").code == 0
    assert "say --key or --account" in tree.run("revoke", "sample", "--undo").err
    assert tree.run("revoke", "sample", "--account", "--undo").code == 0
    assert "accounts = []" in tree.read("deny.toml")


def test_a_key_that_was_cut_or_is_not_of_this_tree_is_told(tmp_path: Path) -> None:
    tree = offline_tree(tmp_path)
    made = tree.run("key", "new", "alice").out.strip()
    cut = tree.run("revoke", made[:-1])
    assert (cut.code, "cut or mistyped" in cut.err, made[:-1] in cut.all) == (1, True, False)
    assert "note: no key of this tree" in tree.run("revoke", PRINTED).err
    assert "note: " not in tree.run("revoke", made).err
    assert made not in tree.content


def test_comments_of_deny_toml_stay_and_a_broken_one_is_told(tmp_path: Path) -> None:
    tree = offline_tree(tmp_path)
    tree.run("key", "new", "alice")
    tree.write("deny.toml", '# leaked in October\nkeys = [\n    "bob",  # ticket 4\n]\n')
    assert tree.run("revoke", "alice").code == 0
    assert tree.read("deny.toml") == '# leaked in October\nkeys = [\n    "bob",  # ticket 4\n    "alice",\n]\n'
    tree.write("deny.toml", "keys = [\n")
    ran = tree.run("revoke", "alice")
    assert (ran.code, "deny.toml: not TOML" in ran.err, "Traceback" in ran.err) == (1, True, False)


def test_a_key_whose_own_file_is_broken_is_revoked_by_deny_toml(tmp_path: Path) -> None:
    tree = offline_tree(tmp_path)
    tree.run("key", "new", "alice")
    for broken in (b"hashes = [\n", b'name = "\xff"\n'):
        (tree.root / "deny.toml").unlink(missing_ok=True)
        (tree.root / "keys.d/alice.toml").write_bytes(broken)
        ran = tree.run("key", "disable", "alice")
        assert (ran.code, "keys.d/alice.toml: not " in ran.err, "Traceback" in ran.err) == (0, True, False)
        assert 'keys = ["alice"]' in tree.read("deny.toml")
        assert (tree.root / "keys.d/alice.toml").read_bytes() == broken
        assert tree.run("key", "enable", "alice").code == 1
    assert tree.run("key", "delete", "alice").code == 0


def test_a_revocation_brings_no_error_that_was_not_there(tmp_path: Path) -> None:
    tree = offline_tree(tmp_path)
    tree.run("key", "new", "alice")
    tree.write("accounts.d/bad.toml", 'kind = "nothing"\n')
    tree.write("deny.toml", "# a note\n\n[keys]\nalice = true\n")  # a table where an array belongs
    before = tree.content
    assert tree.run("revoke", "alice").code == 1
    assert tree.content == before
