"""What must outlive the process: SQLite beside the outputs, or PostgreSQL."""
