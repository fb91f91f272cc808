"""The config metrics as Prometheus reads them."""

from __future__ import annotations

import re
from typing import Any

from relayd.core.cluster import Node
from relayd.core.inventory import Inventory, SealedFor
from relayd.daemon.admin.config_metrics import ConfigFacts, cluster_metrics, config_metrics, inventory_metrics
from relayd.daemon.admin.exposition import Metric, exposition

NAMES = [
    "last_reload_successful",
    "last_reload_success_timestamp_seconds",
    "applied_timestamp_seconds",
    "reloads_total",
    "reload_duration_seconds",
    "info",
    "out_of_sync_seconds",
    "held",
    "degraded",
    "restart_required",
    "generation",
    "generations_live",
    "watch_backend",
    "objects",
]

SAMPLE = re.compile(
    r'[a-z_]+(\{[a-z0-9_]+="(?:[^"\\\n]|\\["\\n])*"(,[a-z0-9_]+="(?:[^"\\\n]|\\["\\n])*")*\})? -?[0-9.e+-]+'
)


def facts(**fields: Any) -> ConfigFacts:
    dull: dict[str, Any] = {
        "now": 1000.0,
        "digest": "0123456789abcdef",
        "commit": "fedcba9876543210",
        "dirty": "false",
        "applied": 900.0,
        "in_step": True,
        "out_since": 0.0,
        "succeeded": 990.5,
        "rounds": {("sighup", "applied"): 2, ("poll", "rejected"): 1},
        "seconds": {"read": 0.25},
        "held": False,
        "degraded": False,
        "restart_required": 0,
        "generation": 3,
        "generations_live": 1,
        "backend": "inotify",
        "objects": {("key", "active"): 5},
    }
    return ConfigFacts(**{**dull, **fields})


def lines(**fields: Any) -> list[str]:
    return exposition(config_metrics(facts(**fields))).splitlines()


def test_every_line_is_of_the_format_and_every_metric_is_there() -> None:
    told = lines()
    samples = [line for line in told if not line.startswith("#")]

    assert all(SAMPLE.fullmatch(line) for line in samples), samples
    assert [line.split()[2] for line in told if line.startswith("# TYPE")] == [f"relayd_config_{n}" for n in NAMES]


def test_in_step_is_success_and_no_time_out_of_sync() -> None:
    told = lines()

    assert "relayd_config_last_reload_successful 1" in told
    assert "relayd_config_out_of_sync_seconds 0" in told
    assert 'relayd_config_info{tree_digest="0123456789ab",commit="fedcba987654",dirty="false"} 1' in told
    assert 'relayd_config_reloads_total{result="applied",trigger="sighup"} 2' in told


def test_out_of_step_is_failure_and_the_time_since_then() -> None:
    told = lines(in_step=False, out_since=940.0)

    assert "relayd_config_last_reload_successful 0" in told
    assert "relayd_config_out_of_sync_seconds 60" in told


def test_a_clock_that_was_set_back_makes_no_negative_time() -> None:
    assert "relayd_config_out_of_sync_seconds 0" in lines(in_step=False, out_since=2000.0)


def test_label_values_and_help_are_escaped() -> None:
    odd = Metric("x", "gauge", "a\\b\nc", ("name",)).each({'q"u\\o\nte': 1.5})

    assert exposition([odd]) == '# HELP x a\\\\b\\nc\n# TYPE x gauge\nx{name="q\\"u\\\\o\\nte"} 1.5\n'


def test_samples_are_in_the_order_of_their_labels() -> None:
    one = Metric("x", "counter", "h", ("a",)).each({"2": 1, "1": 2})

    assert exposition([one]).splitlines()[2:] == ['x{a="1"} 2', 'x{a="2"} 1']


def test_nodes_are_counted_by_tree_and_their_drift_is_a_time() -> None:
    common = {"model": "m", "since": 500.0, "seen": 1000.0}
    nodes = [Node(name=f"n{number}", life=str(number), tree=f"{number // 2:064x}", **common) for number in range(3)]
    told = exposition(cluster_metrics(nodes, 1000.0, -3600.5)).splitlines()

    assert 'relayd_nodes{tree_digest="000000000000"} 3' in told  # the first twelve digits
    assert "relayd_config_drift_seconds 0" in told
    assert "relayd_store_clock_ahead_seconds -3600.5" in told
    apart = [*nodes, Node(name="n3", life="3", tree="f" * 64, model="other", since=900.0, seen=1000.0)]
    told = exposition(cluster_metrics(apart, 1000.0, 0.0)).splitlines()
    assert 'relayd_nodes{tree_digest="ffffffffffff"} 1' in told
    assert "relayd_config_drift_seconds 100" in told
    assert all(SAMPLE.fullmatch(line) for line in told if not line.startswith("#"))


def test_sealed_values_are_counted_by_recipient_and_keys_that_end_have_a_time() -> None:
    recipients = (
        SealedFor(kid="a_-9ZZZZ", name="prod", state="retiring", values=0),
        SealedFor(kid="b0000000", name="", state="unknown", values=2),
    )
    told = exposition(inventory_metrics(Inventory(recipients=recipients, ends={"dev": 1.5e9}), 0)).splitlines()

    assert 'relayd_secret_sealed{kid="a_-9ZZZZ",recipient="prod"} 0' in told
    assert 'relayd_secret_sealed{kid="b0000000",recipient=""} 2' in told
    assert 'relayd_key_expires_timestamp_seconds{key="dev"} 1500000000' in told
    assert all(SAMPLE.fullmatch(line) for line in told if not line.startswith("#"))
