"""Everything but the engine: HTTP, jobs, workers, storage. Never imports torch."""
