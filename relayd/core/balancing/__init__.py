"""Which account serves a call, and what its answer teaches."""
