"""The recorded corpus: what clients send and what the upstream gets; what the upstream streams and what clients read.

tests/corpus/openai/requests/*.json: a request of either dialect, the body made of it, and what was named as ignored or
mended.
tests/corpus/openai/streams/*: NAME.json has the request in both dialects, NAME.upstream.sse the upstream's stream,
NAME.chat.sse and NAME.responses.sse what the clients get.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openai_cases import CORPUS, DIALECTS, ignored, mended, parse, sent
from openai_cases import payloads as events

REQUESTS = sorted((CORPUS / "requests").glob("*.json"))
STREAMS = sorted((CORPUS / "streams").glob("*.json"))


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_a_recorded_request_becomes_the_recorded_body(path: Path) -> None:
    case = json.loads(path.read_text())
    call = parse(case["dialect"], case["request"], aliases=case.get("aliases", {}))
    assert sent(call) == case["upstream"]
    assert ignored(call) == case["ignored"]
    assert mended(call) == case.get("mended", [])


@pytest.mark.parametrize("dialect", ["chat", "responses"])
@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_recorded_stream_becomes_the_recorded_stream(path: Path, dialect: str) -> None:
    upstream = path.with_suffix(".upstream.sse").read_bytes()
    expected = path.with_suffix(f".{dialect}.sse").read_bytes()
    for size in (len(upstream), 1, 13, 1000):
        way = DIALECTS[dialect].translator(parse(dialect, json.loads(path.read_text())[dialect]))
        pieces = [way.feed(upstream[at : at + size]) for at in range(0, len(upstream), size)]
        assert b"".join(pieces) + way.finish() == expected


def test_the_corpus_is_there() -> None:
    assert len(REQUESTS) >= 16
    assert len(STREAMS) >= 5
    assert events((CORPUS / "streams" / "calls.chat.sse").read_bytes())[-1] == "[DONE]"
