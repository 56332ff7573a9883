"""The way out: connections to addresses that others name, and where they may not lead."""
