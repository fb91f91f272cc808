"""What the operator wrote: text to `Snapshot`. Imports no other room; pure but for tree.py, which reads files."""
