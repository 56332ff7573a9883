"""Which models lie where, and who makes room for whom. No torch: weights are opaque things with a size."""
