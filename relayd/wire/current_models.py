"""Current models: what examples, templates and relayd's own small calls name.

Rule: every example that relayd ships names one of these; a test holds the date of the release against their
retirement. Theory: one model a line of work, so that a new generation is one edit here and a search for the old name.
"""

from __future__ import annotations

LARGE = "claude-opus-5-5"
USUAL = "claude-sonnet-5-5"
# Health checks and `account test` name it too: they count tokens, which costs nothing whatever the model is.
SMALL = "claude-haiku-5-5"
CURRENT = (LARGE, USUAL, SMALL)
