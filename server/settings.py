"""Settings: parsed once, into a frozen struct; `server.cli.settings` has the flags and variables that they come from."""

import ipaddress
from pathlib import Path

import msgspec


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


def loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
