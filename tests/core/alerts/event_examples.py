"""One example of each alert event, for docs/alerts.md and the tests that go over all of them."""

from relayd.core.alerts import events as e
from relayd.core.alerts import node_events as n
from relayd.wire.current_models import LARGE, SMALL

UNTIL = "2026-11-29T09:30:00Z"
REJECTED = "keys.d/dev.toml:4:1: error[E-UNKNOWN-KEY]: unknown key `limit`"
FILE = "/var/lib/relayd/dead-letters.jsonl"
REPORT = {
    "first": "2026-11-28", "requests": 1204, "errors": 11, "tokens": 9_412_077, "cost": "31.20", "error_rate": 0.0091,
    "unique_keys": 7,
    "top_models": [{"model": LARGE, "requests": 420, "tokens": 6_000_000, "cost": "27.85"},
                   {"model": SMALL, "requests": 784, "tokens": 3_412_077, "cost": "3.35"}],
    "top_keys": [{"key": "dev", "requests": 900, "tokens": 7_000_000, "cost": "22.10"}],
    "unpriced_models": [],
}  # fmt: skip

EXAMPLES: tuple[e.AlertEvent, ...] = (
    e.LimitNear(key="dev", owner="dev-team", limit="daily cost $50.00", used="$41.07", most="$50.00", resets=UNTIL),
    e.LimitReached(key="dev", owner="dev-team", limit="daily requests 1000", used="1,000 requests",
                   most="1,000 requests", resets=UNTIL),
    e.KeyExpiring(key="ci", owner="build", expires=UNTIL, left="a week"),
    e.AccountOut(account="main", reason="rate_limit_error (429)", until=UNTIL),
    e.AccountCredential(account="main", reason="invalid x-api-key (401)", until=UNTIL),
    e.AccountRecovered(account="main"),
    e.AccountUnusable(account="main", why="sealed for recipient k2, but only k1 is loaded"),
    e.AccountUsable(account="main"),
    e.OAuthRefreshFailed(account="max", reason="the token endpoint cannot be reached", failures=3, expires=UNTIL,
                         hint="tried again in 40 s"),
    e.OAuthCannotRefresh(account="max", reason="relay.toml: oauth.client_id is empty"),
    e.OAuthExpired(account="max", reason="the access token expired at 2026-11-29T09:30:00Z: invalid_grant"),
    e.OAuthRecovered(account="max", failures=3),
    e.OAuthRotationLost(account="max", hint="the new tokens were not stored; sign in again: relayd account login"),
    e.OAuthExpiring(account="max", expires=UNTIL, left="a day"),
    e.GroupDown(group="default", reason="group default: none of its accounts can serve (main: resting until 09:30:00)"),
    e.GroupUp(group="default"),
    e.ErrorsHigh(errors=31, calls=80, node="n1"),
    e.ErrorsNormal(node="n1"),
    e.PriceUnknown(model="claude-next-1", account="main"),
    n.ReloadRejected(told={"trigger": "event", "generation": 4, "problems": [REJECTED]}),
    n.ReloadHeld(told={"trigger": "source", "generation": 4, "reasons": ["12 of 14 keys would go"]}),
    n.ReloadDegraded(reason="relay.toml:3:1: error[E-TOML]: expected a value", stored=17),
    n.ReloadApplied(told={"trigger": "event", "generation": 5}),
    n.ReloadUnchanged(told={"trigger": "event", "generation": 4}),
    n.SourceFailed(source="https://git.example.com/relay.git#main", reason="could not resolve host"),
    n.SourceRecovered(source="https://git.example.com/relay.git#main"),
    n.FleetDrift(behind=("n2",), lead="n1", tree="3f9c2e1a77b0"),
    n.FleetAgrees(nodes=3),
    n.StateUnavailable(reason="redis://10.0.0.5:6379: connection refused"),
    n.StateAvailable(store="redis://10.0.0.5:6379"),
    n.StateSetAside(call="req_1", reason="a number that it cannot hold", file=FILE),
    n.StateLost(call="req_1", reason="a number that it cannot hold", file=FILE, problem="no space left on device"),
    n.DailyReport(told=REPORT),
    n.AlertTest(target="ops"),
)  # fmt: skip
