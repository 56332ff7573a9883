"""What prompts and pictures may be: looked at before any work, and before anything is delivered. A filter, not a guarantee."""
