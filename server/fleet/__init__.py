"""Worker processes: spawned, watched, restarted, and given work."""
