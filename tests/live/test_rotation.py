"""Rotating an identity (docs/sealed-secrets.md), step by step, with two daemons that have their own identity files."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import attrs
import daemon as daemons
import pytest
from builders import KEY
from cli_tree import Tree
from upstream_api import call_status, upstream

from relayd.config.secrets.api_keys import key_hash

SECRET = "sk-ant-api03-rotation-drill-0123456789"


@attrs.define(eq=False)
class Drill:
    """An operator's machine and two nodes; all look at one tree, each has a config directory with identities."""

    root: Path
    tree: Path

    def home(self, who: str) -> Path:
        folder = self.root / who / "relayd"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def environment(self, who: str) -> dict[str, str]:
        return {"XDG_CONFIG_HOME": str(self.home(who).parent)}

    def relayd(self, *words: str, who: str = "operator", stdin: str = "", code: int = 0) -> str:
        """Run a command; the result stands behind the talk."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("XDG_CONFIG_HOME", self.environment(who)["XDG_CONFIG_HOME"])
            ran = Tree(self.tree).run(*words, stdin=stdin)
        assert ran.code == code, ran.all
        return ran.err + ran.out

    def start(self, node: str) -> daemons.Daemon:
        (self.root / node).mkdir(exist_ok=True)
        state = self.root / node / "relayd.db"
        options = ("--node", node, "--state", f"sqlite:{state}", "--no-watch")
        return daemons.start(
            self.tree, *options, environment=self.environment(node), output=self.root / node / "daemon.log"
        )

    def reload(self, node: str, code: int = 0) -> str:
        return self.relayd("reload", "--control", str(self.root / node / "relayd.sock"), code=code)

    def give(self, node: str, name: str) -> None:
        """Deploy an identity."""
        shutil.copy2(self.home("operator") / name, self.home(node) / name)


def test_the_rotation_drill_serves_at_every_step_and_a_wrong_order_is_refused(tmp_path: Path) -> None:
    tree = daemons.write_tree(tmp_path, accounts={}, keys={})
    (tree / "keys.d").mkdir()
    (tree / "keys.d" / "dev.toml").write_text(f'hashes = [{{ sha256 = "{key_hash(KEY)}" }}]\n')
    drill = Drill(tmp_path, tree)
    with ExitStack() as stack:
        url, seen = stack.enter_context(upstream())
        # The tree and its first identity.
        old = drill.relayd("secret", "keygen", who="operator").strip().splitlines()[-1]
        drill.relayd("secret", "recipients", "add", "prod", old)
        drill.relayd("account", "add", "main", "--kind", "api-key", "--base-url", url, stdin=SECRET)
        for node in ("n1", "n2"):
            drill.give(node, "test.identity")
        n1, n2 = (drill.start(node) for node in ("n1", "n2"))
        for one in (n1, n2):
            stack.callback(one.kill)

        def both_serve() -> None:
            seen.clear()
            assert [call_status(one.port, KEY) for one in (n1, n2)] == [200, 200]
            assert seen == [SECRET] * 2

        both_serve()

        # 1 to 3: a new identity, listed, and everything sealed for both.
        new = drill.relayd("secret", "keygen").strip().splitlines()[-1]
        assert (drill.home("operator") / "test.2.identity").exists()
        drill.relayd("secret", "recipients", "add", "prod-2", new)
        assert "W-SEAL-RECIPIENT-MISSING" in drill.relayd("check")
        assert drill.reload("n1")  # harmless: nobody depends on the new one yet
        drill.relayd("secret", "reseal")
        drill.relayd("check", "--deny-warnings")
        for node in ("n1", "n2"):
            drill.reload(node)
        both_serve()

        # 5 before 4, a mistake: the nodes cannot open what is sealed for the new identity only.
        drill.relayd("secret", "recipients", "retire", "prod")
        assert "W-SEAL-RECIPIENT-STALE" in drill.relayd("check")
        drill.relayd("secret", "reseal")
        drill.relayd("check", "--deny-warnings")
        for node in ("n1", "n2"):
            refused = drill.reload(node, code=1)
            assert "sealed for recipient prod-2" in refused, refused
            assert "E-SEAL-NO-IDENTITY" in drill.relayd("check", "--env", who=node, code=1)
        both_serve()  # with the last good config
        assert "rejected" in drill.relayd("status", "--control", str(tmp_path / "n1" / "relayd.sock"), code=1)

        # 4, late, at one node; the other is restarted before it has the identity.
        drill.give("n1", "test.2.identity")
        drill.reload("n1")
        n2.stop()
        n2 = drill.start("n2")
        stack.callback(n2.kill)
        assert call_status(n1.port, KEY) == 200
        assert call_status(n2.port, KEY) != 200
        assert n2.wait_for("account.no_credential")
        drill.give("n2", "test.2.identity")
        drill.reload("n2")
        both_serve()

        # 6: the old identity goes, from the nodes and from the list.
        for node in ("n1", "n2"):
            (drill.home(node) / "test.identity").unlink()
        drill.relayd("secret", "recipients", "remove", "prod")
        for node in ("n1", "n2"):
            drill.reload(node)
            drill.relayd("check", "--env", "--deny-warnings", who=node)
        both_serve()
        n1.stop()
        n1 = drill.start("n1")
        stack.callback(n1.kill)
        both_serve()
        for one in (n1, n2):
            one.stop()
        assert all(SECRET not in (tmp_path / node / "daemon.log").read_text() for node in ("n1", "n2"))
