"""relayd completion: what a shell needs to complete verbs, options and choices, made from the parsers themselves.

    bash:  relayd completion bash > ~/.local/share/bash-completion/completions/relayd
    zsh:   relayd completion zsh  > "${fpath[1]}/_relayd"
    fish:  relayd completion fish > ~/.config/fish/completions/relayd.fish

Theory: a command line is a path of verbs (`key new`); each path has its words, and the rest is options with or without
a value. All three scripts walk the line by the same table.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator

import attrs

SHELLS = ("bash", "zsh", "fish")


@attrs.frozen(kw_only=True)
class Place:
    """What may follow a path of verbs.

    Args:
        path: the verbs so far, such as ("key", "new").
        words: verbs and choices that may come next, with a sentence (maybe empty) about each.
        options: option names, with a sentence about each.
    """

    path: tuple[str, ...]
    words: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell's script to print")


def main(args: argparse.Namespace) -> int:
    sys.stdout.write(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The completion script of a shell."""
    found = list(places())
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](found)


def places() -> Iterator[Place]:
    """Every path of verbs of this relayd, from its parsers."""
    from relayd.cli import VERBS, build_parser

    root = build_parser(None)
    yield _place((), root, words=tuple((name, _sentence(summary)) for name, (_, summary) in VERBS.items()))
    for verb, (module, _) in VERBS.items():
        if importlib.util.find_spec(f"relayd.cli.{module}") is not None:
            yield from _below((verb,), _verbs(build_parser(verb))[verb])


def _below(path: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[Place]:
    inner = _verbs(parser)
    yield _place(path, parser, words=_words(parser))
    for name, sub in inner.items():
        yield from _below((*path, name), sub)


def _place(path: tuple[str, ...], parser: argparse.ArgumentParser, words: tuple[tuple[str, str], ...]) -> Place:
    options = [
        (name, _sentence(action.help))
        for action in parser._actions
        for name in action.option_strings
        if action.help != argparse.SUPPRESS
    ]
    return Place(path=path, words=words, options=tuple(options))


def _words(parser: argparse.ArgumentParser) -> tuple[tuple[str, str], ...]:
    """Sub-verbs, else the choices of the positional arguments."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return tuple((choice.dest, _sentence(choice.help)) for choice in action._choices_actions)
    positional = [action for action in parser._actions if not action.option_strings and action.choices]
    return tuple((str(choice), "") for action in positional for choice in action.choices or ())


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _sentence(text: str | None) -> str:
    """Help text for one line of a menu: no quotes of the shell, no format of argparse."""
    plain = (text or "").replace("%%", "%").replace("'", "").replace("\\", "").replace("`", "")
    return " ".join(plain.split())[:70]


def _bash(found: list[Place]) -> str:
    steps = "|".join(f'"{" ".join(place.path)}"' for place in found if place.path)
    lines = [
        "# bash completion of relayd; made by `relayd completion bash`",
        "_relayd() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" path="" words="" at',
        "    for ((at = 1; at < COMP_CWORD; at++)); do",
        '        case "${path:+$path }${COMP_WORDS[at]}" in',
        f'            {steps}) path="${{path:+$path }}${{COMP_WORDS[at]}}" ;;',
        "        esac",
        "    done",
        '    case "$path" in',
    ]
    for place in found:
        words = " ".join(name for name, _ in place.words)
        options = " ".join(name for name, _ in place.options)
        lines.append(f'        "{" ".join(place.path)}") words="{words}"; [[ "$cur" == -* ]] && words="{options}" ;;')
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "}",
        "complete -o default -F _relayd relayd",  # no match: file names
    ]
    return "\n".join(lines) + "\n"


def _zsh(found: list[Place]) -> str:
    steps = "|".join(f"'{' '.join(place.path)}'" for place in found if place.path)
    lines = [
        "#compdef relayd",
        "# zsh completion of relayd; made by `relayd completion zsh`",
        "_relayd() {",
        "    local walked='' next at",
        "    local -a entries flags",
        "    for ((at = 2; at < CURRENT; at++)); do",
        '        next="${walked:+$walked }${words[at]}"',
        f'        case "$next" in {steps}) walked="$next" ;; esac',
        "    done",
        '    case "$walked" in',
    ]
    for place in found:
        entries, flags = _zsh_entries(place.words), _zsh_entries(place.options)
        lines.append(f"        '{' '.join(place.path)}') entries=({entries}); flags=({flags}) ;;")
    lines += [
        "    esac",
        '    if [[ "${words[CURRENT]}" == -* ]]; then _describe option flags',
        "    elif (( ${#entries} )); then _describe command entries",
        "    else _files; fi",
        "}",
        'if [[ "${funcstack[1]}" == _relayd ]]; then _relayd "$@"; else compdef _relayd relayd; fi',
    ]
    return "\n".join(lines) + "\n"


def _zsh_entries(pairs: tuple[tuple[str, str], ...]) -> str:
    return " ".join(f"'{name}:{text.replace(':', ',')}'" if text else f"'{name}'" for name, text in pairs)


def _fish(found: list[Place]) -> str:
    steps = " ".join(f"'{' '.join(place.path)}'" for place in found if place.path)
    lines = [
        "# fish completion of relayd; made by `relayd completion fish`",
        "function __relayd_at",
        "    set -l walked ''",
        "    for word in (commandline -opc)[2..-1]",
        '        set -l next (string trim -- "$walked $word")',
        f"        contains -- $next {steps}; and set walked $next",
        "    end",
        '    test "$walked" = "$argv[1]"',
        "end",
    ]
    for place in found:
        condition = f"-n '__relayd_at \"{' '.join(place.path)}\"'"
        lines += [f"complete -c relayd {condition} -f -a '{name}' -d '{text}'" for name, text in place.words]
        for name, text in place.options:
            switch = f"-l '{name[2:]}'" if name.startswith("--") else f"-s '{name[1:]}'"
            lines.append(f"complete -c relayd {condition} {switch} -d '{text}'")
    return "\n".join(lines) + "\n"
