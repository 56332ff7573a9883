"""Settings: parsed once, from flags and AQUATINT_* variables, into a frozen struct. A flag wins over its variable."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off", ""})
_DEVICE = re.compile(r"auto|cpu|fake|cuda(:\d+)?")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class SettingsError(Exception):
    """A setting is missing or wrong; the message names the variable or flag."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is decided before the server starts."""

    home: Path
    models: Path | None = None
    """None: the catalog that comes with the package."""
    host: str = "127.0.0.1"
    port: int = 8000
    devices: tuple[str, ...] = ("auto",)
    device_memory_mb: int | None = None
    """What the models may take up on each device, in MB of 10^6 bytes; None leaves it to the worker."""
    ram_memory_mb: int | None = None
    """What models that made room may take up in RAM, for each worker; None leaves it to the worker."""
    queue_limit: int = 256
    max_upload_bytes: int = 50 << 20
    max_upload_pixels: int = 32_000_000
    """A picture of twice as many, with its mask, would not fit into a frame of the workers' pipe."""
    drain_seconds: float = 60.0
    worker_hang_seconds: float = 300.0
    worker_start_seconds: float = 900.0
    public_url: str | None = None
    outputs_hours: float = 24.0
    outputs_bytes: int = 4 << 30
    assets_hours: float = 168.0
    assets_bytes: int = 1 << 30
    """For each key."""
    log_format: str = "console"
    log_level: str = "info"
    api_keys: tuple[str, ...] = ()
    insecure_no_keys: bool = False

    def __repr__(self) -> str:
        shown = {field: getattr(self, field) for field in self.__struct_fields__ if field != "api_keys"}
        return f"Settings({', '.join(f'{field}={value!r}' for field, value in shown.items())}, api_keys=({len(self.api_keys)}))"

    @property
    def outputs(self) -> Path:
        """The folder of finished images."""
        return self.home / "outputs"

    @property
    def assets(self) -> Path:
        """The folder of uploads that are kept for later requests."""
        return self.home / "assets"


class Option(msgspec.Struct, frozen=True):
    """One setting as people write it."""

    field: str
    variable: str
    help: str
    parse: Callable[[str], object]
    flag: str | None = None
    """None: only by variable, such as keys, which would show in the process list."""
    switch: bool = False


def _text(value: str) -> str:
    return value


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in allowed:
            msg = f"must be one of {', '.join(allowed)}"
            raise ValueError(msg)
        return value.lower()

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"-?\d+", value.strip()) or not low <= int(value) <= high:
            msg = f"must be a whole number from {low} to {high}"
            raise ValueError(msg)
        return int(value)

    return parse


def _seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        msg = "must be a number above 0"
        raise ValueError(msg)
    return number


def _bytes(value: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", value.strip().lower())
    if found is None or float(found[1]) <= 0:
        msg = "must be a size such as 50M or 4GiB"
        raise ValueError(msg)
    return int(float(found[1]) * _UNITS[found[2]])


def _flag(value: str) -> bool:
    word = value.strip().lower()
    if word not in _TRUE | _FALSE:
        msg = "must be true or false"
        raise ValueError(msg)
    return word in _TRUE


def _devices(value: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in value.split(",") if name.strip())
    if not names or not all(_DEVICE.fullmatch(name) for name in names) or ("auto" in names and len(names) > 1):
        msg = "must be auto, cpu, cuda or fake, or a list such as cuda:0,cuda:1"
        raise ValueError(msg)
    return names


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        msg = "must be an http(s) URL such as https://images.example.com"
        raise ValueError(msg)
    return value.rstrip("/")


def _path(value: str) -> Path:
    return Path(value).expanduser().absolute()


def _keys(value: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in value.split(",") if key.strip())


OPTIONS: tuple[Option, ...] = (
    Option("host", "AQUATINT_HOST", "Address to listen on.", _text, "--host"),
    Option("port", "AQUATINT_PORT", "Port to listen on; 0 takes a free one.", _whole(0, 65535), "--port"),
    Option("home", "AQUATINT_HOME", "Folder of outputs and state.", _path, "--home"),
    Option("models", "AQUATINT_MODELS", "The models.yaml to serve.", _path, "--models"),
    Option("devices", "AQUATINT_DEVICE", "auto, cuda, cpu, fake, or a list: cuda:0,cuda:1.", _devices, "--device"),
    Option(
        "device_memory_mb",
        "AQUATINT_DEVICE_MEMORY_MB",
        "What models may take up on each device, in MB.",
        _whole(1, 100_000_000),
        "--device-memory-mb",
    ),
    Option(
        "ram_memory_mb",
        "AQUATINT_RAM_MEMORY_MB",
        "What models that made room may take up in RAM for each worker, in MB.",
        _whole(0, 100_000_000),
        "--ram-memory-mb",
    ),
    Option(
        "queue_limit",
        "AQUATINT_QUEUE_LIMIT",
        "Images accepted and not finished, at most.",
        _whole(1, 1_000_000),
        "--queue-limit",
    ),
    Option("max_upload_bytes", "AQUATINT_MAX_UPLOAD_BYTES", "Largest request body, such as 50M.", _bytes, "--max-upload-bytes"),
    Option(
        "max_upload_pixels",
        "AQUATINT_MAX_UPLOAD_PIXELS",
        "Largest uploaded image, in pixels.",
        _whole(4096, 64_000_000),
        "--max-upload-pixels",
    ),
    Option("drain_seconds", "AQUATINT_DRAIN_SECONDS", "Time for running requests at shutdown.", _seconds, "--drain-seconds"),
    Option(
        "worker_hang_seconds",
        "AQUATINT_WORKER_HANG_SECONDS",
        "A busy worker silent for so long is killed.",
        _seconds,
        "--worker-hang-seconds",
    ),
    Option(
        "worker_start_seconds",
        "AQUATINT_WORKER_START_SECONDS",
        "A starting or loading worker silent for so long is killed.",
        _seconds,
        "--worker-start-seconds",
    ),
    Option("public_url", "AQUATINT_PUBLIC_URL", "Where clients reach this server; for result URLs.", _url, "--public-url"),
    Option("outputs_hours", "AQUATINT_OUTPUTS_HOURS", "Results are kept for so long.", _seconds, "--outputs-hours"),
    Option("outputs_bytes", "AQUATINT_OUTPUTS_BYTES", "Results take so much disk, at most.", _bytes, "--outputs-bytes"),
    Option("assets_hours", "AQUATINT_ASSETS_HOURS", "Uploads are kept so long after their last use.", _seconds, "--assets-hours"),
    Option("assets_bytes", "AQUATINT_ASSETS_BYTES", "Uploads of one key take so much disk, at most.", _bytes, "--assets-bytes"),
    Option("log_format", "AQUATINT_LOG_FORMAT", "console or json.", _choice("console", "json"), "--log-format"),
    Option(
        "log_level",
        "AQUATINT_LOG_LEVEL",
        "debug, info, warning or error.",
        _choice("debug", "info", "warning", "error"),
        "--log-level",
    ),
    Option("api_keys", "AQUATINT_API_KEYS", "Keys that callers present, separated by commas.", _keys),
    Option("api_keys", "AQUATINT_API_KEY", "A key that callers present.", _keys),
    Option(
        "insecure_no_keys",
        "AQUATINT_INSECURE_NO_KEYS",
        "Serve other machines without any key.",
        _flag,
        "--insecure-no-keys",
        switch=True,
    ),
)


def parse(environ: Mapping[str, str], flags: Mapping[str, str], *, cwd: Path) -> Settings:
    """The settings; raises `SettingsError` for the first wrong one. ``flags`` maps field names to given texts."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.flag is not None and option.field in flags:
            source, text = option.flag, flags[option.field]
        elif environ.get(option.variable, "").strip():
            source, text = option.variable, environ[option.variable].strip()
        else:
            continue
        try:
            value = option.parse(text)
        except ValueError as error:
            msg = f"{source}={text!r}: {error}"
            raise SettingsError(msg) from None
        if isinstance(value, tuple) and option.field == "api_keys":
            value = (*values.get("api_keys", ()), *value)
        values[option.field] = value
    values.setdefault("home", _home(environ))
    if "models" not in values and (cwd / "models.yaml").is_file():
        values["models"] = cwd / "models.yaml"
    settings = Settings(**values)
    _check_exposure(settings)
    return settings


def loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _home(environ: Mapping[str, str]) -> Path:
    data = environ.get("XDG_DATA_HOME", "").strip() or "~/.local/share"
    return Path(data).expanduser().absolute() / "aquatint"


def _check_exposure(settings: Settings) -> None:
    if loopback(settings.host) or settings.api_keys or settings.insecure_no_keys:
        return
    msg = (
        f"--host {settings.host} lets other machines in, and no key is set: "
        "set AQUATINT_API_KEY, or say --insecure-no-keys if anyone who reaches it may use it."
    )
    raise SettingsError(msg)
