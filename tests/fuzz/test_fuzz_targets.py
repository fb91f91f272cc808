"""The fuzz targets, fed with seeds that are damaged at random, and with every input that ever broke one."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

FOUND = sorted(path for path in Path(__file__).with_name("found").iterdir() if path.suffix != ".md")


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(data=st.data())
def test_damage_breaks_no_promise(name: str, data: st.DataObject) -> None:
    target, seeds = TARGETS[name]
    text = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    target(bytes(text))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_broke_a_target_once_does_not_again(path: Path) -> None:
    TARGETS[path.name.split("-")[0]][0](path.read_bytes())
