"""From pixels to what a caller can keep."""
