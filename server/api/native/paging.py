"""Pages of what is listed from the newest to the oldest."""

from pipelines.contract.errors import InvalidRequest

MOST, USUAL = 100, 20


def check_limit(limit: int) -> None:
    """Raise `InvalidRequest` for a page that is too small or too large."""
    if not 1 <= limit <= MOST:
        msg = f"'limit' must be from 1 to {MOST}, not {limit}."
        raise InvalidRequest(msg, param="limit")


def cursor(created: float, last: str) -> str:
    """Where the page after the one that ends with ``last`` begins."""
    return f"{created!r}_{last}"


def after(cursor: str | None) -> tuple[float, str] | None:
    """What `cursor` said; None for the first page."""
    if cursor is None:
        return None
    created, _, last = cursor.partition("_")
    try:
        return float(created), last
    except ValueError:
        msg = "'cursor' must be the 'next' of a page before."
        raise InvalidRequest(msg, param="cursor") from None
