"""A tree that goes to and fro between states that are right, with wrong ones in between, as edits come in real life.

Rule: what is wrong must be refused, and what is right must be taken, whatever came before it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import attrs
from daemon import key_text

from relayd.config.secrets.api_keys import mint

HUGE = 50_000_000  # bytes
WRONG = 5  # ways in which a tree is broken
COMING = mint(lambda size: b"\x0c" * size)  # the key that comes and goes


@attrs.define(eq=False)
class Changes:
    """What is done to a tree of `fleet`, one after the other.

    Args:
        number: of changes so far.
    """

    tree: Path
    number: int = 0
    _wrong: itertools.cycle[Callable[[], list[Path]]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._wrong = itertools.cycle((self._half_written, self._wrong_type, self._huge, self._twice, self._binary))

    def right(self) -> None:
        """The next state that is right: an account, a key and an alias come or go, a weight and a limit change."""
        self.number += 1
        number, account = self.number, (self.tree / "accounts.d" / "up.toml").read_text()
        bare = "\n".join(line for line in account.splitlines() if not line.startswith("weight"))
        self.write("accounts.d/up.toml", f"weight = {1 + number % 7}\n{bare}\n")
        if number % 2:
            self.write("accounts.d/extra.toml", f"priority = {1 + number % 3}\n{bare}\n")
            self.write("keys.d/extra.toml", key_text(COMING, f"[limits]\nconcurrency = {1000 + number % 11}\n"))
        else:
            self.remove("accounts.d/extra.toml", "keys.d/extra.toml")

    def wrong(self) -> Callable[[], None]:
        """A state that is wrong, in the next of five ways. Returns: what takes it back."""
        paths = next(self._wrong)()
        return lambda: [path.unlink() for path in paths] and None

    def write(self, path: str, text: str | bytes) -> Path:
        """As an editor does: a new file, renamed over the old one."""
        place = self.tree / path
        fresh = place.with_name(f".{place.name}.new")
        fresh.write_bytes(text.encode() if isinstance(text, str) else text)
        os.replace(fresh, place)
        return place

    def remove(self, *paths: str) -> None:
        for path in paths:
            (self.tree / path).unlink(missing_ok=True)

    def _half_written(self) -> list[Path]:
        text = key_text(mint(lambda size: b"\x0d" * size))
        place = self.tree / "keys.d" / "half.toml"
        place.write_text(text[: len(text) // 2])  # in place, and then the editor was interrupted
        return [place]

    def _wrong_type(self) -> list[Path]:
        return [self.write("accounts.d/wrong.toml", 'kind = "simulator"\nweight = "heavy"\n')]

    def _huge(self) -> list[Path]:
        return [self.write("keys.d/huge.toml", b"# " + b"x" * HUGE)]

    def _twice(self) -> list[Path]:
        """A hash that another key has."""
        return [self.write("keys.d/twice.toml", (self.tree / "keys.d" / "dev.toml").read_bytes())]

    def _binary(self) -> list[Path]:
        return [self.write("keys.d/binary.toml", b"\x00\xff\xfe hashes = 1")]
