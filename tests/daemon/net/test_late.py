"""Late imports of modules that take their time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from relayd.daemon.net.late import load


async def test_who_asks_for_a_module_whose_import_has_begun_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "import_pace", (begun, go_on), raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slow_module_of_late.py").write_text(
        "import sys\nbegun, go_on = sys.import_pace\nbegun.set()\ngo_on.wait()\nwhole = True\n"
    )
    loaded: list[bool] = []

    async def ask() -> None:
        await load("slow_module_of_late")
        loaded.append(hasattr(sys.modules["slow_module_of_late"], "whole"))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.to_thread.run_sync(begun.wait, 30)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
    finally:
        sys.modules.pop("slow_module_of_late", None)
    assert loaded == [True, True]
