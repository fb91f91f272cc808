"""relayd completion: completion scripts for bash, zsh and fish, made from the parsers themselves.

    bash:  relayd completion bash > ~/.local/share/bash-completion/completions/relayd
    zsh:   relayd completion zsh  > "${fpath[1]}/_relayd"
    fish:  relayd completion fish > ~/.config/fish/completions/relayd.fish

Theory: shtab turns the argparse tree into a script; what it cannot know is said here, per argument: which one is a file
and which one names a key or an account. Those ids are the names of the tree's files, so the shell finds them without
starting relayd.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any

import shtab

SHELLS = ("bash", "zsh", "fish")
FOLDERS = {"keys.d": "_relayd_keys", "accounts.d": "_relayd_accounts"}  # whose ids these functions of the shells print
OPTIONS = {"--key": "keys.d", "--account": "accounts.d"}

_FIND = r"""find -L "$root/%s" -name "*.toml" ! -name ".*" 2>/dev/null | sed "s|.*/||; s|\.toml\$||" """.strip()

# $root is the directory of --config, else RELAYD_CONFIG, else the working directory.
_BASH = """\
{name}() {{
  local root="${{RELAYD_CONFIG:-.}}" at
  for ((at = 1; at < COMP_CWORD; at++)); do
    [[ "${{COMP_WORDS[at]}}" == --config ]] && root="${{COMP_WORDS[at + 1]/#\\~/$HOME}}"
  done
  compgen -W "$({find})" -- "$1"
}}
"""
_ZSH = """\
{name}() {{
  local root="${{RELAYD_CONFIG:-.}}" at=${{words[(I)--config]}}
  (( at && at < CURRENT )) && root="${{words[at + 1]/#\\~/$HOME}}"
  compadd -- $({find})
}}
"""
_FISH = """\
function {name}
  set -l root .
  set -q RELAYD_CONFIG; and set root "$RELAYD_CONFIG"
  set -l line (commandline -opc)
  if set -l at (contains -i -- --config $line)
    set root (string replace -r "^~" "$HOME" -- $line[(math $at + 1)])
  end
  {find}
end
"""
_PREAMBLES = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

# Readline splits --option=value into three words; shtab expects two.
_BASH_EQUALS = """

_relayd() {
  local -a whole=("${COMP_WORDS[@]}") COMP_WORDS=()
  local last=$COMP_CWORD COMP_CWORD at
  for ((at = 0; at <= last; at++)); do
    [[ "${whole[at]}" == "=" && "${whole[at - 1]}" == --* ]] || COMP_WORDS+=("${whole[at]}")
  done
  [[ "${whole[last]}" == "=" ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _shtab_relayd
}
complete -o bashdefault -F _relayd relayd
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell's script to print")


def main(args: argparse.Namespace) -> int:
    sys.stdout.write(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The completion script of a shell."""
    parser = whole_parser()
    for path, below in commands(parser):
        for action in below._actions:
            if completer := _completer(path, action):
                action.complete = completer  # type: ignore[attr-defined]  # where shtab looks for it
    preamble = "".join(_PREAMBLES[shell].format(name=name, find=_FIND % folder) for folder, name in FOLDERS.items())
    text = re.sub(r"# AUTOMATICALLY GENERATED.*?\n\n", "", shtab.complete(parser, shell, preamble=preamble), flags=re.S)
    return text + (_BASH_EQUALS if shell == "bash" else "\n")


def whole_parser() -> argparse.ArgumentParser:
    """The parser with every verb filled in."""
    from relayd.cli import VERBS, build_parser

    return build_parser(*VERBS)


def commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every path of verbs, such as ("key", "new"), with its parser."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from commands(sub, (*path, name))


def _completer(path: tuple[str, ...], action: argparse.Action) -> dict[str, Any]:
    """How the shells complete an argument; empty where argparse's choices say it, or nobody can."""
    if action.choices or action.nargs == 0:
        return {}
    folder = OPTIONS.get(action.option_strings[0], "") if action.option_strings else _ids(path, action.dest)
    if folder:
        name = FOLDERS[folder]
        return {"bash": name, "zsh": name, "fish": f"({name})"}
    return dict(shtab.FILE) if action.metavar in ("FILE", "DIR", "PATH") else {}


def _ids(path: tuple[str, ...], dest: str) -> str:
    """The folder whose ids a positional argument takes. An account that is added has no file yet."""
    if dest not in ("id", "accounts") or path == ("account", "add"):
        return ""
    return "keys.d" if path[0] == "key" else "accounts.d"
