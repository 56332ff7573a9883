"""Addresses that clients give, before anybody connects to them."""

from urllib.parse import urlsplit

from pipelines.contract.errors import InvalidRequest

_LONGEST = 2048


def check_url(url: str, param: str) -> None:
    """Raise `InvalidRequest` unless ``url`` is an http(s) URL with a host and no user; where it leads is judged later."""
    try:
        parts = urlsplit(url)
        port = parts.port
        # As resolvers encode it: raises for empty labels and those of more than 63 letters.
        (parts.hostname or "").encode("idna")
    except ValueError:
        parts, port = urlsplit(""), None
    fine = parts.scheme in ("http", "https") and parts.hostname and not parts.username and port != 0
    if not fine or len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url:
        msg = f"{param!r} must be an http(s) URL such as https://shop.example/hooks, of at most {_LONGEST} characters."
        raise InvalidRequest(msg, param=param)
