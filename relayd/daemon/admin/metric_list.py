"""Metric list: every metric that /metrics can have, with its type, labels and meaning.

Rule: names end in the unit, counters in `_total`, and are never reused for something else. The meaning is the HELP line
and the line in docs/metrics.md. Label values come from the config or from fixed words, never from clients.
"""

from __future__ import annotations

from collections.abc import Iterator

from relayd.daemon.admin.exposition import Metric

# --- calls

CALLS = Metric(
    "relayd_calls_total",
    "counter",
    "Calls that have ended, by status and by how: ok, refused (by relayd), upstream (its error was passed on),"
    " cut (broken off), left (the client went away), failed (a bug of relayd).",
    ("dialect", "outcome", "status"),
)
WORKERS = Metric("relayd_workers", "gauge", "Worker processes, by what they are at.", ("stage",))
WORKERS_REPLACED = Metric(
    "relayd_workers_replaced_total",
    "counter",
    "Workers replaced because they died, had become too large, or were told to end by somebody else.",
    ("reason",),
)
WORKER_MEMORY = Metric("relayd_worker_memory_bytes", "gauge", "Resident memory of a worker.", ("worker",))
WORKER_CALLS = Metric("relayd_worker_calls_in_flight", "gauge", "Calls under way in a worker.", ("worker",))
WORKER_CONNECTIONS = Metric("relayd_worker_connections_open", "gauge", "Client connections of a worker.", ("worker",))
CALLS_IN_FLIGHT = Metric("relayd_calls_in_flight", "gauge", "Calls under way.")
STREAMS_OPEN = Metric("relayd_streams_open", "gauge", "Answers that are being streamed to clients.")
FIRST_BYTE = Metric("relayd_call_first_byte_seconds", "histogram", "From the request's head to the first byte sent.")
DURATION = Metric("relayd_call_duration_seconds", "histogram", "From the request's head to the end of the answer.")
ATTEMPTS = Metric(
    "relayd_attempts_total",
    "counter",
    "Tries of calls on accounts, by the upstream's status; 0 = no answer.",
    ("account", "status"),
)
VERDICTS = Metric(
    "relayd_verdicts_total",
    "counter",
    "What tries of calls came to. kind: ok (the answer went to the client), rate, overload, outage or auth; blame: whom"
    " a failure speaks against (account, model, upstream, node or none).",
    ("account", "blame", "kind"),
)
TOKENS = Metric(
    "relayd_tokens_total",
    "counter",
    "Tokens consumed, by account; kind: input, cache_write_5m, cache_write_1h, cache_read or output.",
    ("account", "kind"),
)
COST = Metric("relayd_cost_usd_total", "counter", "Cost of calls that have a price, by account.", ("account",))
UNPRICED = Metric(
    "relayd_unpriced_calls_total",
    "counter",
    "Calls of a model without a price (prices.toml): no cost limit sees them.",
    ("account",),
)
KEY_CALLS = Metric("relayd_key_calls_total", "counter", "Calls that have ended, by key.", ("key",))
KEY_TOKENS = Metric("relayd_key_tokens_total", "counter", "Tokens consumed, by key.", ("key",))
KEY_COST = Metric("relayd_key_cost_usd_total", "counter", "Cost of calls that have a price, by key.", ("key",))
MODEL_CALLS = Metric(
    "relayd_model_calls_total",
    "counter",
    "Calls that have consumed tokens, by the model that answered; other = one that neither the tree nor a price names.",
    ("model",),
)
MODEL_TOKENS = Metric("relayd_model_tokens_total", "counter", "Tokens consumed, by model and kind.", ("model", "kind"))
MODEL_COST = Metric("relayd_model_cost_usd_total", "counter", "Cost of calls that have a price, by model.", ("model",))

# --- limits and accounts

LIMIT_USED = Metric(
    "relayd_key_limit_used",
    "gauge",
    "What is used of a key's limit, over all nodes: requests, tokens, USD or calls in flight (slots). Missing while the"
    " state store is away.",
    ("key", "limit"),
)
LIMIT_ALLOWED = Metric(
    "relayd_key_limit_allowed", "gauge", "What a key's limit allows, in the same unit.", ("key", "limit")
)
KEY_EXPIRES = Metric(
    "relayd_key_expires_timestamp_seconds",
    "gauge",
    "When a key ends, of those that do and are not refused already; of very many those that end next.",
    ("key",),
)
ACCOUNT_SERVES = Metric(
    "relayd_account_serves", "gauge", "1 while an account would take a call; relayd status says why not.", ("account",)
)
ACCOUNT_IN_FLIGHT = Metric(
    "relayd_account_calls_in_flight", "gauge", "Tries on an account that have not ended.", ("account",)
)
ACCOUNT_CONCURRENCY = Metric(
    "relayd_account_max_concurrency",
    "gauge",
    "Calls that an account may have in flight over all nodes; missing where there is no such ceiling.",
    ("account",),
)
GROUP_SERVES = Metric(
    "relayd_group_serves", "gauge", "1 while some account of a group that keys use can serve.", ("group",)
)
LEASES = Metric(
    "relayd_leases_held", "gauge", "Tries that hold a slot of an account with max_concurrency in the state store."
)

# --- how it is

WELL = Metric("relayd_well", "gauge", "1 while nothing is wrong; relayd status says what is.")
READY = Metric("relayd_ready", "gauge", "1 while /readyz is 200.")
AILMENTS = Metric("relayd_ailments", "gauge", "What is wrong, by kind; relayd status says it in words.", ("kind",))

# --- the config

CONFIG_SUCCESSFUL = Metric(
    "relayd_config_last_reload_successful", "gauge", "1 while the running config is that of the disk."
)
CONFIG_SUCCEEDED = Metric(
    "relayd_config_last_reload_success_timestamp_seconds", "gauge", "When that was last seen to be so."
)
CONFIG_APPLIED = Metric(
    "relayd_config_applied_timestamp_seconds", "gauge", "Since when the running config runs on this node."
)
CONFIG_RELOADS = Metric(
    "relayd_config_reloads_total",
    "counter",
    "Reloads that were asked for or found something new.",
    ("result", "trigger"),
)
CONFIG_SECONDS = Metric(
    "relayd_config_reload_duration_seconds", "gauge", "What each phase of the last reload took.", ("phase",)
)
CONFIG_INFO = Metric("relayd_config_info", "gauge", "The running config.", ("tree_digest", "commit", "dirty"))
CONFIG_OUT_OF_SYNC = Metric(
    "relayd_config_out_of_sync_seconds", "gauge", "How long disk and daemon have differed; 0 = they agree."
)
CONFIG_HELD = Metric("relayd_config_held", "gauge", "1 while a change waits for confirmation, or a rollback holds.")
CONFIG_DEGRADED = Metric(
    "relayd_config_degraded", "gauge", "1 while a stored generation serves in the place of a broken tree."
)
CONFIG_RESTART = Metric("relayd_config_restart_required", "gauge", "Settings that wait for a restart.")
CONFIG_GENERATION = Metric("relayd_config_generation", "gauge", "Counts the configs of this process.")
CONFIG_LIVE = Metric("relayd_config_generations_live", "gauge", "Configs that calls still hold, with the running one.")
CONFIG_WATCH = Metric(
    "relayd_config_watch_backend", "gauge", "How changes are noticed: inotify, poll or off.", ("backend",)
)
CONFIG_OBJECTS = Metric("relayd_config_objects", "gauge", "Accounts and keys of the running config.", ("kind", "state"))
STORE_AHEAD = Metric(
    "relayd_store_clock_ahead_seconds",
    "gauge",
    "How far the state store's clock is ahead of this node's. Missing while the others are unknown.",
)
CONFIG_DRIFT = Metric(
    "relayd_config_drift_seconds",
    "gauge",
    "How long nodes have run different configs; 0 = they agree. Missing while the others are unknown.",
)
NODES = Metric(
    "relayd_nodes",
    "gauge",
    "Nodes that live, by the tree that they run. Missing while the others are unknown.",
    ("tree_digest",),
)
SEALED = Metric(
    "relayd_secret_sealed",
    "gauge",
    "Sealed values that a recipient can open; one that is at 0 on every node can go.",
    ("kid", "recipient"),
)
SOURCE_AGE = Metric(
    "relayd_source_fetch_age_seconds",
    "gauge",
    "Since the last fetch of the tree's source that succeeded; on nodes that pull.",
)
SOURCE_HELD = Metric(
    "relayd_source_held",
    "gauge",
    "1 while a head of the branch is held: not signed, or not a fast-forward; on nodes that pull.",
)
SOURCE_FETCHES = Metric(
    "relayd_source_fetches_total",
    "counter",
    "Fetches of the tree's source; on nodes that pull.",
    ("result",),
)

# --- the state store

STATE_UP = Metric("relayd_state_up", "gauge", "1 while the state store answers.")
STATE_REACHED = Metric("relayd_state_reached", "gauge", "1 once the state store has answered since the start.")
STATE_INFO = Metric("relayd_state_info", "gauge", "What the state store is: sqlite or redis.", ("backend",))
STATE_SECONDS = Metric(
    "relayd_state_batch_seconds", "histogram", "What the state store took for a batch of operations that it answered."
)
STATE_QUEUED = Metric("relayd_state_queued", "gauge", "Operations that wait for the store.")
STATE_COUNTS = {
    name: Metric(f"relayd_state_{name}_total", "counter", meaning)
    for name, meaning in {
        "operations": "Operations carried out.",
        "batches": "Batches that they went in.",
        "unanswered": "Questions that failed, because the store was away or late.",
        "journaled": "Settlements written to the journal on disk.",
        "replayed": "Settlements replayed from it.",
        "told_again": "Settlements told again to a store that had been replaced.",
        "dropped": "Operations without lasting effect that were given up.",
        "failed": "Operations that the store refused.",
        "outages": "Times that the store went away.",
    }.items()
}
STATE_LETTERS = Metric("relayd_state_dead_letters", "gauge", "Refused settlements in this node's dead-letter file.")
STATE_SET_ASIDE = Metric(
    "relayd_state_set_aside_total", "counter", "Settlements that the store refused, set aside in that file."
)
STATE_LOST = Metric("relayd_state_lost_total", "counter", "Of the refused, those that could not even be set aside.")
STATE_DAMAGED = Metric("relayd_state_journal_damaged_total", "counter", "Journal lines that did not add up.")
STATE_DROPPED = Metric(
    "relayd_state_journal_dropped_total",
    "counter",
    "Journal entries lost because neither disk nor memory could hold them.",
)

# --- the process

CONNECTIONS_OPEN = Metric("relayd_connections_open", "gauge", "Open client connections.")
CONNECTIONS_ACCEPTED = Metric("relayd_connections_accepted_total", "counter", "Client connections accepted.")
CONNECTIONS_REFUSED = Metric(
    "relayd_connections_refused_total", "counter", "Client connections over max_connections, turned away."
)
LOOP_LAG = Metric(
    "relayd_loop_lag_seconds",
    "histogram",
    "How late the event loop woke a task that slept, measured twice a second: what every call had to wait besides.",
)
LOG_LOST = Metric(
    "relayd_log_lines_lost_total", "counter", "Log lines that nobody took in time: a full pipe, a full disk."
)
TASKS = Metric("relayd_tasks", "gauge", "Tasks of the event loop.")
DRAINING = Metric("relayd_draining", "gauge", "1 while the daemon is about to stop.")
BUILD = Metric(
    "relayd_build_info", "gauge", "The version that runs, and the commit that it was built from.", ("version", "commit")
)
STARTED = Metric("process_start_time_seconds", "gauge", "When the process started.")
CPU = Metric("process_cpu_seconds_total", "counter", "CPU time, user and system.")
MEMORY = Metric("process_resident_memory_bytes", "gauge", "Resident memory.")
FDS = Metric("process_open_fds", "gauge", "Open file descriptors.")
MAX_FDS = Metric("process_max_fds", "gauge", "Most file descriptors that may be open.")

# --- alerts

ALERT_NOTICES = Metric(
    "relayd_alert_notices_total",
    "counter",
    "Notices that this node sent; result: delivered or failed.",
    ("result", "target"),
)
ALERT_DROPPED = Metric(
    "relayd_alert_dropped",
    "gauge",
    "Events that were never told to a target, as the node that tells knows.",
    ("target",),
)
ALERT_QUEUED = Metric(
    "relayd_alert_queued", "gauge", "Events that wait to be told, on the node that tells; 0 on others.", ("target",)
)
ALERT_FAILING = Metric(
    "relayd_alert_failing", "gauge", "1 while a target takes nothing from the node that tells.", ("target",)
)
ALERT_EVENTS_LOST = Metric(
    "relayd_alert_events_lost", "gauge", "Events that only the log has, for too many waited at once."
)

# --- traces (only where they are exported)

SPANS = Metric(
    "relayd_telemetry_spans_total",
    "counter",
    "Traces of calls: sent, dropped (the queue was full) or failed (the collector did not take them).",
    ("result",),
)
SPANS_QUEUED = Metric("relayd_telemetry_queued", "gauge", "Calls whose traces wait to be sent.")


def _declared() -> Iterator[Metric]:
    for value in list(globals().values()):
        if isinstance(value, Metric):
            yield value
        elif value is STATE_COUNTS:
            yield from STATE_COUNTS.values()


METRICS = tuple(_declared())
