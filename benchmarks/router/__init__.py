"""The benchmark of the text-intent rules."""
