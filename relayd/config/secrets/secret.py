"""Secret: a text that shows itself to nobody who does not ask by name.

Rule: `reveal` is the only way to the text. Everything that turns a value into text by accident (repr, str, format,
logging, a traceback with locals, attrs.asdict, json, pickle, copy) gets the mask or a TypeError, never the text.

Python cannot wipe a str from memory; this type guards against talk, not against a debugger.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any, NoReturn, final

MASK = "Secret(***)"
_HASH_KEY = os.urandom(16)  # so that the `hash` of a secret tells nothing outside this process


@final
class Secret:
    """A text to be kept. Equal texts are equal; the comparison takes constant time for equal lengths."""

    __slots__ = ("__text",)
    __text: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_Secret__text", text)

    def reveal(self) -> str:
        """The text itself. Every use is a place to look at in a review: keep it out of variables that live long."""
        return self.__text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_encoded(self.__text), _encoded(other.__text))

    def __hash__(self) -> int:
        digest = hashlib.blake2b(_encoded(self.__text), digest_size=8, key=_HASH_KEY).digest()
        return int.from_bytes(digest, "big", signed=True)

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret is not pickled (seal it instead: relayd/config/secrets/seal.py)")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret does not change")


def _encoded(text: str) -> bytes:
    # compare_digest takes ASCII or bytes; lone surrogates must not make the comparison raise (and quote the text).
    return text.encode("utf-8", "surrogatepass")
