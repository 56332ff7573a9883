"""How long to wait before the next attempt: pure.

Not stamina or tenacity: their pauses are their own, and here a pause must end at the request's deadline, never begin if it could
not, obey Retry-After, and be seen by tests that own the clock. What is left of a library is the formula.
"""

BASE_SECONDS = 0.5
MOST_SECONDS = 30.0
JITTER = 0.25


def pause(attempt: int, asked: float | None, chance: float) -> float:
    """Seconds after ``attempt`` (1 is the first): doubling from `BASE_SECONDS` to `MOST_SECONDS`.

    ``chance``, 0 to 1, takes up to a quarter off. ``asked`` is the upstream's Retry-After: never sooner than that, and up to a
    tenth later, so that not all come at once.
    """
    own: float = min(BASE_SECONDS * 2.0 ** (attempt - 1), MOST_SECONDS) * (1 - JITTER * chance)
    return own if asked is None else max(own, asked * (1 + 0.1 * chance))
