from pathlib import Path

import pytest

from relayd.core.quota.usage_record import UsageRecord
from relayd.state.contract import Ping, Pong, StoreMisfit
from relayd.state.opening import open_store
from relayd.state.redis_address import parse_redis_url
from relayd.state.report import days_between, grouped, report_document, split_dimensions


@pytest.mark.parametrize("url", ["sqlite:var/relayd.db", "sqlite://var/relayd.db"])
def test_a_relative_path_counts_from_the_base(tmp_path: Path, url: str) -> None:
    store = open_store(url, realm="r", clock=lambda: 5, base=tmp_path)
    assert store.apply([Ping()]) == [Pong(now=5)]
    assert (tmp_path / "var" / "relayd.db").exists()
    store.close()


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    store = open_store(f"sqlite:{tmp_path}/a.db", realm="r", clock=lambda: 5, base=Path("/elsewhere"))
    assert store.name == f"sqlite:{tmp_path}/a.db"


@pytest.mark.parametrize(
    ("url", "kind", "addresses", "rest"),
    [
        ("redis://host", "server", (("host", 6379),), {}),
        ("redis://host:1/3", "server", (("host", 1),), {"db": 3}),
        ("redis://me@[::1]:2", "server", (("::1", 2),), {"user": "me"}),
        ("rediss://host?ca=/etc/ca.pem", "server", (("host", 6379),), {"tls": True, "ca": "/etc/ca.pem"}),
        (
            "redis+sentinel://a:1,b/main/2?sentinel_auth=yes",
            "sentinel",
            (("a", 1), ("b", 26379)),
            {"service": "main", "db": 2, "sentinel_auth": True},
        ),
        ("redis+cluster://a,b:7001", "cluster", (("a", 6379), ("b", 7001)), {}),
        ("rediss+cluster://a", "cluster", (("a", 6379),), {"tls": True}),
    ],
)
def test_a_redis_url_names_an_address(url: str, kind: str, addresses: object, rest: dict[str, object]) -> None:
    address = parse_redis_url(url)
    assert (address.kind, address.addresses) == (kind, addresses)
    assert {name: getattr(address, name) for name in rest} == rest


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host", "state.url: unknown scheme 'http' [sqlite, redis, rediss, redis+sentinel, redis+cluster]"),
        ("sqlite:", "state.url: the path is missing [sqlite:var/relayd.db]"),
        ("redis://", "state.url: '' is not a host:port"),
        ("redis://host:port", "state.url: 'host:port' is not a host:port"),
        ("redis://host/x", "state.url: 'x' is not a database number [a cluster has only 0]"),
        ("redis+cluster://host/1", "state.url: '1' is not a database number [a cluster has only 0]"),
        (
            "redis+sentinel://host",
            "state.url: the sentinels' name of the master is missing [redis+sentinel://host:26379/mymaster]",
        ),
        ("redis://host?timeout=3", "state.url: unknown option 'timeout' [ca, cert, key, sentinel_auth]"),
    ],
)
def test_a_url_that_means_nothing_is_refused_with_a_hint(url: str, message: str) -> None:
    with pytest.raises(StoreMisfit) as caught:
        open_store(url, realm="r", clock=lambda: 5)
    assert str(caught.value) == message


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(StoreMisfit) as caught:
        open_store("redis://user:hunter2@host", realm="r", clock=lambda: 5)
    assert "hunter2" not in str(caught.value)
    assert "state.password_file" in str(caught.value)


def test_a_password_is_in_no_repr() -> None:
    store = open_store("redis://host", realm="r", clock=lambda: 5, password="hunter2")
    assert "hunter2" not in repr(store) + store.name


# -- reports -------------------------------------------------------------------------------------------------------


def line(day: str, key: str, model: str, **counts: int) -> UsageRecord:
    return UsageRecord(day=day, key=key, account="main", model=model, **counts)


ROWS = [
    line("2026-11-21", "dev", "opus", input=10, output=5, cost=1_000_000),
    line("2026-11-22", "dev", "haiku", requests=3, errors=1, input=1, cost=10_000),
    line("2026-11-22", "ops", "opus", requests=4, output=2, cost=2_500_000, unpriced=1),
]


def test_days_are_counted_through_with_both_ends() -> None:
    assert days_between("2026-02-27", "2026-03-01") == ["2026-02-27", "2026-02-28", "2026-03-01"]
    assert days_between("2026-03-01", "2026-02-27") == []
    assert len(days_between("1900-01-01", "2026-03-01")) == 400


def test_rows_are_added_up_by_what_is_asked_for_dearest_first() -> None:
    assert [(row.key, row.requests, row.cost) for row in grouped(ROWS, ("key",))] == [
        ("ops", 4, 2_500_000),
        ("dev", 4, 1_010_000),
    ]
    assert [(row.day, row.tokens) for row in grouped(ROWS, ("day",))] == [("2026-11-21", 15), ("2026-11-22", 3)]


def test_a_report_has_its_totals_at_the_top_level() -> None:
    report = report_document(ROWS, "2026-11-21", "2026-11-22", by=("model",))
    assert (report["requests"], report["errors"], report["tokens"], report["cost"]) == (8, 1, 18, "3.51")
    assert (report["unique_keys"], report["error_rate"], report["unpriced"]) == (2, 0.125, 1)
    assert [row["model"] for row in report["top_models"]] == ["opus", "haiku"]
    assert [(row["model"], row["cost"]) for row in report["rows"]] == [("opus", "3.50"), ("haiku", "0.01")]


def test_a_report_is_made_by_owner_and_by_month_too() -> None:
    owners = {"dev": "ops", "ops": "alice"}  # an owner may be called as a key of somebody else is
    rows = [*ROWS, line("2026-12-01", "gone", "opus", cost=1)]

    def by(*names: str) -> list[tuple[str, ...]]:
        report = report_document(rows, "2026-11-21", "2026-12-01", by=names, owners=owners)
        return [(*(row[name] for name in names), row["cost"]) for row in report["rows"]]

    assert by("owner") == [("alice", "2.50"), ("ops", "1.01"), ("gone", "0.000001")]
    assert by("month") == [("2026-11", "3.51"), ("2026-12", "0.000001")]
    assert by("owner", "key") == [("alice", "ops", "2.50"), ("ops", "dev", "1.01"), ("gone", "gone", "0.000001")]
    assert split_dimensions("owner, month") == ("month", "owner")


def test_a_report_of_nothing_is_all_zero() -> None:
    report = report_document([], "2026-11-21", "2026-11-22")
    assert (report["requests"], report["cost"], report["error_rate"], report["rows"]) == (0, "0.00", 0.0, [])
