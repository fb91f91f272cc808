"""Problem codes: what each one means and what to do about it. The texts are in codes.toml.

Rule: a code is stable; codes.toml says more. Read when the first problem is made or explained: a command that has
nothing to complain about does not pay for the 3 ms.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType


@functools.cache
def explanations() -> Mapping[str, str]:
    """The text of each code, in the order of the file."""
    table: dict[str, str] = tomllib.loads(Path(__file__).with_name("codes.toml").read_text(encoding="utf-8"))
    return MappingProxyType(table)
