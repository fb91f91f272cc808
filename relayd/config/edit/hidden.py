"""Hidden values: the text of a file without the secrets that stand in it, and back.

Rule: it works on text that is no TOML, too, because such a file is what people mend; so a value is known by its key,
not by its place. A value that is hidden has a number: the same value has the same one, another value another.
"""

from __future__ import annotations

import re

import attrs

# Keys of the schema that are marked `secret`; tests hold this together with snapshot.py.
NAMES = ("sealed", "proxy", "password_hash", "totp", "crs_encryption_key", "url", "signing_key")
_TEXT = r"\"\"\"[\s\S]*?(?:\"\"\"|\Z)|'''[\s\S]*?(?:'''|\Z)|\"(?:[^\"\\\n]|\\.)*\"?|'[^'\n]*'?"
_NAMED = rf"(?:(?<![\w-])[\"']?(?:{'|'.join(NAMES)})[\"']?\s*=\s*)"
_VALUE = re.compile(rf"(?P<head>{_NAMED})(?P<value>{_TEXT})")
_SHA256 = re.compile(rf"(?P<head>(?<![\w-])[\"']?sha256[\"']?\s*=\s*)(?P<value>{_TEXT})")  # of machines' tokens
_HEADERS = re.compile(
    rf"(?P<head>(?:^|[{{,.])[ \t]*(?:[\w-]+|\"[^\"\n]*\")[ \t]*=[ \t]*)(?P<value>{_TEXT})", re.MULTILINE
)
_IN_HEADERS = re.compile(
    r"^[ \t]*\[headers\][^\n]*\n(?:(?!^[ \t]*\[)[^\n]*(?:\n|\Z))*|^[ \t]*headers[ \t]*[.=][^\n]*", re.MULTILINE
)
_SHOWN = re.compile(r'"\(hidden ([0-9]{1,6})\)"')
SEALED = re.compile(r"[\"']rlsec")


@attrs.define(eq=False)
class Hider:
    """Hides values.

    Args:
        sealed: sealed values too. They are safe anywhere, but long, and no sight for people.
    """

    sealed: bool = True
    values: list[str] = attrs.field(factory=list, init=False, repr=False)  # as they stand in the text

    def hide(self, path: str, text: str) -> str:
        """The text of a file with its secrets replaced. `path`: POSIX, in the tree."""
        text = _VALUE.sub(self._replace, text)
        if path == "relay.toml":
            return _SHA256.sub(self._replace, text)
        if path.startswith("accounts.d/"):
            return _IN_HEADERS.sub(lambda part: _HEADERS.sub(self._replace, part[0]), text)
        return text

    def restore(self, text: str) -> str:
        """The values back where they were shown as hidden. Raises: LookupError for a number that was not given."""

        def value(match: re.Match[str]) -> str:
            number = int(match[1])
            if not 1 <= number <= len(self.values):
                raise LookupError(f"(hidden {number}) stands for no value of this file")
            return self.values[number - 1]

        return _SHOWN.sub(value, text)

    def _replace(self, match: re.Match[str]) -> str:
        value = match["value"]
        if value in ('""', "''") or _SHOWN.fullmatch(value) or (SEALED.match(value) and not self.sealed):
            return match[0]
        if value not in self.values:
            self.values.append(value)
        return f'{match["head"]}"(hidden {self.values.index(value) + 1})"'
