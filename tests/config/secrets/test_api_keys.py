"""API keys: form, checksum, hash, and finding them where they must not be."""

from __future__ import annotations

import hashlib
import re
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.secrets.api_keys import (
    ALPHABET,
    KEY_PATTERN,
    FoundKey,
    checksum_ok,
    find_keys,
    hint,
    key_digest,
    key_hash,
    mint,
)

seeds = st.binary(min_size=32, max_size=32)


def minted(seed: bytes = b"\x07" * 32) -> str:
    return mint(lambda size: seed[:size])


@given(seeds)
@settings(deadline=None)
def test_a_minted_key_has_the_published_form_and_a_right_checksum(seed: bytes) -> None:
    key = minted(seed)
    assert re.fullmatch(r"sk-relay-[0-9A-Za-z]{49}", key)
    assert checksum_ok(key)
    number = 0
    for char in key[-6:]:
        number = number * 62 + ALPHABET.index(char)
    assert number == zlib.crc32(key[:-6].encode())


@given(seeds)
@settings(deadline=None)
def test_all_256_bits_are_in_the_key(seed: bytes) -> None:
    number = 0
    for char in minted(seed)[9:52]:
        number = number * 62 + ALPHABET.index(char)
    assert number == int.from_bytes(seed, "big")


def test_extreme_randomness_keeps_the_length() -> None:
    assert minted(b"\0" * 32).startswith("sk-relay-" + "0" * 43)
    assert len(minted(b"\xff" * 32)) == len(minted(b"\0" * 32)) == 58


def test_a_known_key_keeps_its_text_and_hash_for_ever() -> None:
    key = minted(bytes(range(32)))
    assert key == "sk-relay-003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf17hcaP"
    assert key_hash(key) == "44fad948976a1a7b6fee4dd19d9178ea9cd9e35564212a2d9afcdb3b6e57e853"
    assert key_hash(key) == hashlib.sha256(b"relayd-key-v1\0" + key.encode()).hexdigest()
    assert key_digest(key.encode()).hex() == key_hash(key)


@given(seeds, st.integers(min_value=9, max_value=57), st.sampled_from(ALPHABET))
@settings(deadline=None)
def test_one_wrong_character_is_noticed(seed: bytes, at: int, char: str) -> None:
    key = minted(seed)
    wrong = key[:at] + char + key[at + 1 :]
    assert checksum_ok(wrong) == (wrong == key)


def test_what_is_no_key_has_no_right_checksum() -> None:
    key = minted()
    for text in ("", "sk-relay-", key[:-1], key + "0", key + "\n", " " + key, key.upper(), "sk-ant-api03-xyz"):
        assert not checksum_ok(text)


def test_a_hint_shows_four_characters_of_a_key_and_nothing_of_other_secrets() -> None:
    key = minted()
    assert hint(key) == key[:13]
    assert hint("sk-ant-api03-" + "x" * 40) == ""
    assert hint("sk-relay-short") == ""


@given(seeds, seeds, st.text(alphabet=' \n\t"=,.é', max_size=20))
@settings(deadline=None)
def test_keys_are_found_with_their_place_and_without_the_key(one: bytes, two: bytes, gap: str) -> None:
    first, second = minted(one), minted(two)
    text = f'x = "{first}"\n{gap} {second}\n'
    found = list(find_keys(text))
    assert [item.sha256 for item in found] == [key_hash(first), key_hash(second)]
    for item, key in zip(found, (first, second), strict=True):
        assert text.split("\n")[item.line - 1][item.column - 1 :].startswith(key)
        assert key not in repr(item)


def test_a_key_with_a_wrong_checksum_or_glued_to_a_word_is_no_find() -> None:
    key = minted()
    flipped = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert list(find_keys(f"{flipped} {key}0 x{key} {key[:-1]}")) == []
    assert KEY_PATTERN.search(flipped)


def test_a_found_key_is_a_plain_value() -> None:
    key = minted()
    assert list(find_keys(key)) == [FoundKey(line=1, column=1, hint=key[:13], sha256=key_hash(key))]
