"""Alerts: what is told to people, once, and how it is worded. Decisions only; relayd/daemon/alerts does the telling."""
