"""Peeking at a body: what is read, what is refused, and that a renamed model changes nothing else."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable

import attrs
import msgspec
import pytest
from bench.peek_cost import cpu, shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.peek import Peeked, doubled_key, peek, replace_model, text_span
from relayd.wire.refusal import Refusal

numbers = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_four_fields_are_read() -> None:
    seen = peek(b'{"model":"m","stream":true,"max_tokens":5,"metadata":{"user_id":"u","more":1},"unknown":[1]}')

    assert (seen.model, seen.stream, seen.max_tokens, seen.user_id) == ("m", True, 5, "u")


def test_missing_and_null_fields_are_no_error() -> None:
    seen = peek(b'{"model":null,"stream":null,"max_tokens":null,"metadata":null}')

    assert (seen.model, seen.stream, seen.max_tokens, seen.user_id) == ("", False, None, "")


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"", "not valid JSON", None),
        (b"{", "not valid JSON", None),
        (b'{"model":"a"} x', "not valid JSON", None),
        (b"\xef\xbb\xbf{}", "not valid JSON", None),
        (b'{"x":NaN}', "not valid JSON", None),
        (b'{"x":Infinity}', "not valid JSON", None),
        (b'{"x":01}', "not valid JSON", None),
        (b'{"x":"\x01"}', "not valid JSON", None),
        (b"[]", "must be a JSON object", None),
        (b'"text"', "must be a JSON object", None),
        (b'{"x":"\xff\xfe"}', "not valid UTF-8", None),
        (b'{"model":"\xc3"}', "UTF-8", None),
        (b'{"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "nested too deeply", None),
        (b'{"model":1}', "model: expected str", "model"),
        (b'{"stream":"yes"}', "stream: expected bool", "stream"),
        (b'{"stream":1}', "stream: expected bool", "stream"),
        (b'{"max_tokens":"5"}', "max_tokens: expected", "max_tokens"),
        (b'{"max_tokens":1.5}', "max_tokens: expected a whole number", "max_tokens"),
        (b'{"max_tokens":1e999}', "", None),
        (b'{"model":"a","model":"b"}', "model: the key appears twice", "model"),
        (b'{"stream":true,"stream":false}', "stream: the key appears twice", "stream"),
        (b'{"max_tokens":1,"max_tokens":2}', "max_tokens: the key appears twice", "max_tokens"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model: the key appears twice", "model"),
        (b'{"max\\u005ftokens":1,"max_tokens":2}', "max_tokens: the key appears twice", "max_tokens"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(body: bytes, message: str, param: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        peek(body)

    assert caught.value.status == 400
    assert message in caught.value.message
    if param is not None:
        assert caught.value.param == param


def test_the_same_names_deeper_inside_are_nobodys_business() -> None:
    body = (
        b'{"tools":[{"model":1,"stream":"x","max_tokens":"y"}],"model":"m","text":"\\"model\\":\\"z\\"","stream":true}'
    )

    assert peek(body).model == "m"
    assert replace_model(body, "n") == body.replace(b'"model":"m"', b'"model":"n"')


def test_other_keys_may_be_doubled() -> None:
    assert peek(b'{"x":1,"x":2,"model":"m","y":{"model":"n"}}').model == "m"


def test_a_model_spelt_with_escapes_is_found_and_replaced() -> None:
    body = b'{"mod\\u0065l" : "a\\u0062", "k":"\\u006d"}'

    assert peek(body).model == "ab"
    assert replace_model(body, 'x"y') == b'{"mod\\u0065l" : "x\\"y", "k":"\\u006d"}'


@given(
    before=st.dictionaries(st.text().filter(lambda name: name != "model"), json_values, max_size=3),
    after=st.dictionaries(st.text().filter(lambda name: name != "model"), json_values, max_size=3),
    model=st.text(),
    indent=st.sampled_from([None, 0, 1]),
    ascii_only=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_replacing_the_model_changes_that_value_alone(before, after, model, indent, ascii_only) -> None:
    after = {name: value for name, value in after.items() if name not in before}
    document = {**before, "model": model, **after}
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        body.decode()
    except UnicodeDecodeError:
        return
    replaced = replace_model(body, "new")

    assert json.loads(replaced) == {**document, "model": "new"}
    old = json.dumps(model, ensure_ascii=ascii_only).encode()
    assert len(replaced) == len(body) - len(old) + len(b'"new"')


@given(
    st.dictionaries(
        st.sampled_from(
            ["model", "stream", "max_tokens", "messages", "tools", "fallbacks", "speed", "metadata", "é", "x"]
        ),
        json_values | st.sampled_from(["m", True, 5, [{"model": "n"}], {"user_id": "u"}]),
    )
)
@settings(deadline=None, max_examples=300)
def test_a_body_says_the_same_however_it_is_written(document) -> None:
    said = []
    for writing in ({"separators": (",", ":")}, {}, {"indent": 1}, {"separators": (", ", ":")}):
        body = json.dumps(document, ensure_ascii=False, **writing).encode("utf-8", "surrogatepass")
        try:
            said.append(peek(body))
        except Refusal as refusal:
            said.append((refusal.status, refusal.param, refusal.message.partition(" (byte")[0]))
    as_sent = [attrs.evolve(one, wide=0) if isinstance(one, Peeked) else one for one in said]

    assert as_sent.count(as_sent[0]) == len(as_sent)


@pytest.mark.parametrize("writing", [{"separators": (",", ":")}, {}])
def test_what_stands_twice_is_seen_in_every_writing(writing) -> None:
    body = json.dumps({"model": "a", "messages": [], "x": 1}, **writing).encode()
    for twice in (b'"model"', b'"messages"'):
        for blank in (b"", b" "):
            with pytest.raises(Refusal, match="appears twice"):
                peek(body[:-1] + b"," + blank + twice + b":" + blank + (b"[]" if b"s" in twice else b'"b"') + b"}")


@pytest.mark.parametrize("writing", [{"separators": (",", ":")}, {}, {"indent": 1}])
def test_the_model_of_the_top_level_is_replaced_among_many_others(writing) -> None:
    tool = {"name": "t", "input_schema": {"properties": {"model": {"type": "string"}}, "é": '"model": "x"'}}
    document = {"é": 1, "tools": [tool] * 3, "model": "a", "messages": [{"role": "user", "content": '"model":"y"'}]}
    body = json.dumps(document, ensure_ascii=False, **writing).encode()

    assert replace_model(body, "b") == json.dumps({**document, "model": "b"}, ensure_ascii=False, **writing).encode()


def spelt(name: str, escaped: list[bool]) -> str:
    """A key as JSON may write it: some of its letters as escapes."""
    return "".join(f"\\u{ord(c):04X}" if mark else c for c, mark in zip(name, escaped, strict=True))


members = st.tuples(
    st.sampled_from(["model", "modem", 'a"model', "Model"]),
    st.lists(st.booleans(), min_size=7, max_size=7),
    st.sampled_from(['"m"', "1", '{"model":"m"}', '["model",{"model" : "m\\"odel"}]', '"\\"model\\":\\"x\\""', "null"]),
)


@given(st.lists(members, max_size=5), st.sampled_from(["", " ", "\n\t"]))
@settings(deadline=None, max_examples=500)
def test_keys_and_their_texts_are_found_as_a_decoder_finds_them(parts, blank) -> None:
    pairs = []
    for name, escaped, value in parts:
        key = json.dumps(name) if '"' in name else f'"{spelt(name, escaped[: len(name)])}"'
        pairs.append(f"{key}{blank}:{blank}{value}")
    body = ("{" + f"{blank},".join(pairs) + blank + "}").encode()
    decoded = json.loads(body, object_pairs_hook=list)
    values = [json.loads(value) for name, _, value in parts if name == "model"]

    assert bool(doubled_key(body, ("model",))) == (len(values) > 1), decoded
    if len(values) == 1 and (isinstance(values[0], str) or values[0] is None):
        span = text_span(body, "model")
        assert (None if span is None else json.loads(body[slice(*span)])) == values[0]


@pytest.mark.parametrize(
    "padding",
    [
        b'"y": {"model": 1}, "x": [' + b"1, " * 1000 + b"1]",
        b'"x":[' + b",".join([b'{"model": "m"}'] * 1000) + b"]",
        b'"x":{' + b",".join([b'"model": "m"'] * 1000) + b"}",
        b",".join(b'"%06x":1' % i for i in range(1000)),
        b'"mod\\u0065m":"\\u0061"',
    ],
)
@pytest.mark.parametrize("form", [b'{"model": "m", %b}', b'{%b , "model" : "m"}', b'{ %b,"mo\\u0064el":"m"}'])
def test_a_body_of_any_shape_is_read_and_renamed_exactly(padding: bytes, form: bytes) -> None:
    body = form % padding
    at = body.rindex(b'"m"') if body.endswith(b'"m"}') else body.index(b'"m"')

    assert peek(body).model == "m"
    assert replace_model(body, "new") == body[:at] + b'"new"' + body[at + 3 :]


@pytest.mark.parametrize("gap", [b"", b" " * 5_000, b" " * 100_000])
def test_names_close_to_each_other_in_a_long_body_are_told_apart(gap: bytes) -> None:
    body = b'{%b"x":{"model":"m"},"model":"m"%b,"y":{"model":"m","z":"%b"}}' % (gap, gap, gap)
    at = body.index(b'},"model":"m"') + 10

    assert replace_model(body, "new") == body[:at] + b'"new"' + body[at + 3 :]


def calls_of(act: Callable[[], object]) -> int:
    """How many functions are called, of Python and of C."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def look(body: bytes) -> None:
    """Peek; too many places that may name models are refused."""
    with contextlib.suppress(Refusal):
        peek(body)


# What may name models is looked through in Python, up to a bound; and each tool that has a parameter `model`.
NAMING = ("ordinary: tools", "the name in many objects", "the name doubled in one object", "escapes")


@pytest.mark.parametrize("name", shapes(1))
def test_no_step_is_taken_for_each_token(name: str) -> None:
    small, large = shapes(20_000)[name], shapes(400_000)[name]

    few = calls_of(lambda: look(small))
    assert calls_of(lambda: look(large)) <= (60_000 if name in NAMING else few + 10)
    assert calls_of(lambda: replace_model(large, "n")) <= calls_of(lambda: replace_model(small, "n")) + 5_000


@pytest.mark.parametrize("name", shapes(1))
def test_reading_costs_no_more_than_a_few_times_the_decoding(name: str) -> None:
    body = shapes(1 << 20)[name]
    decoding = cpu(lambda: msgspec.json.decode(body)) + 0.002  # s

    assert cpu(lambda: look(body)) < 8 * decoding
    assert cpu(lambda: replace_model(body, "n")) < 10 * decoding


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    status = 200
    try:
        peek(body)
    except Refusal as refusal:
        status = refusal.status

    assert status in (200, 400)
