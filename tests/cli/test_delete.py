"""account delete, key delete and demo remove: what depends on an object goes with it, or is named."""

from __future__ import annotations

from pathlib import Path

from cli_tree import Tree, make_tree

SCENARIOS = """\
# who may call
[[scenario]]
name = "alice is served"
key = "alice"
model = "claude-haiku-4-5"
expect = "allow"
accounts = ["sample"]

# bob is another one
[[scenario]]
name = "bob is served"
key = "bob"
model = "claude-haiku-4-5"
expect = "allow"
"""


def tree_of_two(root: Path) -> Tree:
    """Account sample serves alice, account other serves bob."""
    tree = make_tree(root)
    tree.write("accounts.d/other.toml", 'kind = "api-key"\ngroups = ["real"]\n[credential]\nfile = "other"\n')
    assert tree.run("key", "new", "alice").code == 0
    assert tree.run("key", "new", "bob", "--groups", "real").code == 0
    tree.write("tests.d/all.toml", SCENARIOS)
    return tree


def test_a_delete_says_what_depends_on_it_and_deletes_nothing(tmp_path: Path) -> None:
    tree = tree_of_two(tmp_path)
    before = tree.content
    ran = tree.run("account", "delete", "sample")
    assert ran.code == 1
    assert "key alice has no other account; 1 scenario of tests.d/all.toml would fail" in ran.err
    assert "--with-dependents" in ran.err
    assert "1 scenario of tests.d/all.toml" in tree.run("key", "delete", "bob").err
    assert tree.content == before


def test_an_account_goes_with_its_keys_and_scenarios_and_nothing_else(tmp_path: Path) -> None:
    tree = tree_of_two(tmp_path)
    ran = tree.run("account", "delete", "sample", "--with-dependents", "--json")
    assert ran.code == 0
    found = ran.json
    assert (found["accounts"], found["keys"], found["scenarios"]) == (
        ["sample"],
        ["alice"],
        {"tests.d/all.toml": 1},
    )
    assert found["deleted"] == ["accounts.d/sample.toml", "keys.d/alice.toml", "tests.d/all.toml"]
    assert tree.read("tests.d/all.toml").startswith("# who may call\n# bob is another one\n[[scenario]]\n")
    assert tree.run("check", "--deny-warnings").code == 0


def test_a_file_whose_last_scenario_goes_goes_too(tmp_path: Path) -> None:
    tree = tree_of_two(tmp_path)
    assert tree.run("key", "delete", "alice", "--with-dependents").code == 0
    assert tree.run("key", "delete", "bob", "--with-dependents").code == 0
    assert not (tree.root / "tests.d/all.toml").exists()


def test_the_demo_of_a_new_tree_is_one_removable_piece(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "new")
    words = ("init", str(tree.root), "--identity", str(tmp_path / "identity"), "--no-git")
    from relayd.cli import main

    assert main(words) == 0
    assert tree.run("account", "add", "main", "--kind", "api-key", stdin="sk-ant-api03-abc").code == 0
    assert tree.run("key", "new", "alice").code == 0
    assert tree.run("demo", "remove").code == 0
    assert sorted(path.name for path in tree.root.glob("*.d/*")) == ["alice.toml", "main.toml"]
    assert tree.run("check", "--deny-warnings").code == 0
    again = tree.run("demo", "remove")
    assert (again.code, "nothing to remove" in again.err) == (0, True)


def test_a_delete_of_what_is_not_there_says_what_is(tmp_path: Path) -> None:
    ran = make_tree(tmp_path).run("account", "delete", "nobody")
    assert (ran.code, "there is no account nobody (known: sample)" in ran.err) == (1, True)
