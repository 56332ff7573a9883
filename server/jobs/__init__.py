"""Everything asked for is a job: admitted, run, awaited, forgotten."""
