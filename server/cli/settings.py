"""Settings from flags and AQUATINT_* variables. A flag wins over its variable."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from server.cli import values
from server.settings import Settings, SettingsError


class Option(msgspec.Struct, frozen=True):
    """One setting as people write it."""

    field: str
    variable: str
    help: str
    parse: Callable[[str], object]
    flag: str | None = None
    """None: only by variable, such as keys, which would show in the process list."""
    switch: bool = False


OPTIONS: tuple[Option, ...] = (
    Option("host", "AQUATINT_HOST", "Address to listen on.", values.text, "--host"),
    Option("port", "AQUATINT_PORT", "Port to listen on; 0 takes a free one.", values.whole(0, 65535), "--port"),
    Option("home", "AQUATINT_HOME", "Folder of outputs and state.", values.path, "--home"),
    Option("models", "AQUATINT_MODELS", "The models.yaml to serve.", values.path, "--models"),
    Option("devices", "AQUATINT_DEVICE", "auto, cuda, cpu, fake, or a list: cuda:0,cuda:1.", values.devices, "--device"),
    Option(
        "device_memory_mb",
        "AQUATINT_DEVICE_MEMORY_MB",
        "What models may take up on each device, in MB.",
        values.whole(1, 100_000_000),
        "--device-memory-mb",
    ),
    Option(
        "ram_memory_mb",
        "AQUATINT_RAM_MEMORY_MB",
        "What models that made room may take up in RAM for each worker, in MB.",
        values.whole(0, 100_000_000),
        "--ram-memory-mb",
    ),
    Option(
        "adapter_memory_mb",
        "AQUATINT_ADAPTER_MEMORY_MB",
        "What LoRAs, ControlNets and their like may take up on each device, in MB.",
        values.whole(1, 100_000_000),
        "--adapter-memory-mb",
    ),
    Option(
        "queue_limit",
        "AQUATINT_QUEUE_LIMIT",
        "Images accepted and not finished, at most; queued and bulk ones do not count.",
        values.whole(1, 1_000_000),
        "--queue-limit",
    ),
    Option(
        "max_upload_bytes", "AQUATINT_MAX_UPLOAD_BYTES", "Largest request body, such as 50M.", values.size, "--max-upload-bytes"
    ),
    Option(
        "max_upload_pixels",
        "AQUATINT_MAX_UPLOAD_PIXELS",
        "Largest uploaded image, in pixels.",
        values.whole(4096, 64_000_000),
        "--max-upload-pixels",
    ),
    Option(
        "drain_seconds", "AQUATINT_DRAIN_SECONDS", "Time for running requests at shutdown.", values.seconds, "--drain-seconds"
    ),
    Option(
        "worker_hang_seconds",
        "AQUATINT_WORKER_HANG_SECONDS",
        "A busy worker silent for so long is killed.",
        values.seconds,
        "--worker-hang-seconds",
    ),
    Option(
        "worker_start_seconds",
        "AQUATINT_WORKER_START_SECONDS",
        "A starting or loading worker silent for so long is killed.",
        values.seconds,
        "--worker-start-seconds",
    ),
    Option("public_url", "AQUATINT_PUBLIC_URL", "Where clients reach this server; for result URLs.", values.url, "--public-url"),
    Option(
        "database_url", "AQUATINT_DATABASE_URL", "postgresql://USER@HOST/NAME, not SQLite.", values.database, "--database-url"
    ),
    Option(
        "webhook_secrets", "AQUATINT_WEBHOOK_SECRETS", "whsec_... that sign webhooks, separated by commas.", values.signing, None
    ),
    Option(
        "webhook_networks",
        "AQUATINT_WEBHOOK_NETWORKS",
        "Private networks that webhooks may go to: 10.1.0.0/16,127.0.0.1.",
        values.networks,
        "--webhook-networks",
    ),
    Option("jobs_hours", "AQUATINT_JOBS_HOURS", "Finished jobs are remembered for so long.", values.seconds, "--jobs-hours"),
    Option(
        "storage_url",
        "AQUATINT_STORAGE_URL",
        "s3://BUCKET/PREFIX, gs://, az:// or file:/// for results.",
        values.storage,
        "--storage-url",
    ),
    Option(
        "storage_endpoint",
        "AQUATINT_STORAGE_ENDPOINT",
        "URL of an S3 server that is not Amazon's.",
        values.url,
        "--storage-endpoint",
    ),
    Option("cdn_base_url", "AQUATINT_CDN_BASE_URL", "Where everybody can read the storage URL.", values.url, "--cdn-base-url"),
    Option("link_hours", "AQUATINT_LINK_HOURS", "Links to results are good for so long.", values.link_hours, "--link-hours"),
    Option("link_secrets", "AQUATINT_LINK_SECRETS", "Secrets that sign links, separated by commas.", values.link_secrets),
    Option(
        "file_metadata",
        "AQUATINT_FILE_METADATA",
        "What files tell of how they were made: all, infotext, request or none.",
        values.choice("all", "infotext", "request", "none"),
        "--file-metadata",
    ),
    Option("batch_lines", "AQUATINT_BATCH_LINES", "Lines of one batch, at most.", values.whole(1, 1_000_000), "--batch-lines"),
    Option(
        "batch_bytes",
        "AQUATINT_BATCH_BYTES",
        "Largest batch, and largest sum of its pictures: 256M.",
        values.size,
        "--batch-bytes",
    ),
    Option(
        "batch_hours", "AQUATINT_BATCH_HOURS", "Finished batches are remembered for so long.", values.seconds, "--batch-hours"
    ),
    Option(
        "idempotency_hours",
        "AQUATINT_IDEMPOTENCY_HOURS",
        "Answers to requests with an Idempotency-Key are remembered for so long.",
        values.seconds,
        "--idempotency-hours",
    ),
    Option("outputs_hours", "AQUATINT_OUTPUTS_HOURS", "Results are kept for so long.", values.seconds, "--outputs-hours"),
    Option("outputs_bytes", "AQUATINT_OUTPUTS_BYTES", "Results take so much disk, at most.", values.size, "--outputs-bytes"),
    Option(
        "cache_hours",
        "AQUATINT_CACHE_HOURS",
        "Pictures answer later requests for so long; 0: never.",
        values.hours_or_none,
        "--cache-hours",
    ),
    Option("cache_bytes", "AQUATINT_CACHE_BYTES", "Pictures that do, at most; 0: none.", values.size_or_none, "--cache-bytes"),
    Option(
        "cache_shared",
        "AQUATINT_CACHE_SHARED",
        "One tenant's pictures answer others' requests.",
        values.flag,
        "--cache-shared",
        switch=True,
    ),
    Option(
        "cache_cost_fraction",
        "AQUATINT_CACHE_COST_FRACTION",
        "What an answer from the cache is charged, as a share of what it first cost.",
        values.fraction,
        "--cache-cost-fraction",
    ),
    Option(
        "assets_hours",
        "AQUATINT_ASSETS_HOURS",
        "Uploads are kept so long after their last use.",
        values.seconds,
        "--assets-hours",
    ),
    Option(
        "assets_bytes", "AQUATINT_ASSETS_BYTES", "Uploads of one key take so much room, at most.", values.size, "--assets-bytes"
    ),
    Option(
        "provenance_certificate",
        "AQUATINT_PROVENANCE_CERTIFICATE",
        "PEM file that results are signed with, the signer's own certificate first.",
        values.path,
        "--provenance-certificate",
    ),
    Option("provenance_key", "AQUATINT_PROVENANCE_KEY", "PEM file with its key.", values.path, "--provenance-key"),
    Option(
        "provenance_trust", "AQUATINT_PROVENANCE_TRUST", "PEM file of authorities to trust.", values.path, "--provenance-trust"
    ),
    Option("provenance_tsa", "AQUATINT_PROVENANCE_TSA", "URL of a time stamping authority.", values.url, "--provenance-tsa"),
    Option(
        "provenance_prompt",
        "AQUATINT_PROVENANCE_PROMPT",
        "Write the prompt into signed manifests.",
        values.flag,
        "--provenance-prompt",
        switch=True,
    ),
    Option(
        "image_classifier",
        "AQUATINT_IMAGE_CLASSIFIER",
        "Who looks at pictures where a policy asks for it: nudenet, colour or none.",
        values.choice("nudenet", "colour", "none"),
        "--image-classifier",
    ),
    # A key goes only to where it belongs: whoever moves OpenAI's base moves both.
    Option("moderation_key", "OPENAI_API_KEY", "A key for OpenAI.", values.text),
    Option("moderation_key", "AQUATINT_MODERATION_KEY", "A key for OpenAI's moderation endpoint alone.", values.text),
    Option("moderation_url", "OPENAI_BASE_URL", "Where OpenAI's API is.", values.url),
    Option("moderation_url", "AQUATINT_MODERATION_URL", "Where OpenAI's moderation endpoint is.", values.url, "--moderation-url"),
    Option("moderation_days", "AQUATINT_MODERATION_DAYS", "The audit is kept for so long.", values.seconds, "--moderation-days"),
    Option(
        "moderation_prompts",
        "AQUATINT_MODERATION_PROMPTS",
        "Keep prompts in the audit of moderation.",
        values.flag,
        "--moderation-prompts",
        switch=True,
    ),
    Option("log_format", "AQUATINT_LOG_FORMAT", "console or json.", values.choice("console", "json"), "--log-format"),
    Option(
        "log_level",
        "AQUATINT_LOG_LEVEL",
        "debug, info, warning or error.",
        values.choice("debug", "info", "warning", "error"),
        "--log-level",
    ),
    Option("api_keys", "AQUATINT_API_KEYS", "Keys that callers present, separated by commas.", values.keys),
    Option("api_keys", "AQUATINT_API_KEY", "A key that callers present.", values.keys),
    Option(
        "open_access",
        "AQUATINT_OPEN_ACCESS",
        "Serve other machines without any key.",
        values.flag,
        "--open-access",
        switch=True,
    ),
)


def parse(environ: Mapping[str, str], flags: Mapping[str, str], *, cwd: Path) -> Settings:
    """The settings; raises `SettingsError` for the first wrong one. ``flags`` maps field names to given texts."""
    found: dict[str, Any] = {}
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
            value = (*found.get("api_keys", ()), *value)
        found[option.field] = value
    found.setdefault("home", _home(environ))
    if "models" not in found and (cwd / "models.yaml").is_file():
        found["models"] = cwd / "models.yaml"
    return Settings(**found)


def _home(environ: Mapping[str, str]) -> Path:
    data = environ.get("XDG_DATA_HOME", "").strip() or "~/.local/share"
    return Path(data).expanduser().absolute() / "aquatint"
