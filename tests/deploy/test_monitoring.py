"""What watches relayd: Prometheus's rules with their own tests, the dashboard, the page that says what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from relayd.daemon.admin.metric_list import METRICS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/relayd.rules.yaml"
DASHBOARD = ROOT / "deploy/grafana/relayd.json"
PROMTOOL = shutil.which("promtool")
OF_THE_SCRAPE = {"instance", "job"}

needs_promtool = pytest.mark.skipif(
    not (PROMTOOL or os.environ.get("CI")), reason="promtool is part of Debian's prometheus"
)


def promtool(*words: str | Path) -> str:
    done = subprocess.run([str(PROMTOOL), *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Where each query of the dashboard stands, and the query as Grafana would ask it."""
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for note in board["annotations"]["list"]:
        yield note["name"], note["expr"]


def asked(query: str) -> str:
    return query.replace("$__rate_interval", "5m").replace("$instance", ".*")


def series() -> dict[str, set[str]]:
    """The names under which Prometheus stores what relayd tells, each with its labels."""
    found = {"up": set[str]()}
    for metric in METRICS:
        histogram = metric.kind == "histogram"
        for name in [f"{metric.name}{end}" for end in ("_bucket", "_sum", "_count")] if histogram else [metric.name]:
            found[name] = {*metric.labels, *(["le"] if name.endswith("_bucket") else [])}
    return {name: labels | OF_THE_SCRAPE for name, labels in found.items()}


def unknown_in(query: str) -> list[str]:
    """Metrics and labels of a query that no scrape of relayd has."""
    known = series()
    bare = re.sub(r'"[^"]*"', '""', query)
    names = re.findall(r"\b(?:relayd|process)_\w+|\bup\b", bare)
    wrong = [name for name in names if name not in known]
    for name, matchers in re.findall(r"\b(\w+)\{([^}]*)\}", bare):
        wrong += [f"{name}{{{label}}}" for label in re.findall(r"(\w+)\s*[!=]", matchers) if label not in known[name]]
    everything = set().union(*(known[name] for name in names if name in known))
    for grouping in re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", bare):
        wrong += [f"by {label}" for label in re.findall(r"\w+", grouping) if label not in everything]
    return wrong


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("sum by (group) (relayd_ready)", ["by group"]),
        ('relayd_calls_total{state="ok"}', ["relayd_calls_total{state}"]),
        ("rate(relayd_call_first_byte_seconds[5m])", ["relayd_call_first_byte_seconds"]),
        ('sum by (le) (relayd_call_first_byte_seconds_bucket{job="x"})', []),
    ],
)
def test_a_metric_or_a_label_that_is_not_there_is_found(query: str, wrong: list[str]) -> None:
    assert unknown_in(query) == wrong


@needs_promtool
def test_the_rules_fire_when_they_should_and_only_then() -> None:
    promtool("check", "rules", "--lint-fatal", RULES)
    promtool("check", "config", "--syntax-only", RULES.with_name("prometheus.yaml"))
    promtool("test", "rules", RULES.with_name("relayd.rules.test.yaml"))


def test_each_alert_is_tried_and_has_its_lines_on_the_page() -> None:
    tests = yaml.safe_load(RULES.with_name("relayd.rules.test.yaml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    names = [alert["alert"] for alert in alerts()]
    assert sorted(fired) == sorted(names)
    page = (ROOT / "docs/monitoring.md").read_text()
    assert re.findall(r"^### (Relayd\w+)\n\n\S", page, re.MULTILINE) == names
    assert [alert["annotations"]["runbook"] for alert in alerts()] == [  # type: ignore[index]
        f"docs/monitoring.md#{name.lower()}" for name in names
    ]


def test_rules_and_dashboard_ask_only_for_metrics_that_exist() -> None:
    queries = [*dashboard_queries(), *((alert["alert"], alert["expr"]) for alert in alerts())]
    assert {place: wrong for place, query in queries if (wrong := unknown_in(asked(query)))} == {}
    legends = re.findall(r'"legendFormat": "([^"]*)"', DASHBOARD.read_text())
    labels = set().union(*series().values())
    assert {word for legend in legends for word in re.findall(r"\{\{(\w+)\}\}", legend)} <= labels


@needs_promtool
def test_each_query_of_the_dashboard_is_understood_by_prometheus(tmp_path: Path) -> None:
    """As a recording rule, for promtool 2.42 parses queries nowhere else."""
    rules = [
        {"record": f"query:{number}", "expr": asked(query)} for number, (_, query) in enumerate(dashboard_queries())
    ]
    assert len(rules) > 40
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "queries.yaml")


def test_the_panels_of_the_dashboard_have_their_own_numbers_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
