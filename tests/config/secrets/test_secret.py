"""A Secret shows itself to nobody who does not ask by name."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import pprint
import traceback

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.secrets.secret import Secret

CANARY = "sk-ant-api03-canary-3f9d1c"


@attrs.frozen(kw_only=True)
class Holder:
    credential: Secret


def test_the_text_comes_only_when_asked_for_by_name() -> None:
    assert Secret(CANARY).reveal() == CANARY


def test_no_way_of_printing_shows_the_text() -> None:
    secret = Secret(CANARY)
    holder = Holder(credential=secret)
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret!r:>60}", format(secret, ">40"),
        "%s %r" % (secret, secret),  # noqa: UP031 - one of the ways
        f"{secret} {secret!a}", pprint.pformat([secret]), repr({"k": secret}), repr(holder), str((secret,)),
        repr(attrs.asdict(holder)), json.dumps(attrs.asdict(holder), default=str), ascii(secret), str(vars(Holder)),
    ]  # fmt: skip
    assert all(CANARY not in text for text in shown)


def test_json_does_not_know_what_to_do_with_it() -> None:
    with pytest.raises(TypeError) as error:
        json.dumps({"credential": Secret(CANARY)})
    assert CANARY not in str(error.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_not_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="not pickled") as error:
        pickle.dumps(Holder(credential=Secret(CANARY)), protocol)
    assert CANARY not in str(error.value)


def test_a_copy_is_the_same_object() -> None:
    secret = Secret(CANARY)
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"a": [secret]})["a"][0] is secret


def test_a_traceback_with_locals_does_not_show_it() -> None:
    def fail(secret: Secret) -> None:
        holder = Holder(credential=secret)
        raise RuntimeError(f"cannot use {holder} {secret}")

    try:
        fail(Secret(CANARY))
    except RuntimeError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "cannot use" in text
    assert CANARY not in text


def test_logging_does_not_show_it() -> None:
    stream = io.StringIO()
    logger = logging.Logger("canary")
    logger.addHandler(logging.StreamHandler(stream))
    logger.warning("credential %s %r", Secret(CANARY), {"credential": Secret(CANARY)})
    assert "***" in stream.getvalue()
    assert CANARY not in stream.getvalue()


def test_it_has_no_dict_and_does_not_change() -> None:
    secret = Secret(CANARY)
    assert not hasattr(secret, "__dict__")
    with pytest.raises(AttributeError):
        secret.text = "other"  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        del secret._Secret__text  # type: ignore[attr-defined]
    assert secret.reveal() == CANARY


@given(st.text(), st.text())
@settings(deadline=None)
def test_equality_is_that_of_the_texts(one: str, two: str) -> None:
    assert (Secret(one) == Secret(two)) == (one == two)
    assert hash(Secret(one)) == hash(Secret(str(one)))
    assert bool(Secret(one)) == bool(one)


def test_a_secret_is_not_equal_to_its_text() -> None:
    assert Secret(CANARY) != CANARY
    assert Secret("\ud800") == Secret("\ud800")
