"""relayd completion: scripts made from the parsers, tried in the shells themselves."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.cli import VERBS
from relayd.cli.completion import SHELLS, commands, script, whole_parser

PATIENCE = 60.0  # s

# What stands on the line, up to where Tab is pressed: what is offered. The tree has keys dev and demo, account main.
CASES = {
    "relayd comp": {"completion"},
    "relayd key r": {"rotate"},
    "relayd key rotate --g": {"--grace"},
    "relayd key rotate ": {"dev", "demo"},
    "relayd key show de": {"dev", "demo"},
    "relayd key disable --config elsewhere ": {"other"},
    "relayd key new ": set(),
    "relayd account test ": {"main"},
    "relayd account add ": set(),
    "relayd account add x --kind ": {"api-key", "oauth", "session-key", "simulator"},
    "relayd account add x --kind api-key --base": {"--base-url"},
    "relayd account add x --email ": set(),
    "relayd explain --key ": {"dev", "demo"},
    "relayd secret seal --account ": {"main"},
    "relayd secret reseal ma": {"main"},
    "relayd secret recipients re": {"retire", "remove"},
    "relayd check --format s": {"sarif"},
    "relayd completion ": {"bash", "zsh", "fish"},
    "relayd nonsense": set(),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tree; only names matter, because the shells do not ask relayd."""
    root = tmp_path_factory.mktemp("tree")
    for name in (
        "keys.d/dev.toml", "keys.d/team/demo.toml", "keys.d/.dev.toml.swp", "keys.d/.hidden.toml",
        "accounts.d/main.toml", "elsewhere/keys.d/other.toml",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for shell in SHELLS:
        (root / f".{shell}").write_text(script(shell))
    return root


def need(shell: str) -> None:
    """Without the shell there is nothing to try; where all is tried, that is a failure."""
    if not shutil.which(shell):
        if os.environ.get("CI"):
            pytest.fail(f"there is no {shell} on this machine")
        pytest.skip(f"there is no {shell} on this machine")


Offered = dict[str, set[str]]


def in_bash(tree: Path) -> Offered:
    """Ask bash's completion function, registered by `complete`, as readline would."""
    program = 'source .bash\n[[ "$(complete -p relayd)" == "complete -o bashdefault -F _relayd relayd" ]] || exit 9\n'
    for line in CASES:
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        program += f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMPREPLY=(); _relayd\n"
        program += 'echo "${COMPREPLY[*]}"\n'
    ran = subprocess.run(
        ["bash", "--norc", "-c", program], cwd=tree, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert ran.stderr == ""
    return {line: set(offered.split()) for line, offered in zip(CASES, ran.stdout.split("\n"), strict=False)}


def in_fish(tree: Path) -> Offered:
    """`complete -C` says what fish would offer."""
    asked = "\n".join(f"echo ==; complete -C'{line}'" for line in CASES)
    ran = subprocess.run(
        ["fish", "--no-config", "-c", f"source .fish\n{asked}"],
        cwd=tree, capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ran.stderr == ""
    parts = ran.stdout.split("==\n")[1:]
    return {
        line: {offer.split("\t")[0] for offer in part.splitlines()} for line, part in zip(CASES, parts, strict=True)
    }


# An interactive zsh whose Tab writes what the completion system adds into the file `offered`, and an empty line at the
# end. compadd is what everything goes through; called with -O, -A or -D it only sorts, and adds nothing.
ZSH = r"""
unsetopt zle_bracketed_paste
PS1=; fpath=($PWD/.functions $fpath)
autoload -Uz compinit; compinit -u -D
compadd() {
    if [[ "${(j: :)@[1,(i)(-|--)]}" != *-(O|A|D)\ * ]]; then
        local -a hits; builtin compadd -A hits "$@"; print -rl -- $hits >> offered
    fi
    builtin compadd "$@"
}
tab() { : > offered; zle list-choices; print -r -- '==' >> offered }
zle -N tab; bindkey '^I' tab; bindkey '^U' kill-whole-line
: > ready
"""


def in_zsh(tree: Path) -> Offered:
    """Press Tab in an interactive zsh on a terminal of its own."""
    (tree / ".functions").mkdir(exist_ok=True)
    shutil.copy(tree / ".zsh", tree / ".functions" / "_relayd")
    (tree / ".setup").write_text(ZSH)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x40\0\xc8\0\0\0\0\0")  # 64 lines of 200 columns
    environment = {**os.environ, "TERM": "dumb", "ZDOTDIR": str(tree)}
    zsh = subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=tree, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    found, offered = {}, tree / "offered"
    try:
        os.write(master, b"source ./.setup\n")
        _until(master, (tree / "ready").exists)
        for line in CASES:
            offered.unlink(missing_ok=True)
            os.write(master, line.encode() + b"\t")
            _until(master, lambda: offered.exists() and offered.read_text().endswith("==\n"))
            found[line] = {word for word in offered.read_text().split("\n") if word not in ("", "==")}
            os.write(master, b"\x15")
    finally:
        zsh.kill()
        zsh.wait()
        os.close(master)
    return found


def _until(master: int, condition: Callable[[], bool]) -> None:
    """Wait, and take away what the shell draws meanwhile."""
    drawn, deadline = b"", time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, drawn
        if select.select([master], [], [], 0.01)[0]:
            drawn += os.read(master, 65536)


@pytest.mark.parametrize(("shell", "ask"), [("bash", in_bash), ("zsh", in_zsh), ("fish", in_fish)])
def test_the_shell_offers_verbs_options_values_and_the_trees_ids(
    tree: Path, shell: str, ask: Callable[[Path], Offered]
) -> None:
    need(shell)
    assert ask(tree) == CASES


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_value_after_an_equals_sign_is_completed_too(tree: Path, shell: str) -> None:
    need(shell)
    if shell == "fish":
        program = "source .fish; complete -C'relayd check --format=sa'"
        expected = "--format=sarif"
    else:
        program = (
            "source .bash; COMP_WORDS=(relayd check --format = sa); COMP_CWORD=4; _relayd; echo ${COMPREPLY[0]}\n"
            "COMP_WORDS=(relayd check --format =); COMP_CWORD=3; _relayd; echo ${#COMPREPLY[@]}"
        )
        expected = "sarif\n5"
    ran = subprocess.run([shell, "-c", program], cwd=tree, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert ran.stdout.strip().split("\t")[0] == expected


def test_files_are_offered_where_a_file_is_asked_for(tree: Path) -> None:
    need("fish")
    asked = "; echo ==; ".join(f"complete -C'{line}'" for line in ("relayd run --identity acc", "relayd check els"))
    ran = subprocess.run(
        ["fish", "--no-config", "-c", f"source .fish; {asked}"],
        cwd=tree, capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ran.stdout.split() == ["accounts.d/", "==", "elsewhere/"]


def test_every_verb_is_known_with_its_options() -> None:
    found = {" ".join(path): parser for path, parser in commands(whole_parser())}
    assert set(VERBS) <= set(found)
    assert "--owner" in found["key new"].format_help()
    assert "sign in with OAuth" in found["account"].format_help()


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_knows_every_action_and_quotes_nothing_wrong(shell: str, tmp_path: Path) -> None:
    text = script(shell)
    for words in ("key rotate", "secret keygen", "account login", "import crs"):
        assert words in text or words.replace(" ", "_") in text
    assert {"bash": "--grace", "zsh": "--grace", "fish": "-l grace"}[shell] in text
    need(shell)
    (tmp_path / "script").write_text(text)
    parsed = subprocess.run([shell, "-n", "script"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_an_unknown_shell_is_a_usage_error() -> None:
    from relayd.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["completion", "tcsh"])
    assert stopped.value.code == 2
