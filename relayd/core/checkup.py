"""Checkup: what is well and what is not with a node, its machine and its state store, and what to do about it.

Rule: pure; facts that somebody gathered come in, findings come out. A fact that could not be had is None and finds
nothing, for a checkup that guesses is worse than none. What is not well always says what to do.

Theory: a daemon knows how it serves (core/ailments); this is about what it stands on, and so it needs no daemon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relayd.noun import noun

# A token's expiry, a sealed signature and TLS certificates bear some seconds; HTTP's Date is to the second (RFC 9110
# section 5.6.7) and as old as the way back.
CLOCK_OFF = 30.0  # s
SLOW_STORE = 0.1  # s; a daemon waits 0.2 s for Redis before it takes that for an outage (state/opening)
LEAST_DISK = 512 << 20  # bytes; a WAL, a journal and a log of some days
LEAST_INODES = 1_000
LEAST_MEMORY = 256 << 20  # bytes
FEW_CLIENTS = 1_000  # max_connections is a bound that few nodes reach; below this a busy hour may
FULL = 0.9  # share of the descriptors in use that leaves no room for a burst
MIB = 1 << 20


@noun(kw_only=True)
class CheckupFinding:
    """One thing that was looked at.

    Args:
        area: "state", "tree", "identity", "accounts", "clock", "disk", "memory", "descriptors", "listeners", "unit",
            "permissions" or "daemon".
        what_to_do: "" where it is well.
    """

    area: str
    ok: bool
    text: str
    what_to_do: str = ""


@noun(kw_only=True)
class StoreState:
    """How a state store answered.

    Args:
        error: why it does not; "" when it does.
        seconds: for one question; None where none was asked.
        version: of Redis, or of the tables of SQLite.
        size: bytes of the file, or of Redis's memory.
        persistent: whether what is counted outlives the server; None where nobody tells.
        warnings: of the store, such as an eviction policy, each with what to do in brackets.
        ahead: s that its clock is ahead of ours.
    """

    name: str
    error: str = ""
    seconds: float | None = None
    version: str = ""
    size: int = 0
    persistent: bool | None = None
    warnings: tuple[str, ...] = ()
    ahead: float = 0.0


@noun(kw_only=True)
class Reached:
    """Whether an upstream could be reached, without a credential.

    Args:
        accounts: those that go there.
        error: why not; "" when it answered.
        ahead: s that our clock is ahead of its `Date`; None where it has none.
    """

    origin: str
    accounts: tuple[str, ...]
    error: str = ""
    seconds: float = 0.0
    ahead: float | None = None


@noun(kw_only=True)
class Room:
    """Room on the file system of a directory. `free`: bytes; `inodes`: None where the file system has no number."""

    place: str
    free: int
    inodes: int | None = None


@noun(kw_only=True)
class Descriptors:
    """Descriptors of a process.

    Args:
        used: None where it is another user's.
        clients: how many may be connected with so many.
        wanted: [server].max_connections.
    """

    limit: int
    used: int | None
    clients: int
    wanted: int
    whose: str


def store_findings(store: StoreState) -> Iterator[CheckupFinding]:
    """What there is to say of the state store."""
    if store.error:
        what, hint = split_hint(store.error)
        yield _bad("state", what, hint or "start the store, or see state.url in docs/state.md")
        return
    took = "" if store.seconds is None else f"answers in {store.seconds * 1000:.1f} ms, "
    size = f", {mebibytes(store.size)}" if store.size else ""
    text = f"{store.name}: {took}{store.version}{size}"
    fast = store.seconds is None or store.seconds < SLOW_STORE
    yield _judged("state", fast, text, "bring it nearer, or find out what keeps it busy")
    if store.persistent is not None:
        text = f"{store.name}: what is counted {'outlives' if store.persistent else 'is lost with'} a restart"
        yield _judged("state", store.persistent, text, "switch persistence on (appendonly yes)")
    for warning in store.warnings:
        what, hint = split_hint(warning)
        yield _bad("state", what, hint or "see docs/state.md")
    if abs(store.ahead) > CLOCK_OFF:
        text = f"{store.name}: its clock is {store.ahead:+.0f} s from this machine's"
        yield _bad("clock", text, "let NTP set both clocks (timedatectl set-ntp true)")


def reach_findings(upstreams: Sequence[Reached]) -> Iterator[CheckupFinding]:
    """What there is to say of the way to the upstreams, and of the clock as they see it."""
    for one in upstreams:
        names = ", ".join(one.accounts[:5]) + (f" and {len(one.accounts) - 5} more" if len(one.accounts) > 5 else "")
        if one.error:
            yield _bad("accounts", f"{names}: {one.error}", _way(one.error))
        else:
            yield _well("accounts", f"{names}: {one.origin} answers in {one.seconds * 1000:.0f} ms")
    told = [one for one in upstreams if one.ahead is not None]
    if told:
        nearest = min(told, key=lambda one: abs(one.ahead or 0.0))  # a proxy's cache, or an upstream, may be wrong
        text = f"this machine's clock is {nearest.ahead:+.0f} s from that of {nearest.origin}"
        right = abs(nearest.ahead or 0.0) <= CLOCK_OFF
        yield _judged("clock", right, text, "let NTP set the clock (timedatectl set-ntp true)")


def _way(error: str) -> str:
    if "dns:" in error:
        return "check the name in base_url or proxy, and this machine's resolver (/etc/resolv.conf)"
    if "tls:" in error:
        return "check this machine's clock and authorities (ca-certificates), and who answers in between"
    if "proxy" in error:
        return "check the account's proxy"
    return "check the network, the firewall and the account's base_url"


def room_findings(rooms: Sequence[Room]) -> Iterator[CheckupFinding]:
    """What there is to say of disks."""
    for room in rooms:
        enough = room.free >= LEAST_DISK and (room.inodes is None or room.inodes >= LEAST_INODES)
        inodes = "" if room.inodes is None or room.inodes >= LEAST_INODES else f" and {room.inodes} inodes"
        text = f"{room.place}: {mebibytes(room.free)}{inodes} free"
        yield _judged("disk", enough, text, "make room: a full disk stops the books and the log, not the calls")


def memory_findings(available: int | None, allowed: int) -> Iterator[CheckupFinding]:
    """What there is to say of memory. `available`: bytes that a new process could have; `allowed`: by limits."""
    if available is not None:
        least = min(available, allowed)
        text = f"{mebibytes(available)} available, {mebibytes(allowed)} allowed"
        yield _judged("memory", least >= LEAST_MEMORY, text, "give the machine or the unit more memory (MemoryMax=)")


def descriptor_findings(found: Descriptors | None) -> Iterator[CheckupFinding]:
    """What there is to say of descriptors."""
    if found is None:
        return
    more = "raise the limit (LimitNOFILE= in the unit, ulimit -n)"
    used = "" if found.used is None else f", {found.used} in use"
    text = f"{found.whose} may have {found.limit} descriptors open{used}: room for {found.clients} clients"
    full = found.used is not None and found.used > FULL * found.limit
    few = found.clients < min(found.wanted, FEW_CLIENTS)
    yield _judged("descriptors", not full and not few, text, more)


def worker_findings(workers: int, processors: int, most: int, own: int, allowed: int) -> Iterator[CheckupFinding]:
    """What there is to say of several processes; nothing where one serves.

    Args:
        most: [server].max_memory, bytes; 0 = any.
        own: bytes that they and their supervisor take before there is a call.
        allowed: bytes that all may have together.
    """
    if workers > 1:
        text = f"{workers} workers, and {processors} processor{'s' * (processors > 1)} that they may use"
        yield _judged("workers", workers <= processors, text, 'more do not serve more: [server].workers = "auto"')
    if workers > 1 and own > allowed // 2:
        text = f"{workers} workers take {mebibytes(own)} before they have a call, {mebibytes(allowed)} allowed"
        todo = "lower [server].workers or allow more memory (MemoryMax=)"
        yield CheckupFinding(area="workers", ok=False, text=text, what_to_do=todo)
    if workers > 1 and most:
        text = f"{workers} workers may have {mebibytes(workers * most)} together, {mebibytes(allowed)} allowed"
        yield _judged("workers", workers * most <= allowed, text, "lower [server].max_memory or the number of workers")


def version_finding(running: str, installed: str) -> CheckupFinding:
    """Whether what runs is what is installed."""
    text = f"relayd {running} runs" + ("" if running == installed else f", and {installed} is installed")
    return _judged("daemon", running == installed, text, "restart the daemon (systemctl restart relayd)")


def split_hint(text: str) -> tuple[str, str]:
    """A text of ours that ends with what to do, in brackets of either kind: the text, and that."""
    what, hint = split_advice(text)
    if hint:
        return what, hint
    what, bracket, hint = text.rpartition(" (")
    return (what, hint[:-1]) if bracket and hint.endswith(")") else (text, "")


def split_advice(text: str) -> tuple[str, str]:
    """The same where only square brackets say what to do, and round ones belong to the text."""
    what, bracket, hint = text.rpartition(" [")
    return (what, hint[:-1]) if bracket and hint.endswith("]") else (text, "")


def mebibytes(size: int) -> str:
    """A size for people."""
    return f"{size / MIB:,.1f} MiB" if size < 10 * MIB else f"{size // MIB:,} MiB"


def _judged(area: str, ok: bool, text: str, what_to_do: str) -> CheckupFinding:
    return _well(area, text) if ok else _bad(area, text, what_to_do)


def _well(area: str, text: str) -> CheckupFinding:
    return CheckupFinding(area=area, ok=True, text=text)


def _bad(area: str, text: str, what_to_do: str) -> CheckupFinding:
    return CheckupFinding(area=area, ok=False, text=text, what_to_do=what_to_do)
