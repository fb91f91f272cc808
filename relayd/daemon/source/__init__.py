"""Source: how a node pulls its tree out of a git repository by itself, and which commits it takes."""
