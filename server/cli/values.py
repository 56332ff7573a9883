"""What people write for a setting, as what it means. Each raises `ValueError` with what it must be."""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off", ""})
_DEVICE = re.compile(r"auto|cpu|fake|cuda(:\d+)?")
_SECRET_LENGTH = 32
_MOST_LINK_HOURS = 168
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def text(value: str) -> str:
    """As it is written."""
    return value


def choice(*allowed: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(value: str) -> str:
        if value.lower() not in allowed:
            msg = f"must be one of {', '.join(allowed)}"
            raise ValueError(msg)
        return value.lower()

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from ``low`` to ``high``."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"-?\d+", value.strip()) or not low <= int(value) <= high:
            msg = f"must be a whole number from {low} to {high}"
            raise ValueError(msg)
        return int(value)

    return parse


def seconds(value: str) -> float:
    """A number above 0."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        msg = "must be a number above 0"
        raise ValueError(msg)
    return number


def size(value: str) -> int:
    """Bytes: ``50M``, ``4GiB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", value.strip().lower())
    if found is None or float(found[1]) <= 0:
        msg = "must be a size such as 50M or 4GiB"
        raise ValueError(msg)
    return int(float(found[1]) * _UNITS[found[2]])


def size_or_none(value: str) -> int:
    """Bytes, or 0 for none."""
    return 0 if value.strip() == "0" else size(value)


def hours_or_none(value: str) -> float:
    """Hours, or 0 for none."""
    return 0.0 if value.strip() == "0" else seconds(value)


def fraction(value: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        msg = "must be a number from 0 to 1"
        raise ValueError(msg)
    return number


def flag(value: str) -> bool:
    """Yes or no."""
    word = value.strip().lower()
    if word not in _TRUE | _FALSE:
        msg = "must be true or false"
        raise ValueError(msg)
    return word in _TRUE


def devices(value: str) -> tuple[str, ...]:
    """Where workers run."""
    names = tuple(name.strip().lower() for name in value.split(",") if name.strip())
    if not names or not all(_DEVICE.fullmatch(name) for name in names) or ("auto" in names and len(names) > 1):
        msg = "must be auto, cpu, cuda or fake, or a list such as cuda:0,cuda:1"
        raise ValueError(msg)
    return names


def url(value: str) -> str:
    """An HTTP(S) address, without a slash at its end."""
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        msg = "must be an http(s) URL such as https://images.example.com"
        raise ValueError(msg)
    return value.rstrip("/")


def signing(value: str) -> tuple[str, ...]:
    """Secrets of webhooks."""
    found = keys(value)
    if not all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{32,88}={0,2}", secret) for secret in found):
        msg = "each must be whsec_ and 24 to 64 random bytes in base64"
        raise ValueError(msg)
    return found


def storage(value: str) -> str:
    """Where results lie."""
    if not re.fullmatch(r"(s3|gs|az)://[^/\s?#]+(/[^\s?#]*)?|file:///[^\s?#]+", value):
        msg = "must be s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"
        raise ValueError(msg)
    return value.rstrip("/")


def link_secrets(value: str) -> tuple[str, ...]:
    """Secrets that sign links."""
    found = keys(value)
    if not found or any(len(secret) < _SECRET_LENGTH for secret in found):
        msg = f"each must have at least {_SECRET_LENGTH} characters"
        raise ValueError(msg)
    return found


def link_hours(value: str) -> float:
    """How long links open something."""
    hours = seconds(value)
    if hours > _MOST_LINK_HOURS:
        msg = f"must be at most {_MOST_LINK_HOURS}: S3 signs for a week and no longer"
        raise ValueError(msg)
    return hours


def networks(value: str) -> str:
    """Networks beside the public ones."""
    for part in keys(value):
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError:
            msg = f"{part!r} is no network such as 10.1.0.0/16"
            raise ValueError(msg) from None
    return value


def database(value: str) -> str:
    """An address that SQLAlchemy understands, with the drivers that come with us."""
    drivers = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    scheme, found, rest = value.partition("://")
    if not found or scheme not in (*drivers, *drivers.values()):
        msg = "must be postgresql://USER:PASSWORD@HOST/NAME or sqlite:///PATH"
        raise ValueError(msg)
    return f"{drivers.get(scheme, scheme)}://{rest}"


def path(value: str) -> Path:
    """A file or folder, absolute."""
    return Path(value).expanduser().absolute()


def keys(value: str) -> tuple[str, ...]:
    """A list, parted by commas."""
    return tuple(key.strip() for key in value.split(",") if key.strip())
