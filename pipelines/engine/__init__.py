"""Step-level continuous batching: decide (scheduler), compute (runner), account (scheduler), one tick at a time."""
