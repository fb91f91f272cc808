"""Names of alert events: what `[alerts.NAME] events` selects from. What they mean is in core/alerts; docs/alerts.md."""

ALERT_EVENT_NAMES = (
    "limit.near", "limit.reached", "key.expiring",
    "account.out", "account.credential", "account.recovered", "account.no_credential", "account.credential_found",
    "oauth.refresh_failed", "oauth.cannot_refresh", "oauth.expired", "oauth.recovered", "oauth.rotation_lost",
    "oauth.expiring",
    "group.down", "group.up", "errors.high", "errors.normal", "price.unknown",
    "reload.rejected", "reload.held", "reload.degraded", "reload.applied", "reload.unchanged",
    "source.failed", "source.recovered",
    "fleet.drift", "fleet.agrees", "state.unavailable", "state.available", "state.set_aside", "state.lost",
    "report.daily", "alert.test",
)  # fmt: skip
