"""One process, one device: an engine at the end of a pipe."""
