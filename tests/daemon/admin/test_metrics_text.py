"""/metrics of a whole daemon: every metric is on the list and in the documentation, and no client can add a series."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs
import pytest
from fakes import ASK
from fleet import noon_zone
from prometheus_text import Told, read_text
from reload_world import World, living, make_tree

from relayd.config.snapshot import ObjectId
from relayd.daemon.admin.exposition import exposition
from relayd.daemon.admin.key_limits import MOST_KEYS, limited_keys
from relayd.daemon.admin.metric_list import METRICS
from relayd.daemon.admin.scrape import scrape

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
LIMITS = '[limits]\nconcurrency = 4\ndaily_tokens = 1_000_000\nmonthly_cost = "20"\n'
SLOW = 'kind = "simulator"\nmax_concurrency = 3\n[simulator]\nwords = 9\nbetween = "10s"\n'
# Missing from a node that does not pull its tree, or sends no traces.
ELSEWHERE = {
    "relayd_source_fetch_age_seconds", "relayd_source_held", "relayd_source_fetches_total",
    "relayd_telemetry_spans_total", "relayd_telemetry_queued",
}  # fmt: skip


async def told(world: World) -> dict[str, Told]:
    return read_text(await scrape(world.sources, time.time))


async def test_every_metric_is_on_the_list_with_its_type_and_labels_and_says_what_is(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", keys=2)
    tree.relay(f'[state]\ntimezone = "{noon_zone()}"')  # all of one day
    tree.write("accounts.d/a.toml", SLOW)
    tree.key(0, LIMITS)
    async with living(tree, watch=False) as world:
        await world.until(lambda: world.cluster.known)
        assert (await world.call()).status == 200
        client = await world.stream()
        during = await told(world)
        client.stream.socket.close()
        await world.until(lambda: not world.sources.streams())
        after = await told(world)
        while after["relayd_key_limit_used"].value(key="k0", limit="slots"):  # it is settled a moment later
            after = await told(world)

    known = {metric.name: metric for metric in METRICS}
    assert len(known) == len(METRICS)
    assert known.keys() - after.keys() == ELSEWHERE
    for name, family in after.items():
        assert (family.kind, family.help) == (known[name].kind, known[name].meaning.replace("\\", "\\\\"))
        assert family.labels <= {*known[name].labels, *(["le"] if family.kind == "histogram" else [])}

    assert during["relayd_streams_open"].value() == 1
    assert during["relayd_leases_held"].value() == 1
    assert during["relayd_account_max_concurrency"].value(account="a") == 3
    assert during["relayd_key_limit_used"].value(key="k0", limit="slots") == 1
    assert after["relayd_streams_open"].value() == after["relayd_leases_held"].value() == 0
    tokens = sum(after["relayd_tokens_total"].samples.values())
    assert after["relayd_key_limit_used"].value(key="k0", limit="tokens/day") == tokens > 0
    assert after["relayd_key_limit_allowed"].value(key="k0", limit="tokens/day") == 1_000_000
    assert after["relayd_key_limit_allowed"].value(key="k0", limit="cost/month") == 20
    assert after["relayd_key_limit_used"].value(key="k0", limit="cost/month") == pytest.approx(
        after["relayd_cost_usd_total"].value(account="a")
    )
    assert sum(after["relayd_model_tokens_total"].samples.values()) == tokens
    assert after["relayd_verdicts_total"].value(account="a", blame="none", kind="ok") == 2
    assert after["relayd_state_batch_seconds"].samples[("_count",)] > 0
    assert after["relayd_state_info"].value(backend="sqlite") == 1


async def test_a_failed_attempt_says_whom_it_speaks_against(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.write("accounts.d/a.toml", 'kind = "simulator"\n[simulator]\nstatus = 429\nretry_after = 900\n')
    async with living(tree, watch=False) as world:
        assert (await world.call()).status == 429
        assert (await told(world))["relayd_verdicts_total"].value(account="a", blame="account", kind="rate") == 1


async def test_no_client_can_add_a_series(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:

        async def hostile(number: int) -> None:
            client = await world.connect()
            made_up = b"made-up-%d" % number
            await client.ask(ASK.replace(b"claude-sonnet-5-5", made_up))
            await client.ask(ASK, key=f"sk-relayd-{number}")
            await client.get(f"/v1/{number}")
            await client.get(f"/v1/models/{number}")

        await world.until(lambda: world.cluster.known)
        await hostile(0)
        before = await told(world)
        for number in range(1, 8):
            await hostile(number)
        after = await told(world)

    assert after["relayd_model_calls_total"].value(model="other") == 8
    assert {name: set(family.samples) for name, family in after.items()} == {
        name: set(family.samples) for name, family in before.items()
    }
    assert all("made-up" not in sample for family in after.values() for place in family.samples for sample in place)


async def test_a_scrape_goes_on_while_the_store_is_away(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.key(0, LIMITS)
    async with living(tree, watch=False) as world:
        world.sources.state.session.up = False
        found = await told(world)
        world.sources.state.session.up = True

    assert found["relayd_state_up"].value() == 0
    assert "relayd_key_limit_used" not in found


async def test_of_very_many_keys_those_that_call_have_their_limits_shown(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    tree.key(0, LIMITS)
    async with living(tree, watch=False) as world:
        snapshot = world.daemon.live.snapshot
        (key,) = snapshot.keys.values()

    keys = {f"a{number:04}": attrs.evolve(key, id=ObjectId(f"a{number:04}")) for number in range(MOST_KEYS + 50)}
    found = limited_keys(attrs.evolve(snapshot, keys=keys), {"a1049"}, 0)

    assert len({limit.key for limit in found}) == MOST_KEYS
    assert found[0].key == "a1049"
    assert [limit.label for limit in found[:3]] == ["slots", "tokens/day", "cost/month"]


@pytest.mark.parametrize(
    "text",
    [
        "x 1\n",
        "# HELP x h\n# TYPE x counter\nx 1\n",
        "# HELP x_total h\n# TYPE x_total counter\nx_total 1\nx_total 2\n",
        "# HELP x h\n# TYPE x gauge\ny 1\n",
        '# HELP x h\n# TYPE x gauge\nx{a="b"c} 1\n',
        "# HELP x h\nx 1\n",
        '# HELP x h\n# TYPE x histogram\nx_bucket{le="1"} 2\nx_bucket{le="+Inf"} 1\nx_sum 1\nx_count 1\n',
    ],
)
def test_the_reader_of_this_test_is_strict(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        read_text(text)


def test_the_page_has_every_metric() -> None:
    rows = ["| metric | type | |", "|---|---|---|"]
    for metric in METRICS:
        labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
        rows.append(f"| `{metric.name}{labels}` | {metric.kind} | {metric.meaning} |")
    before, rest = PAGE.read_text().split("<!-- begin metrics -->\n")
    after = rest.split("<!-- end metrics -->", 1)[1]
    expected = before + "<!-- begin metrics -->\n" + "\n".join(rows) + "\n<!-- end metrics -->" + after
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(expected)

    assert PAGE.read_text() == expected, f"{PAGE.name} is out of date (UPDATE_DOCS=1 pytest {__file__})"
    assert exposition([metric.at(0) for metric in METRICS if not metric.labels and metric.kind != "histogram"])
