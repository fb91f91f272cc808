"""Screenshots of the admin pages, for docs/admin and the README: a demo tree, a week of traffic, a real Chromium.

    python tests/bench/admin_screenshots.py [DIRECTORY]      # docs/admin

Needs chromium, chromedriver, fonts-noto-cjk and the dependency group `pictures`.

Theory: the daemon runs with a clock that this script moves, so that a week passes in half a minute and the charts have
something to show. Pictures are written with a palette, which text and lines do well with.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
import import_paths

import_paths.add()

import attrs
import httpx2
from chromium import Chromium, chromium
from daemon import Daemon, key_text, start, write_tree
from pages_world import PASSWORD, admin_url, pages_table

from relayd.config.atomic import replace_file
from relayd.config.secrets.api_keys import mint
from relayd.config.secrets.seal import new_identity
from relayd.wire.current_models import LARGE, SMALL, USUAL

# The clock of the daemon: the real one, plus what stands in a file.
CLOCK = """\
import os, sys, time
real, place = time.time, os.environ["DEMO_CLOCK"]
def moved():
    with open(place) as file:
        return real() + float(file.read() or 0)
time.time = moved
from relayd.cli import main
sys.exit(main(sys.argv[1:]))
"""
WEEK = 6 * 86_400.0
ACCOUNTS = {
    "max-anna": 'name = "Anna\'s Max plan"\ngroups = ["plans"]\nmax_concurrency = 8',
    "max-ben": 'name = "Ben\'s Max plan"\ngroups = ["plans"]\nmax_concurrency = 8',
    "max-chloe": 'name = "Chloe\'s Max plan"\ngroups = ["plans"]\n[simulator]\nstatus = 429\nretry_after = 5400',
    "team-api": 'name = "Team key"\ngroups = ["plans", "api"]\npriority = 80',
    "batch-api": 'name = "Nightly batches"\ngroups = ["api"]\nmax_concurrency = 4',
    "spare": 'name = "Spare"\ngroups = ["api"]\npriority = 90\n[simulator]\nstatus = 529',
    "old-pro": 'name = "Old Pro plan"\nenabled = false\ngroups = ["plans"]',
}
KEYS = {
    "anna-laptop": ("Anna", "limits = { daily_requests = 120, concurrency = 4 }"),
    "ben-laptop": ("Ben", "limits = { daily_requests = 200 }"),
    "chloe-ci": ("Chloe", 'limits = { daily_cost = "5.00" }'),
    "nightly": ("Data team", 'groups = ["api"]\nlimits = { daily_cost = "20.00" }'),
    "docs-bot": ("Docs team", 'groups = ["api"]\nlimits = { daily_tokens = 200000 }'),
    "demo-booth": ("Sales", "limits = { daily_requests = 40 }\nexpires = 2027-03-01T00:00:00Z"),
}
MODELS = (USUAL, USUAL, SMALL, LARGE)
CLIENTS = ("claude-cli/2.1.0 (external, cli)", "Anthropic/Python 0.75.0", "openai-node/6.1.0")
PAGES = {
    "overview": "/web",
    "accounts": "/web/accounts",
    "account": "/web/accounts/max-anna",
    "keys": "/web/keys",
    "key": "/web/keys/anna-laptop",
    "calls": "/web/calls",
    "explain": f"/web/explain?key=anna-laptop&model={USUAL}",
    "reports": "/web/reports?by=owner",
    "config": "/web/config",
    "edit": "/web/edit/new-key",
    "audit": "/web/audit",
    "me": "/web/me",
}


@attrs.define(eq=False)
class Demo:
    """A daemon whose clock is moved."""

    daemon: Daemon
    clock: Path
    keys: dict[str, str]
    rng: random.Random

    def at(self, offset: float) -> None:
        replace_file(self.clock, str(offset).encode())

    def call(self, key: str) -> httpx2.Response:
        """One call, of any length, some by clients that misbehave."""
        headers = {"x-api-key": self.keys[key], "user-agent": self.rng.choice(CLIENTS)}
        words = round(self.rng.lognormvariate(4.5, 0.8))
        headers |= {"x-simulate-words": str(words), "x-simulate-first-byte": f"{self.rng.uniform(0.0, 0.03):.3f}"}
        if self.rng.random() < 0.02:
            headers["x-simulate-status"] = "400"
        model, text = self.rng.choice(MODELS), "word " * round(self.rng.lognormvariate(6, 1))
        ask = {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": text}]}
        return httpx2.post(f"{self.daemon.url}/v1/messages", headers=headers, json=ask, timeout=30)


def demo(root: Path) -> Demo:
    """A relay of a small team, with a week behind it."""
    rng = random.Random(7)
    keys = {name: mint(rng.randbytes) for name in KEYS}
    tree = write_tree(
        root,
        relay=pages_table(users={"anna": "editor", "ben": "viewer"})
        + f'\n[[secrets.recipients]]\nname = "prod"\npublic = "{new_identity(os.urandom).public.text}"\n',
        accounts={name: f'kind = "simulator"\n{more}\n' for name, more in ACCOUNTS.items()},
        keys={
            name: key_text(
                keys[name], f'owner = "{owner}"\n' + (more if "groups" in more else f'groups = ["plans"]\n{more}')
            )
            for name, (owner, more) in KEYS.items()
        },
    )
    clock = root / "clock"
    clock.write_text(str(-WEEK))
    os.environ["DEMO_CLOCK"] = str(clock)
    commit(tree)
    daemon = start(tree, program=("-c", CLOCK), environment={"RELAYD_NODE": "relay-1"})
    return Demo(daemon, clock, keys, rng)


def commit(tree: Path) -> None:
    """The tree as a repository with one commit."""
    (tree / ".gitignore").write_text("var/\n")
    run_git(tree, ("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "A key for the booth at the fair"))


def run_git(tree: Path, *commands: tuple[str, ...]) -> None:
    git = ("git", "-c", "user.name=Anna", "-c", "user.email=anna@example.com", "-C", str(tree))
    for words in commands:
        subprocess.run([*git, *words], check=True)


def change(tree: Path, name: str, old: str, new: str) -> None:
    """Change a key's file."""
    path = tree / "keys.d" / f"{name}.toml"
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))


def steps(rng: random.Random) -> Iterator[tuple[float, int]]:
    """Offsets of the clock, and how many calls there are then: days with nights, then the last hour by the minute."""
    for step in range(6 * 8):
        yield -WEEK + step * 10_800 + 3600, (1, 1, 2, 6, 9, 8, 5, 2)[step % 8]
    for minute in range(60):
        yield -3600.0 + minute * 60, rng.choice((1, 2, 2, 3, 3, 4)) + 2 * (35 < minute < 45)


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="relay-") as place:
        world = demo(Path(place))
        try:
            names = list(world.keys)
            for number, (offset, count) in enumerate(steps(world.rng)):
                world.at(offset)
                if number == 24:
                    change(world.daemon.tree, "chloe-ci", "5.00", "8.00")
                    run_git(world.daemon.tree, ("commit", "-q", "-a", "-m", "More for the tests of the release"))
                for _ in range(count):
                    world.call(world.rng.choice(names[:3] if world.rng.random() < 0.6 else names))
            world.at(0)
            last = world.call("anna-laptop").headers["relayd-request-id"]
            with chromium() as chrome:
                take(chrome, world.daemon, {**PAGES, "call": f"/web/calls/{last}"}, target)
        finally:
            world.daemon.stop()


def take(chrome: Chromium, daemon: Daemon, pages: dict[str, str], target: Path) -> None:
    """Every page in a light window, two of them in others."""
    base, tree = admin_url(daemon), daemon.tree
    chrome.size(1280, 800)
    chrome.theme("light")
    chrome.zone("UTC")
    chrome.open(f"{base}/web/sign-in?lang=en")
    shoot(chrome, target / "sign-in.png")
    chrome.fill(name="anna", password=PASSWORD)
    chrome.click("form button")
    for name, path in pages.items():
        chrome.open(base + path)
        if name == "config":
            change(tree, "demo-booth", "daily_requests", "daily_request")
            chrome.click("form[action='/web/config/reload']:not(:has([name=dry_run])) button")
        if name == "edit":
            change(tree, "demo-booth", "daily_request ", "daily_requests ")
            chrome.fill(id="erin-laptop", owner="Erin", groups="plans", daily_requests="150")
            chrome.click("form[action='/web/edit/preview'] button")
        if name == "me":
            chrome.click("form[action='/web/me/codes'] button")
        shoot(chrome, target / f"{name}.png")
    chrome.theme("dark")
    chrome.open(f"{base}/web")
    shoot(chrome, target / "overview-dark.png")
    chrome.size(360, 760)
    chrome.open(f"{base}/web?lang=ko")
    shoot(chrome, target / "overview-phone.png")


def shoot(chrome: Chromium, path: Path) -> None:
    """A picture of the window, small. Raises: SystemExit when it is not."""
    from PIL import Image

    chrome.driver.save_screenshot(str(path))
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(200).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path} {size / 1000:.0f} kB")
    if size > 100_000:
        sys.exit(f"{path}: {size} bytes, 100,000 wanted")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent / "docs" / "admin")
