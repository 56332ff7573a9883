"""Numbers from requests, held against their ranges; every refusal names the field."""

from pipelines.contract.errors import InvalidRequest, TooLarge


def whole(value: int | None, param: str, absent: int, low: int, high: int) -> int:
    """``value`` from ``low`` to ``high``, or ``absent`` if there is none."""
    if value is None:
        return absent
    if not low <= value <= high:
        kind = TooLarge if value > high else InvalidRequest
        msg = f"{param!r} is {value}; it must be from {low} to {high}."
        raise kind(msg, param=param)
    return value


def number(value: float | None, param: str, absent: float, low: float, high: float) -> float:
    """``value`` from ``low`` to ``high``, or ``absent`` if there is none."""
    if value is None:
        return absent
    if not low <= value <= high:
        msg = f"{param!r} must be from {low:g} to {high:g}."
        raise InvalidRequest(msg, param=param)
    return value


def share(value: float | None, param: str, absent: float) -> float:
    """A strength: above 0 and at most 1."""
    if value is None:
        return absent
    if not 0 < value <= 1:
        msg = f"{param!r} must be above 0 and at most 1."
        raise InvalidRequest(msg, param=param)
    return value


def span(start: float | None, end: float | None, where: str) -> tuple[float, float]:
    """Two fractions of the steps, 0 and 1 if absent; the first must come before the second."""
    first = number(start, f"{where}.start", 0.0, 0.0, 1.0)
    last = number(end, f"{where}.end", 1.0, 0.0, 1.0)
    if first >= last:
        msg = f"'{where}.start' must be before '{where}.end'."
        raise InvalidRequest(msg, param=f"{where}.start")
    return first, last


def position(cursor: str | None) -> tuple[float, str] | None:
    """The time and id that a page's ``next`` names."""
    if cursor is None:
        return None
    when, _, name = cursor.partition("_")
    try:
        return float(when), name
    except ValueError:
        msg = "'cursor' must be the 'next' of a page before."
        raise InvalidRequest(msg, param="cursor") from None


def few(count: int, param: str, most: int) -> None:
    """Refuse a list that is too long."""
    if count > most:
        msg = f"{param!r} has {count} entries; {most} are allowed."
        raise TooLarge(msg, param=param)
