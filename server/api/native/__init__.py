"""Our own dialect, for what no other has words for."""
