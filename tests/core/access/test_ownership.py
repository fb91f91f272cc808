"""Ownership: who may reach an object, and how lists are cut into pages."""

from __future__ import annotations

import pytest
from builders import account, api_key, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.core.access.ownership import (
    Listed,
    OwnershipRecord,
    PageRequest,
    bound,
    check_batch,
    check_names,
    decode_ownership,
    encode_ownership,
    holder_topics,
    home,
    may_reach,
    ownership_of,
    page_of,
    read_window,
    unfit,
)
from relayd.wire.objects import (
    batch_requests,
    file_ids,
    may_name_files,
    read_page,
    with_results_url,
    write_page,
)
from relayd.wire.peek import Peeked
from relayd.wire.refusal import Refusal

names = st.text(max_size=8)


@given(names, names, names)
@settings(deadline=None, max_examples=50)
def test_a_deed_survives_the_state(account_id: str, key: str, owner: str) -> None:
    record = OwnershipRecord(kind="files", account=account_id, key=key, owner=owner)

    assert decode_ownership(encode_ownership(record)) == record


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"kind":"files"}', '{"kind":1}'])
def test_what_is_no_deed_is_none(text: str | None) -> None:
    assert decode_ownership(text) is None


def test_an_object_is_reached_by_its_key_and_by_keys_of_its_owner() -> None:
    made = ownership_of("files", "a", api_key(id="dev", owner="crew"))

    assert may_reach(made, "files", api_key(id="dev", owner="crew"))
    assert may_reach(made, "files", api_key(id="dev", owner="moved on"))
    assert may_reach(made, "files", api_key(id="mate", owner="crew"))
    assert not may_reach(made, "files", api_key(id="mate", owner="Crew"))
    assert not may_reach(made, "files", api_key(id="mate"))
    assert not may_reach(made, "batches", api_key(id="dev", owner="crew"))
    assert not may_reach(None, "files", api_key(id="dev", owner="crew"))


def test_an_empty_owner_is_nobody() -> None:
    assert not may_reach(ownership_of("files", "a", api_key(id="dev")), "files", api_key(id="other"))
    assert len(holder_topics("files", "dev", "")) == 1


def test_a_key_and_an_owner_of_one_name_have_different_topics() -> None:
    mine, owners = holder_topics("files", "crew", "crew")

    assert mine != owners
    assert owners not in holder_topics("files", "other", "")


def test_where_an_object_lives_is_said_when_it_cannot_be_reached_there() -> None:
    tree = snapshot(accounts=(account("a"), account("off", enabled=False)))

    def why(name: str) -> Refusal:
        with pytest.raises(Refusal) as error:
            home("files", "f", OwnershipRecord(kind="files", account=name, key="dev"), tree)
        return error.value

    assert home("files", "f", OwnershipRecord(kind="files", account="a", key="dev"), tree).id == "a"
    assert (why("gone").status, why("off").status) == (404, 409)
    assert why("gone").should_retry is why("off").should_retry is False


# --- batches


def peeked(model: str, max_tokens: int | None = None) -> Peeked:
    return Peeked(model=model, stream=False, max_tokens=max_tokens, user_id="")


def test_the_models_of_a_batch_are_known_once_each() -> None:
    found = check_batch([peeked("b"), peeked("a"), peeked("b")], api_key(), snapshot())

    assert found == ("a", "b")


def test_one_forbidden_model_refuses_the_batch() -> None:
    with pytest.raises(Refusal, match=r"403 requests\.1\.params\.model: opus is not allowed"):
        check_batch([peeked("sonnet"), peeked("opus")], api_key(deny_models=("opus",)), snapshot())


def test_accounts_that_would_rename_or_refuse_a_model_are_unfit() -> None:
    tree = snapshot(
        accounts=(
            account("fits"),
            account("renames", model_map={"x": "y"}),
            account("keeps", model_map={"x": "x"}),
            account("lacks", models=("y",)),
        )
    )

    assert unfit(["x", "y"], tree) == {"renames": "does not serve x", "lacks": "does not serve x"}
    assert unfit([], tree) == {}


# --- threads and containers

THREE = snapshot(accounts=(account("a"), account("b"), account("off", enabled=False)))
KEPT = {"msg_1": "threads", "container_1": "containers"}


def kept_on(thread: str = "a", container: str = "a", **fields: str) -> dict[str, OwnershipRecord | None]:
    made = {"key": "dev", "owner": "", **fields}
    return {
        "msg_1": OwnershipRecord(kind="threads", account=thread, **made),
        "container_1": OwnershipRecord(kind="containers", account=container, **made),
    }


def test_a_call_goes_to_the_account_of_its_thread_and_container() -> None:
    assert set(bound(kept_on(), api_key(), THREE, KEPT)) == {"b", "off"}
    assert set(bound(kept_on(key="x", owner="crew"), api_key(owner="crew"), THREE, KEPT)) == {"b", "off"}


@pytest.mark.parametrize(
    ("records", "status", "error_code"),
    [
        (kept_on(key="other"), 404, "thread_not_found"),
        ({"msg_1": None, "container_1": None}, 404, "thread_not_found"),
        (kept_on(thread="off"), 404, "thread_not_found"),
        (kept_on(thread="gone"), 404, "thread_not_found"),
        ({**kept_on(), "container_1": None}, 404, ""),
        (kept_on(container="off"), 409, ""),
        (kept_on(container="b"), 400, ""),
        ({**kept_on(), "msg_1": OwnershipRecord(kind="files", account="a", key="dev")}, 404, "thread_not_found"),
    ],
)
def test_what_another_keeps_or_nobody_does_not_exist(records, status: int, error_code: str) -> None:
    with pytest.raises(Refusal) as error:
        bound(records, api_key(), THREE, KEPT)
    assert (error.value.status, error.value.error_code) == (status, error_code)


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 129, "é"])
def test_what_is_no_id_is_not_looked_up(name: str) -> None:
    with pytest.raises(Refusal, match="404"):
        check_names({name: "containers"})


def test_only_what_is_listed_has_topics() -> None:
    assert holder_topics("threads", "dev", "crew") == holder_topics("containers", "dev", "crew") == ()


@pytest.mark.parametrize("kind", ["files", "batches", "threads", "containers"])
def test_a_record_of_each_kind_comes_back(kind) -> None:
    record = OwnershipRecord(kind=kind, account="a", key="dev", owner="crew")
    assert decode_ownership(encode_ownership(record)) == record


# --- files that a body names


def files_on(**homes: str) -> dict[str, OwnershipRecord | None]:
    return {name: OwnershipRecord(kind="files", account=home, key="dev") for name, home in homes.items()}


def test_a_call_is_bound_to_the_account_of_its_files() -> None:
    assert bound(files_on(f="a", g="a"), api_key(), THREE) == {"b": "file f lives on a", "off": "file f lives on a"}
    assert bound({"f": None}, api_key(), THREE) == {}
    assert bound({}, api_key(), THREE) == {}


@pytest.mark.parametrize(
    ("homes", "key", "text"),
    [
        ({"f": "a", "g": "b"}, "dev", "400 file f and file g live on different accounts"),
        ({"f": "a"}, "other", "404 file not found: f"),
        ({"f": "gone"}, "dev", "404 file f lives on account gone, which is no longer configured"),
        ({"f": "off"}, "dev", "409 file f lives on account off, which is disabled"),
    ],
)
def test_a_call_whose_files_it_cannot_have_is_refused(homes: dict[str, str], key: str, text: str) -> None:
    with pytest.raises(Refusal, match=text):
        bound(files_on(**homes), api_key(id=key), THREE)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"messages":[{"content":[{"type":"document","source":{"type":"file","file_id":"file_1"}}]}]}', {"file_1"}),
        (b'{"a":{"fil\\u0065_id":"file_\\u0031"}}', {"file_1"}),
        (b'{"properties":{"file_id":{"type":"string"}}, "x":{"file_id":"two words"}}', set()),
        (b'{"text":"\\"file_id\\":\\"file_1\\""}', set()),
        (b'{"x":{"file_id":"file_1","file_id":"file_2"},"x":{}}', {"file_1", "file_2"}),
        (b'{"x":{"file\\u005fid":"file_1","file_id" :\n"file_2"},"x":{}}', {"file_1", "file_2"}),
        (b'{"file_id":', set()),
        (b"[" * 100_000, set()),
    ],
)
def test_the_files_that_a_body_names_are_found(body: bytes, found: set[str]) -> None:
    assert (file_ids(body) if may_name_files(body) else set()) == found


def test_a_model_in_a_tools_schema_is_not_the_requests_own() -> None:
    body = b'{"requests":[{"custom_id":"1","params":{"model":"a","tools":[{"input_schema":{"model":{}}}]}}]}'

    assert [one.model for one in batch_requests(body)] == ["a"]


def test_letters_in_another_spelling_do_not_hide_a_second_list() -> None:
    body = b'{"requests":[{"params":{"model":"a"}}],"re\\u0071uests":[{"params":{"model":"b"}}]}'

    with pytest.raises(Refusal, match="400 requests: the key appears twice"):
        batch_requests(body)


def test_text_beyond_ascii_in_a_batch_is_no_fault() -> None:
    body = '{"requests":[{"custom_id":"é\\u00e9\\u0065","params":{"model":"a","x":"params \\"params\\""}}]}'.encode()

    assert [one.model for one in batch_requests(body)] == ["a"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"results_url":null}', b'{"results_url":null}'),
        (b'{"a":{"results_url":"x"}}', b'{"a":{"results_url":"x"}}'),
        (b'{ "results_url" : "x" , "n":1.0 }', b'{ "results_url" : "http://r" , "n":1.0 }'),
        (b'{"id":"results_url"}', b'{"id":"results_url"}'),
        (b"[]", b"[]"),
    ],
)
def test_only_the_value_of_results_url_changes(before: bytes, after: bytes) -> None:
    assert with_results_url(before, "http://r") == after


# --- lists


def listed(name: str, day: int) -> Listed:
    return Listed(name, f"2026-01-{day:02}T00:00:00Z", b'{"id":"%s"}' % name.encode())


def test_the_newest_come_first_and_those_of_one_moment_keep_their_order() -> None:
    page, more = page_of([listed("a", 1), listed("b", 3), listed("c", 3), listed("d", 2)], PageRequest(limit=3))

    assert [one.id for one in page] == ["b", "c", "d"]
    assert more


@given(st.lists(st.integers(1, 28), max_size=30), st.integers(1, 7))
@settings(deadline=None, max_examples=50)
def test_walking_forwards_and_backwards_meets_each_object_once(days: list[int], limit: int) -> None:
    things = [listed(f"x{at}", day) for at, day in enumerate(days)]
    everything = [one.id for one in page_of(things, PageRequest(limit=1000))[0]]

    there: list[str] = []
    more = True
    while more:
        page, more = page_of(things, PageRequest(limit=limit, after=there[-1] if there else ""))
        there += [one.id for one in page]
    assert there == everything

    back: list[str] = everything[-1:]
    more = bool(back)
    while more:
        page, more = page_of(things, PageRequest(limit=limit, before=back[0]))
        back = [one.id for one in page] + back
    assert back == everything


def test_a_query_is_split_into_what_is_ours_and_what_is_the_upstreams() -> None:
    window = read_window("limit=5&page=page_file_1&beta=true&ids[]=a&ids[]=b&scope_id=x%20y")

    assert window == PageRequest(limit=5, after="file_1", ids=("a", "b"), rest="beta=true&scope_id=x+y")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=-1", "limit=1e3", "limit=٣"])
def test_a_limit_that_is_none_is_refused(query: str) -> None:
    with pytest.raises(Refusal, match="400 limit"):
        read_window(query)


def test_a_page_that_was_written_can_be_read() -> None:
    rows = [("a", b'{"id":"a","created_at":"2026"}'), ("b", b'{"id": "b", "n": 1.0}')]

    assert read_page(write_page(rows, True)) == ([("a", "2026", rows[0][1]), ("b", "", rows[1][1])], "page=page_b")
    assert read_page(write_page([], False)) == ([], "")
