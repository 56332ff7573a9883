"""`upstreams:` in models.yaml: other people's image services, as roads that a request may take.

An entry is on as soon as its key is in the environment. Without any entry there is still ``openai``, on by itself with
``OPENAI_API_KEY``. An upstream has a card like a model, made here, so that every dialect can translate for it.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec.structs import replace

from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.errors import UnknownModel
from pipelines.contract.family import Family
from server.catalog.positions import Document, Where
from server.domain.generation import AUTO, CACHE, LOCAL

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TAKEN = (LOCAL, AUTO, CACHE)
_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_OTHERS = ("monthly_budget_usd", "prices")
"""Keys of an entry that are read elsewhere."""


class Kind(StrEnum):
    """Whose protocol an upstream speaks."""

    OPENAI = "openai"
    """OpenAI's Images API, or a server that is compatible with it."""
    STABILITY = "stability"
    """Stability's v2beta REST API."""
    REPLICATE = "replicate"
    """Replicate's predictions."""


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds."""

    connect: float = 5.0
    attempt: float = 300.0
    """For one attempt, from the connection to the last byte."""
    total: float = 600.0
    """For all attempts of a request and the pauses between them."""


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry; ``name`` is its key there and the name of the road."""

    name: str
    kind: Kind
    model: str = ""
    """What is asked for there; empty: today's best of its kind."""
    successors: tuple[str, ...] | None = None
    """What is asked for, in this order, once ``model`` is gone; absent: those that its kind has."""
    models: tuple[str, ...] | None = None
    """Further models that callers may name as ``NAME/MODEL``; absent: those that its kind has."""
    base_url: str = ""
    """Empty: OPENAI_BASE_URL for kind openai, else the vendor's own."""
    key_env: str | None = ""
    """The environment variable with the key; empty: the usual one of its kind; null: it needs none."""
    file_hosts: tuple[str, ...] | None = None
    """Hosts beside that of ``base_url`` from which results may be fetched; ``.example.com`` stands for all below it."""
    inputs: Mapping[str, str] | None = None
    """replicate: the names that the model has for prompt, seed, aspect_ratio, width, height, negative_prompt, ..."""
    sizes: tuple[tuple[int, int], ...] = ()
    """The only sizes that its model makes; empty: what is known of the model."""
    concurrency: int = 8
    """Requests under way there at the same time."""
    queue: int = 64
    """Requests that may wait here for their turn."""
    attempts: int = 4
    """Of one request, at most."""
    idempotent: bool = False
    """Whether it answers a repeated Idempotency-Key without charging again: then also unclear failures are retried."""
    timeouts: Timeouts = Timeouts()
    owned_by: str = ""
    description: str = ""
    enabled: bool = True
    """False: off, even with a key."""
    on: bool = False
    """Whether it is enabled and has its key; filled in by the catalog."""

    @property
    def offered(self) -> tuple[str, ...]:
        """Every model that callers may name behind its name, the configured one first."""
        return tuple(dict.fromkeys((self.model, *(self.successors or ()), *(self.models or ()))))

    @property
    def ids(self) -> tuple[str, ...]:
        """Every name that a request may have as its model to take this road."""
        return (self.name, *(f"{self.name}/{model}" for model in self.offered))

    def means(self, model_id: str) -> str | None:
        """The model that ``NAME/MODEL`` names; None for whatever else a request's model is, which leaves the choice here."""
        head, slash, rest = model_id.partition("/")
        return rest if slash and head == self.name and rest in self.offered else None

    def card(self, model_id: str) -> ModelCard:
        """A card for one of `ids`, with which requests are translated; no worker ever sees it."""
        if model_id not in self.ids:
            msg = f"The upstream {self.name!r} has no model {model_id!r}; there are {', '.join(self.ids)}."
            raise UnknownModel(msg, param="model")
        if not self.on:
            why = f"{self.key_env} is not set" if self.enabled else "models.yaml says so"
            msg = f"The upstream {self.name!r} is off: {why}."
            raise UnknownModel(msg, param="model")
        width, height = self.sizes[0] if self.sizes else (1024, 1024)
        return ModelCard(
            id=model_id,
            source=f"upstream:{self.kind.value}",
            # No architecture: whatever is made for one is refused, and sizes are multiples of 8 as everywhere.
            family=Family.FAKE,
            defaults=Defaults(width=width // 8 * 8, height=height // 8 * 8, steps=20, guidance=1.0),
            limits=Limits(max_pixels=_MOST_PIXELS, max_steps=150, max_images=10, min_side=64),
            owned_by=self.owned_by or self.name,
            description=self.description,
        )


class _Usual(msgspec.Struct, frozen=True):
    base_url: str
    key_env: str
    model: str
    successors: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    file_hosts: tuple[str, ...] = ()
    owned_by: str = ""


_MOST_PIXELS = 3840 * 2160
"""The largest picture that any of them makes."""

_USUAL: Mapping[Kind, _Usual] = MappingProxyType(
    {
        Kind.OPENAI: _Usual(
            "https://api.openai.com/v1",
            "OPENAI_API_KEY",
            "gpt-image-2.6-flare",
            ("gpt-image-2.6-sunburst", "gpt-image-2.5-flare", "gpt-image-2"),
            ("gpt-image-2.5-sunburst", "chatgpt-image-latest", "gpt-image-1.5", "gpt-image-1-mini"),
            owned_by="openai",
        ),
        Kind.STABILITY: _Usual(
            "https://api.stability.ai",
            "STABILITY_API_KEY",
            "ultra",
            (),
            (
                "core",
                *("sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium"),
                *("sketch", "structure", "style"),
                *("fast", "conservative", "creative"),
            ),
            owned_by="stability-ai",
        ),
        Kind.REPLICATE: _Usual(
            "https://api.replicate.com",
            "REPLICATE_API_TOKEN",
            "black-forest-labs/flux-schnell",
            file_hosts=("replicate.delivery", ".replicate.delivery"),
            owned_by="replicate",
        ),
    }
)
"""As the vendors had it on 2026-11-22."""

INPUTS: Mapping[str, str] = MappingProxyType({"prompt": "prompt", "seed": "seed", "aspect_ratio": "aspect_ratio"})
"""What models at Replicate have in common."""


def upstreams(
    document: Document, entries: Mapping[str, Any], environ: Mapping[str, str], taken: Mapping[str, object]
) -> Mapping[str, Upstream]:
    """The upstreams of ``entries``, and ``openai`` if it has a key and its name is free; raises `CatalogError`.

    ``taken`` are the names of models. Keys are looked up in ``environ``, and are not kept.
    """
    found = {name: _entry(document, name, fields, environ, taken) for name, fields in entries.items()}
    own = Kind.OPENAI.value
    if environ.get(_USUAL[Kind.OPENAI].key_env, "").strip() and own not in found and own not in taken:
        found[own] = completed(Upstream(own, Kind.OPENAI), environ)
    return MappingProxyType(found)


def completed(upstream: Upstream, environ: Mapping[str, str]) -> Upstream:
    """``upstream`` with everything that its entry leaves to its kind and to the environment."""
    usual = _USUAL[upstream.kind]
    key_env = usual.key_env if upstream.key_env == "" else upstream.key_env
    base = upstream.base_url
    if not base and upstream.kind is Kind.OPENAI:
        base = environ.get("OPENAI_BASE_URL", "").strip()
    own = not upstream.model
    return replace(
        upstream,
        model=upstream.model or usual.model,
        successors=(usual.successors if own else ()) if upstream.successors is None else upstream.successors,
        models=(usual.models if own or upstream.kind is not Kind.REPLICATE else ())
        if upstream.models is None
        else upstream.models,
        base_url=(base or usual.base_url).rstrip("/"),
        key_env=key_env,
        file_hosts=usual.file_hosts if upstream.file_hosts is None else upstream.file_hosts,
        inputs=(INPUTS if upstream.kind is Kind.REPLICATE else {}) if upstream.inputs is None else upstream.inputs,
        owned_by=upstream.owned_by or usual.owned_by,
        on=upstream.enabled and (key_env is None or bool(environ.get(key_env, "").strip())),
    )


def _entry(document: Document, name: str, fields: object, environ: Mapping[str, str], taken: Mapping[str, object]) -> Upstream:
    where: Where = ("upstreams", name)
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise document.error(where, f"a name is made of small letters, digits and . _ -, and is none of {', '.join(_TAKEN)}")
    if name in taken:
        raise document.error(where, "a model has this name already")
    fields = {} if fields is None else fields
    if not isinstance(fields, dict):
        raise document.error(where, "this must be a mapping such as {kind: openai}")
    for key in ("name", "on"):
        if key in fields:
            raise document.error((*where, key), "there is no such setting")
    # An entry whose name is a kind needs not say it twice.
    usual = {"kind": name} if name in set(Kind) else {}
    said = {key: value for key, value in fields.items() if key not in _OTHERS}
    if "successor" in said:
        said["successors"] = [said.pop("successor"), *said.get("successors", ())]
    upstream = document.convert(where, {**usual, **said, "name": name}, Upstream)
    _check(document, where, upstream)
    return completed(upstream, environ)


def _check(document: Document, where: Where, upstream: Upstream) -> None:
    if upstream.base_url and not _URL.fullmatch(upstream.base_url):
        raise document.error((*where, "base_url"), "must be an http(s) URL such as https://api.openai.com/v1")
    for key, low, high in (("concurrency", 1, 1000), ("queue", 0, 100_000), ("attempts", 1, 20)):
        if not low <= getattr(upstream, key) <= high:
            raise document.error((*where, key), f"must be from {low} to {high}")
    for key in ("connect", "attempt", "total"):
        if not 0 < getattr(upstream.timeouts, key) <= 24 * 3600:
            raise document.error((*where, "timeouts", key), "must be above 0 and at most a day, in seconds")
    if any(min(size) < 1 or size[0] * size[1] > _MOST_PIXELS for size in upstream.sizes):
        raise document.error((*where, "sizes"), f"each is [WIDTH, HEIGHT], with at most {_MOST_PIXELS} pixels")
    if upstream.inputs is not None and upstream.kind is not Kind.REPLICATE:
        raise document.error((*where, "inputs"), "only kind replicate has inputs")
    if upstream.inputs is not None and "prompt" not in upstream.inputs:
        raise document.error((*where, "inputs"), "prompt must be among them")
