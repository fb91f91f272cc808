"""relayd completion: what a shell needs to complete verbs, options and choices, made from the parsers themselves.

    bash:  relayd completion bash > ~/.local/share/bash-completion/completions/relayd
    zsh:   relayd completion zsh  > "${fpath[1]}/_relayd"
    fish:  relayd completion fish > ~/.config/fish/completions/relayd.fish

Theory: a command line is a path of verbs (`key new`); each path has its words (verbs, choices, ids of the tree's keys
or accounts, files), and its options, each without a value or with one of some sort. All three scripts walk the line by
the same table. Ids are the names of the tree's files, so the shell finds them without starting relayd.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator

import attrs

SHELLS = ("bash", "zsh", "fish")


FILES = "files"  # file names
FREE = "free"  # something that nobody can complete
FOLDERS = ("keys.d", "accounts.d")  # ids of the tree's objects


@attrs.frozen
class Option:
    """An option: its name, a sentence about it, and its value: "" for none, FILES, FREE, a folder or the choices."""

    name: str
    about: str
    value: str | tuple[str, ...] = ""


@attrs.frozen(kw_only=True)
class Place:
    """What may follow a path of verbs.

    Args:
        path: the verbs so far, such as ("key", "new").
        words: verbs and choices that may come next, with a sentence (maybe empty) about each.
        more: FILES, FREE or a folder: what else may come next.
    """

    path: tuple[str, ...]
    words: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    more: str = FREE


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
        Option(name, _sentence(action.help), _option_value(action))
        for action in parser._actions
        for name in action.option_strings
        if action.help != argparse.SUPPRESS
    ]
    return Place(path=path, words=words, options=tuple(options), more=_more(path, parser))


def _option_value(action: argparse.Action) -> str | tuple[str, ...]:
    if action.nargs == 0:
        return ""
    if action.choices:
        return tuple(map(str, action.choices))
    by_name = {"--key": "keys.d", "--account": "accounts.d"}
    return by_name.get(action.option_strings[0]) or (FILES if action.metavar in ("FILE", "DIR", "PATH") else FREE)


def _more(path: tuple[str, ...], parser: argparse.ArgumentParser) -> str:
    """What the positional arguments are. An account that is added has no file yet; one that signs in may have."""
    for action in parser._actions:
        if action.option_strings or action.choices:
            continue
        if action.dest in ("id", "accounts") and path != ("account", "add"):
            return "keys.d" if path[0] == "key" else "accounts.d"
        if action.metavar in ("FILE", "DIR"):
            return FILES
    return FREE


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


_IDS = r"""find -L "$1" -name "*.toml" ! -name ".*" 2>/dev/null | sed "s|.*/||; s|\.toml\$||" """


def _values(found: list[Place]) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Path and option, with a space between, and the option's value."""
    for place in found:
        for option in place.options:
            if option.value:
                yield " ".join((*place.path, option.name)), option.value


def _alternatives(found: list[Place], quote: str, value: str) -> str:
    return "|".join(f"{quote}{where}{quote}" for where, kind in _values(found) if kind == value)


def _bash(found: list[Place]) -> str:
    steps = "|".join(f'"{" ".join(place.path)}"' for place in found if place.path)
    lines = [
        "# bash completion of relayd; made by `relayd completion bash`",
        f"_relayd_ids() {{ {_IDS}; }}",
        "_relayd() {",
        '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD - 1]}" path="" words="" at',
        '    local root="${RELAYD_CONFIG:-.}"',
        "    # --option=value comes as three words",
        '    [[ "$prev" == "=" ]] && prev="${COMP_WORDS[COMP_CWORD - 2]}"',
        '    [[ "$cur" == "=" ]] && cur=""',
        "    for ((at = 1; at < COMP_CWORD; at++)); do",
        '        [[ "${COMP_WORDS[at]}" == --config ]] && root="${COMP_WORDS[at + 1]/#\\~/$HOME}"',
        '        case "${path:+$path }${COMP_WORDS[at]}" in',
        f'            {steps}) path="${{path:+$path }}${{COMP_WORDS[at]}}" ;;',
        "        esac",
        "    done",
        '    case "${path:+$path }$prev" in',
        f"        {_alternatives(found, chr(34), FILES)}) compopt -o default 2>/dev/null; COMPREPLY=(); return ;;",
        f"        {_alternatives(found, chr(34), FREE)}) COMPREPLY=(); return ;;",
    ]
    lines += [
        f'        {_alternatives(found, chr(34), folder)}) words="$(_relayd_ids "$root/{folder}")" ;;'
        for folder in FOLDERS
    ]
    for where, value in _values(found):
        if not isinstance(value, str):
            lines.append(f'        "{where}") words="{" ".join(value)}" ;;')
    lines += ['        *) case "$path" in']
    for place in found:
        words = " ".join(name for name, _ in place.words)
        options = " ".join(option.name for option in place.options)
        otherwise = {FREE: "", FILES: "compopt -o default 2>/dev/null; "}.get(
            place.more, f'words="$words $(_relayd_ids "$root/{place.more}")"; '
        )
        lines.append(
            f'            "{" ".join(place.path)}") words="{words}"; {otherwise}'
            f'[[ "$cur" == -* ]] && words="{options}" ;;'
        )
    lines += [
        "        esac ;;",
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "}",
        "complete -F _relayd relayd",
    ]
    return "\n".join(lines) + "\n"


def _zsh(found: list[Place]) -> str:
    steps = "|".join(f"'{' '.join(place.path)}'" for place in found if place.path)
    lines = [
        "#compdef relayd",
        "# zsh completion of relayd; made by `relayd completion zsh`",
        f"_relayd_ids() {{ {_IDS}; }}",
        "_relayd() {",
        "    local walked='' next at more='' root=\"${RELAYD_CONFIG:-.}\"",
        "    local -a entries flags",
        "    for ((at = 2; at < CURRENT; at++)); do",
        '        [[ "${words[at]}" == --config ]] && root="${words[at + 1]/#\\~/$HOME}"',
        '        next="${walked:+$walked }${words[at]}"',
        f'        case "$next" in {steps}) walked="$next" ;; esac',
        "    done",
        '    case "${walked:+$walked }${words[CURRENT - 1]}" in',
        f"        {_alternatives(found, chr(39), FILES)}) _files; return ;;",
        f"        {_alternatives(found, chr(39), FREE)}) return 1 ;;",
    ]
    lines += [
        f'        {_alternatives(found, chr(39), folder)}) compadd -- $(_relayd_ids "$root/{folder}"); return ;;'
        for folder in FOLDERS
    ]
    for where, value in _values(found):
        if not isinstance(value, str):
            lines.append(f"        '{where}') compadd -- {' '.join(value)}; return ;;")
    lines += ["    esac", '    case "$walked" in']
    for place in found:
        entries = _zsh_entries(place.words)
        flags = _zsh_entries(tuple((option.name, option.about) for option in place.options))
        lines.append(f"        '{' '.join(place.path)}') entries=({entries}); flags=({flags}); more='{place.more}' ;;")
    lines += [
        "    esac",
        '    if [[ "${words[CURRENT]}" == -* ]]; then _describe option flags; return; fi',
        "    (( ${#entries} )) && _describe command entries",
        '    case "$more" in',
        f"        {FILES}) _files ;;",
        f'        {"|".join(FOLDERS)}) compadd -- $(_relayd_ids "$root/$more") ;;',
        "    esac",
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
        "function __relayd_ids",
        "    set -l root .",
        '    set -q RELAYD_CONFIG; and set root "$RELAYD_CONFIG"',
        "    set -l line (commandline -opc)",
        "    if set -l at (contains -i -- --config $line)",
        '        set root (string replace -r "^~" "$HOME" -- $line[(math $at + 1)])',
        "    end",
        f"    {_IDS.replace('$1', '$root/$argv[1]')}",
        "end",
        "complete -c relayd -f",
    ]
    for place in found:
        condition = f"-n '__relayd_at \"{' '.join(place.path)}\"'"
        lines += [f"complete -c relayd {condition} -f -a '{name}' -d '{text}'" for name, text in place.words]
        if place.more == FILES:
            lines.append(f"complete -c relayd {condition} -F")
        elif place.more in FOLDERS:
            lines.append(f"complete -c relayd {condition} -f -a '(__relayd_ids {place.more})'")
        for option in place.options:
            switch = f"-l '{option.name[2:]}'" if option.name.startswith("--") else f"-s '{option.name[1:]}'"
            lines.append(f"complete -c relayd {condition} {switch}{_fish_value(option)} -d '{option.about}'")
    return "\n".join(lines) + "\n"


def _fish_value(option: Option) -> str:
    match option.value:
        case "":
            return ""
        case str() as kind if kind in FOLDERS:
            return f" -x -a '(__relayd_ids {kind})'"
        case str() as kind:
            return " -r -F" if kind == FILES else " -x"
        case choices:
            return f" -x -a '{' '.join(choices)}'"
