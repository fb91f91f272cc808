"""relayd completion: scripts made from the parsers, tried in the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from relayd.cli import VERBS
from relayd.cli.completion import SHELLS, Place, places, script


def place(*path: str) -> Place:
    return next(place for place in places() if place.path == path)


def completed(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    file = tmp_path / "relayd.bash"
    file.write_text(script("bash"))
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f'source "{file}"; COMP_WORDS=(relayd {line}); COMP_CWORD={len(words)}; _relayd; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stderr == ""
    return ran.stdout.split()


def test_every_verb_is_a_place_with_its_options() -> None:
    assert [word for word, _ in place().words] == list(VERBS)
    assert "--owner" in dict(place("key", "new").options)
    assert dict(place("account").words)["login"].startswith("sign in with OAuth")
    assert [word for word, _ in place("completion").words] == list(SHELLS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("comp",), ["completion"]),
        (("key", "r"), ["rotate"]),
        (("key", "rotate", "--g"), ["--grace"]),
        (("--version", "key", "wh"), ["which"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("secret", "recipients", "re"), ["retire", "remove"]),
        (("account", "add", "main", "--kind", "api-key", "--base"), ["--base-url"]),
        (("nonsense",), []),
    ],
)
def test_bash_completes_verbs_actions_options_and_choices(
    tmp_path: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    assert completed(tmp_path, *words) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_knows_every_action_and_is_good_syntax(tmp_path: Path, shell: str) -> None:
    text = script(shell)
    for words in ("key rotate", "secret keygen", "account login", "import crs"):
        assert words in text
    options = {"bash": "--grace", "zsh": "--grace", "fish": "-l 'grace'"}
    assert options[shell] in text
    for line in text.splitlines():
        assert line.count("'") % 2 == 0
        assert "`" not in line.removeprefix(f"# {shell} completion of relayd; made by `relayd completion {shell}`")
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=30)


def test_an_unknown_shell_is_a_usage_error() -> None:
    from relayd.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["completion", "tcsh"])
    assert stopped.value.code == 2
