"""JSON escapes: whether the keys of a text may be spelt otherwise than by their own bytes; and what is no JSON at all.

Rule: who finds that a key's bytes are not there knows that the key is not there only where this says no. Who decodes
bytes of a stranger catches NOT_JSON: text that is not UTF-8, or cannot be, is a ValueError and none of msgspec's own.
"""

from __future__ import annotations

import re

import msgspec

NOT_JSON = (msgspec.MsgspecError, ValueError, RecursionError)

# An escape that could spell a letter or "_" of a key: \u005f, \u006d ...
_ESCAPED_LETTER = re.compile(rb"\\u00(?:5[fF]|6|7)")


def may_be_escaped(text: bytes) -> bool:
    """Whether a letter or "_" of a key may be escaped in a JSON text."""
    return b"\\u00" in text and _ESCAPED_LETTER.search(text) is not None
