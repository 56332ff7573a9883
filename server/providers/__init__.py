"""Who makes the images: one protocol, several implementations."""
