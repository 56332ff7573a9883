"""Control images of ordinary pictures: edges, depth, poses; outside of the ticks."""
