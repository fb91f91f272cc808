"""What reading a large body costs: CPU of `peek` and of an alias, as a ratio to decoding the same body.

    python tests/bench/peek_cost.py [--mib 8]

Each row is a shape that costs some reader much: many members, the watched names nested or as keys of a long object,
white space, escapes. The ratio says whether work is done once for each token in Python (then it is 20 and more).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import msgspec

from relayd.wire.peek import peek, replace_model


def shapes(size: int) -> dict[str, bytes]:
    """Bodies of about `size` bytes whose model is "m"."""
    rows = {
        "ordinary: text": (b"word word word ", b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'),
        "ordinary: tools": (
            b'{"name":"t","input_schema":{"properties":{"model":{"type":"string"}},"required":["model"]}},',
            b'{"tools":[%b 1],"model":"m"}',
        ),
        "numbers and blanks": (b"1, ", b'{"y": {"model": 1}, "x": [%b 1], "model": "m"}'),
        "the name in many objects": (b'{"model": "m"},', b'{"x":[%b 1], "model": "m"}'),
        "the name doubled in one object": (b'"model": "m",', b'{"x":{%b "y":1}, "model": "m"}'),
        "escapes": (b'"mode\\u006d": "\\u0061",', b'{"x":{%b "y":1}, "model": "m"}'),
        "not ASCII": ("äöü ".encode(), b'{"model": "m", "x": "%b"}'),
    }
    found = {name: frame.replace(b"%b", part * (size // len(part))) for name, (part, frame) in rows.items()}
    found["many members"] = b'{"model":"m",%b}' % b",".join(b'"%07x":1' % number for number in range(size // 12))
    return found


def cpu(act: Callable[[], object]) -> float:
    """CPU seconds of the fastest of three."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        act()
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=8)
    size = parser.parse_args().mib << 20
    print(f"{'body':<32} {'decode':>9} {'peek':>9} {'ratio':>6} {'alias':>9} {'ratio':>6}")
    for name, body in shapes(size).items():
        decoded = cpu(lambda body=body: msgspec.json.decode(body))
        read = cpu(lambda body=body: peek(body))
        renamed = cpu(lambda body=body: replace_model(body, "n"))
        print(
            f"{name:<32} {decoded * 1000:>6.1f} ms {read * 1000:>6.1f} ms {read / decoded:>6.2f}"
            f" {renamed * 1000:>6.1f} ms {renamed / decoded:>6.2f}"
        )


if __name__ == "__main__":
    main()
