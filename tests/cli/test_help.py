"""Help texts: each verb shows examples, and each example is one that the verb takes."""

from __future__ import annotations

import shlex

import pytest

from relayd.cli import VERBS, build_parser, main
from relayd.cli.completion import commands as every_command
from relayd.cli.completion import whole_parser
from relayd.cli.examples import EXAMPLES, FIRST

PATHS = [path for path, _ in every_command(whole_parser())]
LEAVES = [" ".join(path) for path in PATHS if path and not any(other[:-1] == path for other in PATHS)]


def commands(text: str) -> list[str]:
    """The command of a line, without what is said about it (behind five spaces) and what the shell does with it."""
    line = text.strip().split("     ")[0].split(" < ")[0].split(" > ")[0]
    return [part.strip() for part in line.split("&&")]


@pytest.mark.parametrize(
    "command",
    [command for lines in EXAMPLES.values() for line in lines for command in commands(line)]
    + [command for line in FIRST.splitlines() if line.startswith("  relayd") for command in commands(line)],
)
def test_every_example_is_taken(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "relayd"
    build_parser(words[1]).parse_args(words[1:])


def test_every_example_stands_under_its_verb() -> None:
    assert set(EXAMPLES) <= set(LEAVES)
    for path, lines in EXAMPLES.items():
        assert all(line.startswith(f"relayd {path}") for line in lines)


def test_help_shows_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["account", "add", "--help"])
    assert "relayd account add main --kind api-key < key.txt" in capsys.readouterr().out


def test_relayd_alone_shows_the_verbs_and_where_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"    {verb}" in said for verb in VERBS)
    assert "relayd init ~/relay" in said


def test_a_mistyped_verb_is_answered_with_the_one_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relaod"]) == 2
    assert "did you mean `relayd reload`?" in capsys.readouterr().err
    assert main(["start"]) == 2
    assert "did you mean `relayd run`?" in capsys.readouterr().err
    assert main(["xyzzy"]) == 2
    assert "lists them" in capsys.readouterr().err
