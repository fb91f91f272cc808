"""relayd: a self-hosted relay for the Claude API, and a map of its rooms.

The idea in seven lines:

1. The operator writes TOML; `config` makes of it one frozen `Snapshot` with a `revision`.
2. A client asks; `wire` makes of its bytes a `Call`.
3. `core` decides everything (who, where, how often, how long to rest) with plain functions; the time is an argument.
4. `state` counts what must be shared and survive, behind one contract with two back ends, SQLite and Redis.
5. `daemon` does it; it is the only room with `async`. Colour is the wall.
6. Every call ends as one frozen `Receipt`; accounting, metrics and the access log all read that one record.
7. What must happen even under cancellation is sync (release, observe, record): no checkpoint, no torn state.

The rooms, and who may import whom (tests/test_architecture.py checks it):

    wire        how it is said: bytes and dialects            imports no other room
    config      what the operator wrote: text to Snapshot     imports no other room
    core        what to do: decisions, given `now` and `rng`  imports wire, config
    state       what is counted; sync                         imports wire, config, core's nouns
    simulator   a Claude API that needs no account            imports wire, config
    daemon      doing it, on trio                             imports every room above
    cli         asking for it: one verb a file                imports every room

A call flows `Request -> Call -> ApiKey -> Plan -> Lease -> Outbound -> Inbound -> Verdict -> Usage -> Receipt`;
daemon/proxy/call.py shows it whole. docs/architecture.md draws this map.
"""

__version__ = "0.1.0"
