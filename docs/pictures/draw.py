"""The pictures of the README and the docs, each for light and for dark pages: `python docs/pictures/draw.py`.

The terminal's lines are what `relayd` prints when the script is run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
SANS = "ui-sans-serif,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
THEMES = {
    "light": {
        "page": "#ffffff", "card": "#f6f8fa", "line": "#d0d7de", "text": "#1f2328", "soft": "#59636e",
        "accent": "#0f766e", "wash": "#e6f4f1", "warm": "#b45309", "good": "#1a7f37", "bad": "#cf222e",
    },
    "dark": {
        "page": "#0d1117", "card": "#161b22", "line": "#30363d", "text": "#e6edf3", "soft": "#9198a1",
        "accent": "#2dd4bf", "wash": "#10302d", "warm": "#e3a14a", "good": "#3fb950", "bad": "#ff7b72",
    },
}  # fmt: skip
Theme = Mapping[str, str]


def words(x: float, y: float, text: str, fill: str, size: float = 13, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}"{more}>{escape(text)}</text>'


def box(x: float, y: float, w: float, h: float, fill: str, line: str, more: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="10" fill="{fill}" stroke="{line}"{more}/>'


def arrow(path: str, theme: Theme, color: str = "soft", more: str = "") -> str:
    line = f'fill="none" stroke="{theme[color]}" stroke-width="1.6"'
    return f'<path d="{path}" {line} marker-end="url(#{color})"{more}/>'


def markers(theme: Theme) -> str:
    """Heads of arrows, by colour."""
    head = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse"'
    heads = [
        f'<marker id="{color}" {head}><path d="M0 .6 7.4 4 0 7.4z" fill="{theme[color]}"/></marker>'
        for color in ("soft", "accent", "warm")
    ]
    return f"<defs>{''.join(heads)}</defs>"


CENTRE, MONOSPACE, BOLD = ' text-anchor="middle"', f' font-family="{MONO}"', ' font-weight="600"'
CLIENTS = ("Claude Code", "Anthropic SDKs", "OpenAI SDKs, Codex", "everything that has a base URL")
STEPS = (
    ("read", "Messages, Chat,", "Responses"),
    ("admit", "key, model, and", "limits: exact"),
    ("choose", "warm cache,", "headroom, health"),
    ("relay", "byte for byte,", "as it comes"),
    ("book", "tokens, dollars,", "attempts, why"),
)
ACCOUNTS = (("main", "serves", "good"), ("second", "rests until 12:04", "warm"), ("spare", "free", "good"))


def architecture(theme: Theme) -> str:
    """What goes in, what comes out, and who says so: git above, calls from left to right, what is kept below."""
    drawn = [*_config(theme), *_clients(theme), *_relay(theme), *_accounts(theme), *_kept(theme)]
    return _svg(1200, 620, theme, "relayd: config from git, calls from clients to your accounts", drawn)


def _config(theme: Theme) -> Iterator[str]:
    yield box(40, 28, 300, 112, theme["card"], theme["line"])
    yield words(58, 54, "git repository", theme["text"], 15, BOLD)
    for number, name in enumerate(("relay.toml", "accounts.d/main.toml", "keys.d/alice.toml")):
        yield words(58, 78 + 21 * number, name, theme["soft"], 13, MONOSPACE)
    yield words(248, 99, "sealed", theme["accent"], 12)
    yield words(248, 120, "hashed", theme["accent"], 12)
    yield arrow("M340 84H438", theme)
    yield words(389, 74, "pull request", theme["soft"], 12, CENTRE)
    yield box(444, 28, 300, 112, theme["card"], theme["line"])
    yield words(462, 54, "CI", theme["text"], 15, BOLD)
    yield words(462, 78, "relayd check · test · diff", theme["soft"], 13, MONOSPACE)
    yield words(462, 99, "one comment: who would be refused,", theme["soft"])
    yield words(462, 120, "moved, or charged otherwise", theme["soft"])
    yield arrow("M744 84H842", theme)
    yield words(793, 74, "git push", theme["soft"], 12, CENTRE)
    yield box(848, 28, 312, 112, theme["card"], theme["line"])
    yield words(866, 54, "the node's gate", theme["text"], 15, BOLD)
    yield words(866, 78, "checked against what runs: plan, verdict", theme["soft"])
    yield words(866, 99, "all or nothing; no stream is dropped", theme["soft"])
    yield words(866, 120, "back by git revert, or rollback", theme["soft"])
    yield arrow("M1004 140V168Q1004 178 994 178H610Q600 178 600 188V212", theme, "accent")
    yield words(800, 170, "a new snapshot", theme["accent"], 12, CENTRE)


def _clients(theme: Theme) -> Iterator[str]:
    yield words(40, 236, "clients", theme["text"], 15, BOLD)
    for number, name in enumerate(CLIENTS):
        y = 250 + 46 * number
        yield box(40, y, 212, 36, theme["page"], theme["line"])
        yield words(54, y + 23, name, theme["text"])
        yield arrow(f"M252 {y + 18:g}C282 {y + 18:g} 276 318 304 318", theme, "soft", ' opacity=".75"')


def _relay(theme: Theme) -> Iterator[str]:
    dashed = ' stroke-dasharray="5 5"'
    yield box(328, 234, 592, 196, "none", theme["line"], dashed)
    yield box(318, 226, 592, 196, "none", theme["line"], dashed)
    yield box(308, 218, 592, 196, theme["wash"], theme["accent"], ' stroke-width="1.6"')
    yield words(328, 246, "relayd", theme["accent"], 17, BOLD)
    yield words(394, 246, "one process; more nodes beside it count together", theme["soft"], 12)
    for number, (name, *lines) in enumerate(STEPS):
        x = 326 + 114.5 * number
        yield box(x, 276, 98, 84, theme["page"], theme["line"])
        yield words(x + 49, 300, name, theme["text"], 14, CENTRE + BOLD)
        for row, line in enumerate(lines):
            yield words(x + 49, 322 + 17 * row, line, theme["soft"], 11, CENTRE)
        if number:
            yield arrow(f"M{x - 16:g} 318H{x - 2:g}", theme)
    yield arrow("M718 360V378Q718 388 708 388H614Q604 388 604 378V364", theme, "warm")
    yield words(660, 405, "429, 529, 5xx, no first event: the next account", theme["warm"], 12, CENTRE)


def _accounts(theme: Theme) -> Iterator[str]:
    yield words(968, 236, "your accounts", theme["text"], 15, BOLD)
    for number, (name, state, color) in enumerate(ACCOUNTS):
        y = 250 + 56 * number
        yield box(968, y, 192, 46, theme["page"], theme["line"])
        yield f'<circle cx="986" cy="{y + 23:g}" r="5" fill="{theme[color]}"/>'
        yield words(1000, y + 20, name, theme["text"], 13, MONOSPACE)
        yield words(1000, y + 37, state, theme["soft"], 11)
        faint = ' opacity=".35" stroke-dasharray="4 4"' if color == "warm" else ' opacity=".75"'
        yield arrow(f"M900 318C940 318 926 {y + 23:g} 962 {y + 23:g}", theme, "soft", faint)


def _kept(theme: Theme) -> Iterator[str]:
    yield arrow("M440 414V478", theme, "accent", ' marker-start="url(#accent)"')
    yield box(308, 486, 280, 96, theme["card"], theme["line"])
    yield words(326, 512, "state", theme["text"], 15, BOLD)
    yield words(326, 536, "SQLite on one host, Redis for many nodes", theme["soft"])
    yield words(326, 557, "a limit of N never admits N + 1", theme["soft"])
    yield arrow("M760 414V478", theme, "accent")
    yield box(620, 486, 280, 96, theme["card"], theme["line"])
    yield words(638, 512, "people", theme["text"], 15, BOLD)
    yield words(638, 536, "pages, metrics, alerts, logs, reports", theme["soft"])
    yield words(638, 557, "relayd status · doctor · explain", theme["soft"], 12, MONOSPACE)


def _svg(width: int, height: int, theme: Theme, title: str, drawn: list[str]) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{SANS}" role="img">'
    ground = f'<rect width="{width}" height="{height}" rx="12" fill="{theme["page"]}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", markers(theme), ground, *drawn, "</svg>\n"])


# --- the terminal

MISTAKE = "wieght = 3"
SESSION = (
    f"echo '{MISTAKE}' >> accounts.d/simulator.toml; relayd check",
    "git checkout -q . && relayd key new alice --groups simulator --limit 5usd/day > key.txt",
    "relayd diff HEAD",
    "relayd explain --key alice --model claude-sonnet-5-5 2> notes.txt",
)
COLUMNS = 116


def session() -> list[tuple[str, list[str]]]:
    """Commands in a new tree, and the lines that each prints."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        (home / "relayd").write_text(f'#!/bin/sh\nexec {sys.executable} -m relayd "$@"\n')
        (home / "relayd").chmod(0o755)
        commit = 'git add . && git -c user.name=a -c user.email=a@example.com commit -qnm "a tree"'
        _said(home, f"relayd init ../relay --realm example && {commit}")
        return [(line, _said(home, line)) for line in SESSION]


def _said(home: Path, line: str) -> list[str]:
    tree = home / "relay"
    tree.mkdir(exist_ok=True)
    environment = {"HOME": str(home), "PATH": f"{home}:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(["sh", "-c", line], cwd=tree, env=environment, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).rstrip().splitlines()
    return [line[at : at + COLUMNS] for line in lines for at in range(0, max(1, len(line)), COLUMNS)]


def terminal(theme: Theme, said: list[tuple[str, list[str]]]) -> str:
    """A terminal with commands and what they printed."""
    drawn, y = [], 68
    for command, lines in said:
        drawn.append(_line(y, f"$ {command}", theme["accent"]))
        for line in lines:
            y += 20
            drawn.append(_line(y, line, _colour(line, theme)))
        y += 30
    bar = f'<path d="M0 34H1000" stroke="{theme["line"]}"/>'
    dots = [f'<circle cx="{20 + 18 * one}" cy="17" r="5.5" fill="{theme["line"]}"/>' for one in range(3)]
    frame = (
        f'<rect x=".5" y=".5" width="999" height="{y - 8}" rx="12" fill="{theme["card"]}" stroke="{theme["line"]}"/>'
    )
    return _svg(1000, y - 7, theme, "relayd in a terminal", [frame, bar, *dots, *drawn])


def _line(y: int, text: str, fill: str) -> str:
    return words(20, y, text, fill, 13.5, f'{MONOSPACE} xml:space="preserve"')


def _colour(line: str, theme: Theme) -> str:
    if "error" in line or "^^^" in line:
        return theme["bad"]
    return theme["good"] if line.lstrip().startswith("+") else theme["text"]


def pictures() -> dict[str, str]:
    """All of them but the terminal's, by file name."""
    return {f"architecture-{name}.svg": architecture(theme) for name, theme in THEMES.items()}


def main() -> None:
    said = session()
    terminals = {f"terminal-{name}.svg": terminal(theme, said) for name, theme in THEMES.items()}
    for name, text in {**pictures(), **terminals}.items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
