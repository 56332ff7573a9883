"""How whoever opens something tells how far it has come. Apart, because downloads need no torch."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Told the component at hand and the fraction done, 0..1."""
