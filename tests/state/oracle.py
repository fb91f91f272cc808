"""An independent reading of the state contract: a list of events, no buckets, no counters, nothing shared with a store.

Slow and simple on purpose. It knows windows only by summing up what happened, so it tells whether a store's bookkeeping
is true, not whether it is the same bookkeeping. What the buckets of a rolling window may do late, and only that, is
stated here in its own terms: an event is forgotten together with the last event of its bucket.
"""

from __future__ import annotations

import attrs

from relayd.core.quota.limits import Calendar, Rolling, Slots, Term, TermLevel
from relayd.core.quota.usage_record import COUNTS, DIMENSIONS, UsageRecord
from relayd.core.quota.windows import FOREVER
from relayd.state import contract as c


@attrs.define(eq=False)
class Event:
    """Something that a call took of a window."""

    call: str
    counter: str
    unit: str
    at: int
    amount: int
    start: int = -1  # of a calendar window; -1 = rolling
    late: bool = False  # told after the fact; late ones share no bucket with others


@attrs.define
class Life:
    """A call, from its admission on."""

    state: str  # open, settled, reaped
    until: int
    orphan: UsageRecord | None = None
    checkpoint: UsageRecord | None = None
    booked: UsageRecord | None = None
    slots: tuple[str, ...] = ()
    likely: int = 0


def _takes(record: UsageRecord | None, unit: str) -> int:
    if record is None:
        return 0
    return {"requests": record.requests, "tokens": record.tokens, "cost": record.cost}[unit]


@attrs.define
class Oracle:
    now: int = 0
    seen: int = 0
    events: list[Event] = attrs.field(factory=list)
    calls: dict[str, Life] = attrs.field(factory=dict)
    holders: dict[str, dict[str, int]] = attrs.field(factory=dict)
    booked: list[UsageRecord] = attrs.field(factory=list)
    unbooked: list[UsageRecord] = attrs.field(factory=list)
    pins: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    notes: list[tuple[str, c.Note]] = attrs.field(factory=list)
    nodes: dict[str, tuple[str, int, int]] = attrs.field(factory=dict)

    def apply(self, clock: int, op: c.Op) -> c.Answer:
        self.now = self.seen if clock < self.seen <= clock + 5000 else clock
        self.seen = self.now
        answer: c.Answer = getattr(self, f"on_{type(op).__name__.lower()}")(op)
        return answer

    # windows by their events

    def gone_at(self, term: Rolling) -> list[tuple[int, Event]]:
        """When each event leaves the window: with the last one of its bucket."""
        mine = [event for event in self.events if event.counter == term.counter and event.start < 0]
        length = max(1, -(-term.window // 60))
        last: dict[tuple[bool, int], int] = {}
        for event in mine:
            bucket = event.late, event.at // length
            last[bucket] = max(last.get(bucket, 0), event.at)
        return [(last[event.late, event.at // length] + term.window, event) for event in mine]

    def live(self, term: Rolling) -> list[tuple[int, int]]:
        """(when it is forgotten, amount) for each event that still counts."""
        return [(gone, event.amount) for gone, event in self.gone_at(term) if gone > self.now]

    def forget(self, term: Rolling) -> None:
        """What has left the window stays out of it, though a late event may fall into the same bucket."""
        dead = [event for gone, event in self.gone_at(term) if gone <= self.now]
        self.events = [event for event in self.events if event not in dead]

    def in_calendar(self, term: Calendar) -> int:
        return sum(one.amount for one in self.events if one.counter == term.counter and one.start == term.start)

    def held(self, counter: str) -> dict[str, int]:
        return {who: until for who, until in self.holders.get(counter, {}).items() if until > self.now}

    def true_rolling(self, term: Rolling) -> int:
        """What really happened within the window that ends now."""
        return sum(
            one.amount
            for one in self.events
            if one.counter == term.counter and one.start < 0 and one.at > self.now - term.window
        )

    def room_at(self, term: Term, holder: str, now: int) -> bool:
        """Whether the term would have room at `now` if nothing else happened."""
        if isinstance(term, Rolling):
            used = sum(amount for gone, amount in self.live(term) if gone > now)
            return used + term.cost <= term.limit
        if isinstance(term, Calendar):
            return now >= term.end or self.in_calendar(term) + term.cost <= term.limit
        held = self.held(term.counter)
        return holder in held or sum(until > now for until in held.values()) < term.limit

    def wait(self, term: Term, holder: str) -> int | None:
        """ms until there is room; None when there is now."""
        if self.room_at(term, holder, self.now):
            return None
        if isinstance(term, Calendar):
            return FOREVER - self.now if term.cost > term.limit else term.end - self.now
        moments = (
            [gone for gone, _ in self.live(term)]
            if isinstance(term, Rolling)
            else list(self.held(term.counter).values())
        )
        open_at = [moment for moment in sorted(moments) if self.room_at(term, holder, moment)]
        return (open_at[0] if open_at else FOREVER) - self.now

    def likely_wait(self, term: Term, key: str) -> int | None:
        """ms until open calls of the key will likely have made room by giving everything back."""
        if isinstance(term, Slots) or term.unit == "requests":
            return None
        if isinstance(term, Rolling):
            counted = [event for gone, event in self.gone_at(term) if gone > self.now]
        else:
            counted = [one for one in self.events if one.counter == term.counter and one.start == term.start]
        used = sum(event.amount for event in counted)
        holding = []
        for event in counted:
            life = self.calls.get(event.call)
            if life and life.state == "open" and life.orphan and life.orphan.key == key:
                holding.append((life.likely, event.amount))
        for moment in sorted({at for at, _ in holding}):
            left = used - sum(amount for at, amount in holding if at <= moment)
            if left + term.cost <= term.limit:
                return max(moment - self.now, 1)
        return None

    def take(self, terms: tuple[Term, ...], holder: str, key: str = "") -> c.Answer:
        if any(isinstance(term, Calendar) and not term.start <= self.now < term.end for term in terms):
            return c.Stale(now=self.now)
        refused = []
        for index, term in enumerate(terms):
            wait = self.wait(term, holder)
            if wait is not None:
                likely = self.likely_wait(term, key) if key else None
                held = likely is not None and likely < wait
                refused.append((likely if held else wait, -index, held))
        if refused:
            wait, index, held = max(refused)
            return c.Denied(term=-index, retry=wait, now=self.now, held=held)
        for term in terms:
            if isinstance(term, Slots):
                self.holders.setdefault(term.counter, {})[holder] = self.now + term.ttl
            else:
                start = term.start if isinstance(term, Calendar) else -1
                self.events.append(Event(holder, term.counter, term.unit, self.now, term.cost, start))
        return c.Granted(now=self.now, levels=tuple(self.level(term) for term in terms))

    def level(self, term: Term) -> TermLevel:
        if isinstance(term, Rolling):
            live = self.live(term)
            return TermLevel(sum(amount for _, amount in live), max([gone for gone, _ in live], default=self.now))
        if isinstance(term, Calendar):
            return TermLevel(self.in_calendar(term), term.end)
        held = self.held(term.counter)
        return TermLevel(len(held), max(held.values(), default=self.now))

    # calls

    def life(self, call: str) -> Life | None:
        life = self.calls.get(call)
        return None if life and life.state != "open" and life.until <= self.now else life

    def on_admit(self, op: c.Admit) -> c.Answer:
        life = self.life(op.call)
        if life:
            return c.Granted(now=self.now, again=True) if life.state == "open" else c.Closed()
        self.disown(op.call)  # an id whose tombstone was forgotten begins anew; its old events stay what they were
        answer = self.take(op.terms, op.call, op.orphan.key)
        if isinstance(answer, c.Granted):
            slots = tuple(term.counter for term in op.terms if isinstance(term, Slots))
            likely = self.now + op.likely
            self.calls[op.call] = Life("open", self.now + op.ttl, orphan=op.orphan, slots=slots, likely=likely)
        return answer

    def disown(self, call: str) -> None:
        for event in self.events:
            if event.call == call:
                event.call = ""

    def finish(self, call: str, life: Life, record: UsageRecord | None) -> None:
        for event in self.events:
            if event.call == call:
                event.amount = _takes(record, event.unit)
        for counter in life.slots:
            self.holders.get(counter, {}).pop(call, None)
        if life.booked:
            self.unbooked.append(life.booked)
        if record:
            self.booked.append(record)

    def close(self, call: str, record: UsageRecord | None, terms: tuple[Term, ...], at: int) -> c.Answer:
        life = self.life(call)
        if life and life.state == "settled":
            return c.Settled(outcome="again")
        outcome = "unknown"
        if life:
            outcome = "settled" if life.state == "open" else "corrected"
            self.finish(call, life, record)
        elif record:
            at = min(at, self.now)
            for term in terms:
                if isinstance(term, Rolling) and at + term.window > self.now:
                    self.forget(term)
                    self.events.append(Event("", term.counter, term.unit, at, _takes(record, term.unit), late=True))
                if isinstance(term, Calendar) and self.now < term.end:
                    self.events.append(Event("", term.counter, term.unit, at, _takes(record, term.unit), term.start))
            self.booked.append(record)
        self.calls[call] = Life("settled", self.now + 6 * 3_600_000)
        return c.Settled(outcome=outcome)

    def on_settle(self, op: c.Settle) -> c.Answer:
        return self.close(op.call, op.record, op.terms, op.at)

    def on_void(self, op: c.Void) -> c.Answer:
        return self.close(op.call, None, (), 0)

    def on_renew(self, op: c.Renew) -> c.Answer:
        lost = []
        for call, checkpoint in op.calls:
            life = self.calls.get(call)
            if not life or life.state != "open" or life.until <= self.now:
                lost.append(call)
                continue
            life.until = self.now + op.ttl
            life.checkpoint = checkpoint or life.checkpoint
            for counter in life.slots:
                if call in self.held(counter):
                    self.holders[counter][call] = self.now + op.ttl
        for counter, holder in op.leases:
            if holder in self.held(counter):
                self.holders[counter][holder] = self.now + op.ttl
            else:
                lost.append(holder)
        return c.Renewed(lost=tuple(lost))

    def on_reap(self, op: c.Reap) -> c.Answer:
        due = sorted(
            (life.until, call)
            for call, life in self.calls.items()
            if life.state == "open" and (call.startswith(op.owner) if op.owner else life.until <= self.now)
        )
        if op.owner and not op.look:
            for counter in op.leases:
                for holder in [one for one in self.holders.get(counter, {}) if one.startswith(op.owner)]:
                    del self.holders[counter][holder]
        reaped = []
        for _, call in due[: op.limit]:
            life = self.calls[call]
            assert life.orphan
            record = life.orphan
            if life.checkpoint and life.checkpoint.tokens:
                record = life.checkpoint
            reaped.append((call, record))
            if not op.look:
                self.finish(call, life, record)
                self.calls[call] = Life("reaped", self.now + 7 * 86_400_000, booked=record)
        return c.Reaped(calls=tuple(reaped))

    def on_acquire(self, op: c.Acquire) -> c.Answer:
        answer = self.take(op.terms, op.holder)
        self.disown(op.holder)
        return answer

    def on_release(self, op: c.Release) -> c.Answer:
        for counter in op.counters:
            self.holders.get(counter, {}).pop(op.holder, None)
        return c.Done()

    def on_peek(self, op: c.Peek) -> c.Answer:
        return c.TermLevels(now=self.now, levels=tuple(self.level(term) for term in op.terms))

    def on_report(self, op: c.Report) -> c.Answer:
        sums: dict[tuple[str, str, str, str], list[int]] = {}
        for sign, records in ((1, self.booked), (-1, self.unbooked)):
            for one in records:
                if (
                    op.first <= one.day <= op.last
                    and (not op.keys or one.key in op.keys)
                    and op.account in ("", one.account)
                ):
                    day, key, account, model = (getattr(one, name) if name in op.by else "" for name in DIMENSIONS)
                    total = sums.setdefault((day, key, account, model), [0] * len(COUNTS))
                    for position, name in enumerate(COUNTS):
                        total[position] += sign * getattr(one, name)
        rows = []
        for (day, key, account, model), total in sorted(sums.items()):
            if any(total):
                counts = dict(zip(COUNTS, total, strict=True))
                rows.append(UsageRecord(day=day, key=key, account=account, model=model, **counts))
        if op.most:
            rows = sorted(rows, key=lambda row: (-row.cost, -row.requests))[: op.most]
        return c.Reported(rows=tuple(rows))

    # pins, notes, nodes

    def on_pin(self, op: c.Pin) -> c.Answer:
        value, until = self.pins.get(op.name, ("", 0))
        if op.keep and until > self.now:
            return c.Pinned(value=value)
        self.pins[op.name] = (op.value, FOREVER if op.ttl is None else self.now + op.ttl)
        return c.Pinned(value=op.value)

    def on_getpin(self, op: c.GetPin) -> c.Answer:
        value, until = self.pins.get(op.name, ("", 0))
        if until <= self.now:
            return c.Pinned(value=None)
        if op.ttl is not None and until != FOREVER:
            self.pins[op.name] = (value, self.now + op.ttl)
        return c.Pinned(value=value)

    def on_unpin(self, op: c.Unpin) -> c.Answer:
        self.pins.pop(op.name, None)
        return c.Done()

    def on_publish(self, op: c.Publish) -> c.Answer:
        held = next((note for topic, note in self.notes if topic == op.topic and note.name == op.name), None)
        if op.expect is not None and op.expect != (held.version if held else 0):
            return c.Published(ok=held is not None and held.body == op.body, note=held)
        latest = max((note.version for topic, note in self.notes if topic == op.topic), default=0)
        note = c.Note(name=op.name, version=latest + 1, body=op.body)
        self.notes = [one for one in self.notes if (one[0], one[1].name) != (op.topic, op.name)] + [(op.topic, note)]
        return c.Published(ok=True, note=note)

    def on_gather(self, op: c.Gather) -> c.Answer:
        known = [note for topic, note in self.notes if topic == op.topic]
        began_anew = all(note.version < op.since for note in known)
        notes = [note for note in known if began_anew or note.version > op.since]
        return c.Gathered(now=self.now, notes=tuple(sorted(notes, key=lambda note: note.version)))

    def on_beat(self, op: c.Beat) -> c.Answer:
        self.nodes[op.node] = (op.body, self.now, self.now + op.ttl)
        return c.Done()

    def on_nodes(self, op: c.Nodes) -> c.Answer:
        alive = [
            c.Alive(node=node, body=body, seen=seen)
            for node, (body, seen, until) in sorted(self.nodes.items())
            if until > self.now
        ]
        return c.NodeList(nodes=tuple(alive))

    def on_ping(self, op: c.Ping) -> c.Answer:
        return c.Pong(now=self.now)
