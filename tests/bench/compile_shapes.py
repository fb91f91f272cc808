"""What a hostile tree costs to compile: `compile_shapes.py`. CPU for n and for 4n lines of each shape, and their ratio.

A ratio near 4 says that the work grows with the file; near 16, with its square: then one file of 1 MB, which a
committer may add, delays every reload, and with it deny.toml.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from relayd.config.compile import compile_tree

RELAY = b'schema = 1\nrealm = "x"\n'
SHAPES: dict[str, Callable[[int], bytes]] = {
    "unknown tables": lambda n: b"".join(b"[a%d]\n" % i for i in range(n)),
    "unknown keys": lambda n: b"".join(b"k%d = 1\n" % i for i in range(n)),
    "unknown keys in one line": lambda n: b"limits = {" + b",".join(b' k%d = "1"' % i for i in range(n)) + b"}\n",
    "dotted keys": lambda n: b"".join(b"a.b%d = 1\n" % i for i in range(n)),
    "arrays of tables": lambda n: b"[[x]]\n" * n,
    "a chain of aliases": lambda n: b"[models]\n" + b"".join(b"k%d = 'k%d'\n" % (i, i + 1) for i in range(n)),
    "a ring of aliases": lambda n: b"[models]\n" + b"".join(b"k%d = 'k%d'\n" % (i, (i + 1) % n) for i in range(n)),
    "client rules": lambda n: b"".join(b'[clients.c%d]\nuser_agent = "x%d"\n' % (i, i) for i in range(n)),
    "secrets in clear": lambda n: b"".join(b"# sk-ant-%020d\n" % i for i in range(n)),
    "secrets in one line": lambda n: b"#" + b"".join(b" sk-ant-%020d" % i for i in range(n)) + b"\n",
    "comments": lambda n: b"# words\n" * n,
}
DENY: dict[str, Callable[[int], bytes]] = {
    "unknown tables": SHAPES["unknown tables"],
    "keys that are nobody's": lambda n: b"keys = [" + b",".join(b'"k%d"' % i for i in range(n)) + b"]\n",
}


def trees(n: int) -> dict[str, dict[str, bytes]]:
    """A tree for each shape, of about n lines."""
    found = {f"relay.toml: {name}": {"relay.toml": RELAY + shape(n)} for name, shape in SHAPES.items()}
    found.update({f"deny.toml: {name}": {"relay.toml": RELAY, "deny.toml": shape(n)} for name, shape in DENY.items()})
    return found


def main() -> None:
    for name, small in trees(1000).items():
        large = trees(4000)[name]
        spent = []
        for tree in (small, large):
            began = time.process_time()
            compile_tree(tree)
            spent.append(time.process_time() - began)
        print(f"{name:<40} {spent[0] * 1000:7.1f} ms {spent[1] * 1000:8.1f} ms {spent[1] / spent[0]:6.1f}")


if __name__ == "__main__":
    main()
