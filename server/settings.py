"""Settings: parsed once, from flags and AQUATINT_* variables, into a frozen struct. A flag wins over its variable."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off", ""})
_DEVICE = re.compile(r"auto|cpu|fake|cuda(:\d+)?")
_SECRET_LENGTH = 32
_MOST_LINK_HOURS = 168
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
    adapter_memory_mb: int | None = None
    """What LoRAs, ControlNets and their like may take up on each device, beside the models; None leaves it to the worker."""
    queue_limit: int = 256
    database_url: str | None = None
    """None: SQLite below `home`."""
    webhook_secrets: tuple[str, ...] = ()
    """``whsec_...``; each signs every webhook, so that receivers can change from one to the next."""
    webhook_networks: str = ""
    """Networks beside the public ones to which webhooks may go."""
    jobs_hours: float = 7 * 24.0
    """How long finished jobs are remembered."""
    batch_lines: int = 10_000
    """Of one batch, at most."""
    batch_bytes: int = 256 << 20
    """Of one batch's file, and of the pictures that its lines name."""
    batch_hours: float = 30 * 24.0
    """How long finished batches are remembered."""
    idempotency_hours: float = 24.0
    """How long answers to requests with an ``Idempotency-Key`` are remembered."""
    max_upload_bytes: int = 50 << 20
    max_upload_pixels: int = 32_000_000
    """A picture of twice as many, with its mask, would not fit into a frame of the workers' pipe."""
    drain_seconds: float = 60.0
    worker_hang_seconds: float = 300.0
    worker_start_seconds: float = 900.0
    public_url: str | None = None
    storage_url: str | None = None
    """None: the folder `outputs`."""
    storage_endpoint: str | None = None
    """Of a server that speaks S3 and is not Amazon's."""
    cdn_base_url: str | None = None
    """Where everybody can read what lies at `storage_url`."""
    link_hours: float = 24.0
    link_secrets: tuple[str, ...] = ()
    """Each at least 32 characters; the first signs links, all are believed. Empty: one is made and kept in `home`."""
    file_metadata: str = "all"
    """all, infotext, request or none: what files tell of how they were made."""
    outputs_hours: float = 24.0
    outputs_bytes: int = 4 << 30
    cache_hours: float = 24.0
    """How long a picture may answer later requests; 0: no cache."""
    cache_bytes: int = 1 << 30
    """0: no cache."""
    cache_shared: bool = False
    """Whether what was made for one tenant may answer another."""
    cache_cost_fraction: float = 0.0
    assets_hours: float = 168.0
    assets_bytes: int = 1 << 30
    """For each key."""
    provenance_certificate: Path | None = None
    """What results are signed with, and its key; None: what `aquatint provenance init` has put below `home`, if it has."""
    provenance_key: Path | None = None
    provenance_trust: Path | None = None
    """Certificates of those whose signatures are trusted, beside our own authority."""
    provenance_tsa: str | None = None
    """A time stamping authority; None: signing asks nobody."""
    provenance_prompt: bool = False
    """Manifests hold the prompt."""
    image_classifier: str = "nudenet"
    """Who looks at pictures where a policy asks for it: nudenet, colour (for trying policies), none."""
    moderation_key: str | None = None
    """For OpenAI's moderation endpoint; policies say who is shown to it."""
    moderation_url: str = "https://api.openai.com/v1"
    moderation_days: float = 90.0
    """How long the audit of moderation is kept."""
    moderation_prompts: bool = False
    """Keep prompts themselves in it, not only their digests."""
    log_format: str = "console"
    log_level: str = "info"
    api_keys: tuple[str, ...] = ()
    open_access: bool = False

    def __repr__(self) -> str:
        hidden = {"api_keys", "webhook_secrets", "database_url", "link_secrets", "moderation_key"}
        shown = {field: "..." if field in hidden else repr(getattr(self, field)) for field in self.__struct_fields__}
        return f"Settings({', '.join(f'{field}={value}' for field, value in shown.items())})"

    @property
    def may_be_open(self) -> bool:
        """Whether everyone may enter as long as there is no key: only this machine can reach it, or the operator says so."""
        return loopback(self.host) or self.open_access

    @property
    def outputs(self) -> Path:
        """The folder of finished images."""
        return self.home / "outputs"

    @property
    def assets(self) -> Path:
        """The folder of uploads that are kept for later requests."""
        return self.home / "assets"

    @property
    def provenance(self) -> Path:
        """The folder of our own authority, certificate and keys."""
        return self.home / "provenance"


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


def _bytes_or_none(value: str) -> int:
    return 0 if value.strip() == "0" else _bytes(value)


def _hours_or_none(value: str) -> float:
    return 0.0 if value.strip() == "0" else _seconds(value)


def _fraction(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        msg = "must be a number from 0 to 1"
        raise ValueError(msg)
    return number


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


def _signing(value: str) -> tuple[str, ...]:
    found = _keys(value)
    if not all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{32,88}={0,2}", secret) for secret in found):
        msg = "each must be whsec_ and 24 to 64 random bytes in base64"
        raise ValueError(msg)
    return found


def _storage(value: str) -> str:
    if not re.fullmatch(r"(s3|gs|az)://[^/\s?#]+(/[^\s?#]*)?|file:///[^\s?#]+", value):
        msg = "must be s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"
        raise ValueError(msg)
    return value.rstrip("/")


def _link_secrets(value: str) -> tuple[str, ...]:
    found = _keys(value)
    if not found or any(len(secret) < _SECRET_LENGTH for secret in found):
        msg = f"each must have at least {_SECRET_LENGTH} characters"
        raise ValueError(msg)
    return found


def _link_hours(value: str) -> float:
    hours = _seconds(value)
    if hours > _MOST_LINK_HOURS:
        msg = f"must be at most {_MOST_LINK_HOURS}: S3 signs for a week and no longer"
        raise ValueError(msg)
    return hours


def _networks(value: str) -> str:
    for part in _keys(value):
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError:
            msg = f"{part!r} is no network such as 10.1.0.0/16"
            raise ValueError(msg) from None
    return value


def _database(value: str) -> str:
    """An address that SQLAlchemy understands, with the drivers that come with us."""
    drivers = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    scheme, found, rest = value.partition("://")
    if not found or scheme not in (*drivers, *drivers.values()):
        msg = "must be postgresql://USER:PASSWORD@HOST/NAME or sqlite:///PATH"
        raise ValueError(msg)
    return f"{drivers.get(scheme, scheme)}://{rest}"


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
        "adapter_memory_mb",
        "AQUATINT_ADAPTER_MEMORY_MB",
        "What LoRAs, ControlNets and their like may take up on each device, in MB.",
        _whole(1, 100_000_000),
        "--adapter-memory-mb",
    ),
    Option(
        "queue_limit",
        "AQUATINT_QUEUE_LIMIT",
        "Images accepted and not finished, at most; queued and bulk ones do not count.",
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
    Option("database_url", "AQUATINT_DATABASE_URL", "postgresql://USER@HOST/NAME, not SQLite.", _database, "--database-url"),
    Option("webhook_secrets", "AQUATINT_WEBHOOK_SECRETS", "whsec_... that sign webhooks, separated by commas.", _signing, None),
    Option(
        "webhook_networks",
        "AQUATINT_WEBHOOK_NETWORKS",
        "Private networks that webhooks may go to: 10.1.0.0/16,127.0.0.1.",
        _networks,
        "--webhook-networks",
    ),
    Option("jobs_hours", "AQUATINT_JOBS_HOURS", "Finished jobs are remembered for so long.", _seconds, "--jobs-hours"),
    Option(
        "storage_url",
        "AQUATINT_STORAGE_URL",
        "s3://BUCKET/PREFIX, gs://, az:// or file:/// for results.",
        _storage,
        "--storage-url",
    ),
    Option(
        "storage_endpoint", "AQUATINT_STORAGE_ENDPOINT", "URL of an S3 server that is not Amazon's.", _url, "--storage-endpoint"
    ),
    Option("cdn_base_url", "AQUATINT_CDN_BASE_URL", "Where everybody can read the storage URL.", _url, "--cdn-base-url"),
    Option("link_hours", "AQUATINT_LINK_HOURS", "Links to results are good for so long.", _link_hours, "--link-hours"),
    Option("link_secrets", "AQUATINT_LINK_SECRETS", "Secrets that sign links, separated by commas.", _link_secrets),
    Option(
        "file_metadata",
        "AQUATINT_FILE_METADATA",
        "What files tell of how they were made: all, infotext, request or none.",
        _choice("all", "infotext", "request", "none"),
        "--file-metadata",
    ),
    Option("batch_lines", "AQUATINT_BATCH_LINES", "Lines of one batch, at most.", _whole(1, 1_000_000), "--batch-lines"),
    Option(
        "batch_bytes", "AQUATINT_BATCH_BYTES", "Largest batch, and largest sum of its pictures: 256M.", _bytes, "--batch-bytes"
    ),
    Option("batch_hours", "AQUATINT_BATCH_HOURS", "Finished batches are remembered for so long.", _seconds, "--batch-hours"),
    Option(
        "idempotency_hours",
        "AQUATINT_IDEMPOTENCY_HOURS",
        "Answers to requests with an Idempotency-Key are remembered for so long.",
        _seconds,
        "--idempotency-hours",
    ),
    Option("outputs_hours", "AQUATINT_OUTPUTS_HOURS", "Results are kept for so long.", _seconds, "--outputs-hours"),
    Option("outputs_bytes", "AQUATINT_OUTPUTS_BYTES", "Results take so much disk, at most.", _bytes, "--outputs-bytes"),
    Option(
        "cache_hours",
        "AQUATINT_CACHE_HOURS",
        "Pictures answer later requests for so long; 0: never.",
        _hours_or_none,
        "--cache-hours",
    ),
    Option("cache_bytes", "AQUATINT_CACHE_BYTES", "Pictures that do, at most; 0: none.", _bytes_or_none, "--cache-bytes"),
    Option(
        "cache_shared",
        "AQUATINT_CACHE_SHARED",
        "One tenant's pictures answer others' requests.",
        _flag,
        "--cache-shared",
        switch=True,
    ),
    Option(
        "cache_cost_fraction",
        "AQUATINT_CACHE_COST_FRACTION",
        "What an answer from the cache is charged, as a share of what it first cost.",
        _fraction,
        "--cache-cost-fraction",
    ),
    Option("assets_hours", "AQUATINT_ASSETS_HOURS", "Uploads are kept so long after their last use.", _seconds, "--assets-hours"),
    Option("assets_bytes", "AQUATINT_ASSETS_BYTES", "Uploads of one key take so much room, at most.", _bytes, "--assets-bytes"),
    Option(
        "provenance_certificate",
        "AQUATINT_PROVENANCE_CERTIFICATE",
        "PEM file that results are signed with, the signer's own certificate first.",
        _path,
        "--provenance-certificate",
    ),
    Option("provenance_key", "AQUATINT_PROVENANCE_KEY", "PEM file with its key.", _path, "--provenance-key"),
    Option("provenance_trust", "AQUATINT_PROVENANCE_TRUST", "PEM file of authorities to trust.", _path, "--provenance-trust"),
    Option("provenance_tsa", "AQUATINT_PROVENANCE_TSA", "URL of a time stamping authority.", _url, "--provenance-tsa"),
    Option(
        "provenance_prompt",
        "AQUATINT_PROVENANCE_PROMPT",
        "Write the prompt into signed manifests.",
        _flag,
        "--provenance-prompt",
        switch=True,
    ),
    Option(
        "image_classifier",
        "AQUATINT_IMAGE_CLASSIFIER",
        "Who looks at pictures where a policy asks for it: nudenet, colour or none.",
        _choice("nudenet", "colour", "none"),
        "--image-classifier",
    ),
    # A key goes only to where it belongs: whoever moves OpenAI's base moves both.
    Option("moderation_key", "OPENAI_API_KEY", "A key for OpenAI.", _text),
    Option("moderation_key", "AQUATINT_MODERATION_KEY", "A key for OpenAI's moderation endpoint alone.", _text),
    Option("moderation_url", "OPENAI_BASE_URL", "Where OpenAI's API is.", _url),
    Option("moderation_url", "AQUATINT_MODERATION_URL", "Where OpenAI's moderation endpoint is.", _url, "--moderation-url"),
    Option("moderation_days", "AQUATINT_MODERATION_DAYS", "The audit is kept for so long.", _seconds, "--moderation-days"),
    Option(
        "moderation_prompts",
        "AQUATINT_MODERATION_PROMPTS",
        "Keep prompts in the audit of moderation.",
        _flag,
        "--moderation-prompts",
        switch=True,
    ),
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
        "open_access",
        "AQUATINT_OPEN_ACCESS",
        "Serve other machines without any key.",
        _flag,
        "--open-access",
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
    return Settings(**values)


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
