"""Doing it: trio. The only room with `async`; decisions are asked of `core`, effects are done here."""
