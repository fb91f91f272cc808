"""Patches: what an edit changes, as a unified diff for people and as a patch for `git apply`.

Rule: pure. The diff that people see hides secrets. The patch hides none, for it must apply; so it is only made where
none would stand in it but sealed ones.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from relayd.config.edit.hidden import Hider

CONTEXT = 3  # lines
_NO_END = "\n\\ No newline at end of file\n"
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")  # what git does not quote

Texts = Mapping[str, bytes | None]  # content by path; None for a file that is not there


def shown_diff(before: Texts, after: Texts) -> str:
    """The diff for people, without secrets. Both sides have the same paths."""
    hider = Hider()
    return "".join(
        _one(path, _hidden(hider, path, before[path]), _hidden(hider, path, after[path]), CONTEXT)
        for path in sorted(after)
    )


def patch(before: Texts, after: Texts, folder: str = "") -> tuple[str, str]:
    """A patch, and the command that applies it; two empty texts where it would show a secret.

    Args:
        folder: where the tree lies in its repository, as "config/".
    """
    if not all(_PLAIN.fullmatch(f"{folder}{path}") for path in after):
        return "", ""
    lines = _secret_lines(before) | _secret_lines(after)
    for context, command in ((CONTEXT, "git apply"), (0, "git apply --unidiff-zero")):
        found = "".join(_one(f"{folder}{one}", _text(before[one]), _text(after[one]), context) for one in sorted(after))
        if not any(line in found for line in lines):
            return found, command
    return "", ""


def _secret_lines(texts: Texts) -> set[str]:
    hider = Hider(sealed=False)
    for path, content in texts.items():
        _hidden(hider, path, content)
    return {line for value in hider.values for line in value.splitlines() if line.strip("\"' \t")}


def _one(path: str, old: str | None, new: str | None, context: int) -> str:
    """One file. Source: git-diff(1), "Generating patch text with -p"."""
    if old == new:
        return ""
    head = [f"diff --git a/{path} b/{path}\n"]
    if old is None:
        head.append("new file mode 100644\n")
    if new is None:
        head.append("deleted file mode 100644\n")
    if not (old or new):  # an empty file comes or goes
        return "".join(head)
    names = f"a/{path}" if old is not None else "/dev/null", f"b/{path}" if new is not None else "/dev/null"
    lines = list(difflib.unified_diff(_lines(old), _lines(new), *names, n=context))
    return "".join([*head, *(one if one.endswith("\n") else f"{one}{_NO_END}" for one in lines)])


def _lines(text: str | None) -> list[str]:
    """Lines end with LF alone; a CR before it belongs to the line."""
    return re.findall(r"[^\n]*\n|[^\n]+", text or "")


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "replace")


def _hidden(hider: Hider, path: str, content: bytes | None) -> str | None:
    text = _text(content)
    return None if text is None else hider.hide(path, text)
