"""Who relayd is to its upstreams."""
