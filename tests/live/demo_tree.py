"""The tree of this repository, copied to where a daemon may keep its state beside it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO_KEY = re.findall(r"sk-relay-[0-9A-Za-z]{20,}", (ROOT / "README.md").read_text())[0]


def copied(root: Path) -> Path:
    """The sample tree below `root`, without an admin listener: several may run at once."""
    tree = root / "tree"
    for name in ("accounts.d", "keys.d", "tests.d"):
        shutil.copytree(ROOT / name, tree / name)
    text = (ROOT / "relay.toml").read_text()
    assert "[admin]" not in text
    (tree / "relay.toml").write_text(text + '\n[admin]\nlisten = ""\n')
    return tree
