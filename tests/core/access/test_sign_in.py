"""One-time codes as the RFC has them, and waits that slow a stranger down and do not keep the owner out."""

from __future__ import annotations

import pytest

from relayd.config.snapshot import AdminUser
from relayd.core.access.sign_in import (
    FREE_ADDRESS,
    FREE_NAME,
    FREE_PAIR,
    LONGEST_WAIT,
    Guess,
    LockOut,
    accepted_step,
    device_proof,
    known_device,
    one_time_code,
    read_seed,
    seed_text,
)

SEED = b"12345678901234567890"
ALICE = AdminUser(name="alice", password_hash="scrypt$1")


@pytest.mark.parametrize(
    ("time", "code"),
    # Source: RFC 6238 appendix B, SHA-1; the last six of its eight digits.
    [
        (59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037"),
    ],
)  # fmt: skip
def test_codes_are_those_of_the_rfc(time: int, code: str) -> None:
    assert one_time_code(SEED, time // 30) == code
    assert accepted_step(SEED, f"{code[:3]} {code[3:]}", time, -1) == time // 30


def test_a_code_counts_once_and_for_a_minute_and_a_half() -> None:
    code = one_time_code(SEED, 100)
    assert [accepted_step(SEED, code, step * 30, -1) for step in (98, 99, 100, 101, 102)] == [None, 100, 100, 100, None]
    assert accepted_step(SEED, code, 3000, 100) is None
    assert [accepted_step(SEED, wrong, 3000, -1) for wrong in ("", "é", "28708")] == [None] * 3


def test_seeds_are_read_as_programs_show_them() -> None:
    assert read_seed(seed_text(SEED)) == SEED
    assert read_seed("gezd gnbv-gy3t qojq gezd gnbv gy3t qojq") == SEED
    for wrong in ("0189", "GEZDGNBV", ""):
        with pytest.raises(ValueError, match="TOTP"):
            read_seed(wrong)


def test_waits_grow_and_end() -> None:
    lock = LockOut()
    guess = Guess(name="alice", address="192.0.2.1")
    waits = []
    for _ in range(FREE_PAIR + 12):
        waits.append(lock.wait(guess, 0.0))
        lock.failed(guess, 0.0)
    assert waits[:FREE_PAIR] == [0.0] * FREE_PAIR
    assert waits[FREE_PAIR : FREE_PAIR + 4] == [10.0, 20.0, 40.0, 80.0]
    assert max(waits) == LONGEST_WAIT
    assert lock.wait(guess, LONGEST_WAIT) == 0.0
    lock.succeeded(guess)
    assert lock.wait(guess, 0.0) == 0.0


def test_a_stranger_elsewhere_does_not_keep_the_owner_out() -> None:
    lock = LockOut()
    for number in range(FREE_NAME * 2):
        lock.failed(Guess(name="alice", address=f"198.51.100.{number}"), 0.0)
    assert lock.wait(Guess(name="alice", address="192.0.2.1"), 0.0) > 0, "many machines guess together"
    assert lock.wait(Guess(name="alice", address="192.0.2.1", device="d1"), 0.0) == 0.0
    assert lock.wait(Guess(name="bob", address="192.0.2.1"), 0.0) == 0.0


def test_names_that_are_tried_in_turn_count_against_their_address() -> None:
    lock = LockOut()
    for number in range(FREE_ADDRESS):
        lock.failed(Guess(name=f"user{number}", address=f"2001:db8::{number:x}"), 0.0)
    assert lock.wait(Guess(name="another", address="2001:db8::ffff"), 0.0) > 0
    assert lock.wait(Guess(name="another", address="2001:db8:0:1::1"), 0.0) == 0


def test_a_known_device_is_proven() -> None:
    proof = device_proof(ALICE, "0123abcd")
    assert known_device(ALICE, proof) == "0123abcd"
    other = AdminUser(name="alice", password_hash="scrypt$2")
    assert [known_device(user, proof) for user in (other, AdminUser(name="bob", password_hash="scrypt$1"))] == ["", ""]
    assert [known_device(ALICE, wrong) for wrong in ("", ".", "0123abcd", proof + "0", "é.é")] == [""] * 5
