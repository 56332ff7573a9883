"""What the core needs from the outside, as protocols: one module for each part of it."""
