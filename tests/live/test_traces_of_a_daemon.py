"""A daemon that is stopped sends the traces that still wait."""

from __future__ import annotations

from pathlib import Path

import httpx2
from builders import KEY
from collector import collecting, values
from daemon import running, write_tree
from fakes import ASK
from waiting import PATIENCE


def test_what_waits_is_sent_before_the_end(tmp_path: Path) -> None:
    with collecting() as collector:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        with running(write_tree(tmp_path), environment=told) as daemon:
            answer = httpx2.post(f"{daemon.url}/v1/messages", headers={"x-api-key": KEY}, content=ASK, timeout=PATIENCE)
            assert answer.status_code == 200
            daemon.wait_for("call.done")

    (span,) = collector.spans
    assert values(span.attributes)["relayd.request_id"] == answer.headers["relayd-request-id"]
    assert KEY.encode() not in collector.raw
