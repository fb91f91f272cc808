"""Alerts: what happened on this node reaches the cluster, and what the cluster knows reaches people."""
