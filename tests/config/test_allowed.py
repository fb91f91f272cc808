"""[check] allow: which warnings are set aside, and what is said of entries that nothing matches."""

from __future__ import annotations

from pathlib import Path

from cli_tree import Tree

from relayd.config.compile import Compiled, compile_tree

ENTRY = '{ code = "W-SESSION-KEY", file = "accounts.d/a.toml", why = "until March" }'


def compiled(*allow: str) -> Compiled:
    files = {
        "relay.toml": f'schema = 1\nrealm = "x"\n[check]\nallow = [{", ".join(allow)}]\n',
        "accounts.d/a.toml": 'kind = "session-key"\n[credential]\nfile = "a"\n',
        "accounts.d/b.toml": 'kind = "session-key"\n[credential]\nfile = "b"\n',
        "keys.d/k.toml": f'hashes = [{{ sha256 = "{"a1" * 32}" }}]\n',
    }
    return compile_tree({path: text.encode() for path, text in files.items()})


def codes(found: Compiled) -> list[tuple[str, str]]:
    return [(problem.code, problem.file) for problem in found.problems]


def test_one_warning_of_one_file_is_set_aside_with_its_reason() -> None:
    found = compiled(ENTRY)
    assert codes(found) == [("W-SESSION-KEY", "accounts.d/b.toml")]
    ((problem, why),) = [(one.problem, one.why) for one in found.acknowledged]
    assert (problem.code, problem.file, why) == ("W-SESSION-KEY", "accounts.d/a.toml", "until March")
    assert found.snapshot is not None


def test_an_entry_that_matches_nothing_or_twice_is_a_note_at_its_place() -> None:
    found = compiled(ENTRY, ENTRY, ENTRY.replace("a.toml", "gone.toml"), '{ code = "W-EXPIRED", file = "", why = "x" }')
    notes = [problem for problem in found.problems if problem.code == "N-UNUSED-ALLOW"]
    assert [note.message for note in notes] == [
        'check.allow[1]: there is no other W-SESSION-KEY in "accounts.d/a.toml"',
        'check.allow[2]: there is no W-SESSION-KEY in "accounts.d/gone.toml"',
        "check.allow[3]: there is no W-EXPIRED in the tree",
    ]
    assert {(note.file, note.line, note.severity) for note in notes} == {("relay.toml", 4, "note")}


def test_errors_stay_whatever_is_allowed() -> None:
    found = compiled('{ code = "E-REF", file = "", why = "x" }')
    assert found.snapshot is None
    assert ("E-CHOICE", "relay.toml") in codes(found)
    assert ("E-CHOICE", "relay.toml") in codes(compiled(ENTRY.replace("until March", " ")))


def test_a_hook_that_denies_warnings_passes_once_they_are_acknowledged(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("relay.toml", 'schema = 1\nrealm = "x"\n')
    tree.write("accounts.d/a.toml", 'kind = "session-key"\n[credential]\nfile = "a"\n')
    assert tree.run("key", "new", "k").code == 0
    assert tree.run("check", "--deny-warnings").code == 3

    tree.write("relay.toml", f'schema = 1\nrealm = "x"\n[check]\nallow = [{ENTRY}]\n')
    ran = tree.run("check", "--deny-warnings")
    assert (ran.code, "1 warning acknowledged in [check] allow" in ran.out, "W-SESSION" in ran.out) == (0, True, False)
    found = tree.run("check", "--json").json
    assert (found["warnings"], found["acknowledged"][0]["why"]) == (0, "until March")

    (tree.root / "accounts.d/a.toml").write_text('kind = "simulator"\n')
    ran = tree.run("check", "--deny-warnings")
    assert (ran.code, "note[N-UNUSED-ALLOW]" in ran.out) == (0, True)
