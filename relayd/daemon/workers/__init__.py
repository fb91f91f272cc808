"""Workers: several processes that serve for one node, and how they are led."""
