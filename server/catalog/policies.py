"""What is different for each tenant: `tenants:` in models.yaml.

A policy is made of sections, each a struct of the part of the server that obeys it. What an entry leaves out is as in the entry
``default``; what that leaves out is as the section says.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from server.catalog.allowances import Budget, Limits
from server.catalog.moderation import ModerationPolicy
from server.catalog.positions import Document
from server.catalog.routing import Routing
from server.domain.disclosure import Disclosure
from server.domain.retention import Keeping

DEFAULT = "default"


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry."""

    storage: Keeping = Keeping()
    """How long and how much of its results is kept."""
    disclosure: Disclosure = Disclosure()
    moderation: ModerationPolicy = ModerationPolicy()
    routing: Routing = Routing()
    budget: Budget = Budget()
    limits: Limits = Limits()


def policies(document: Document, entries: Mapping[str, Any]) -> Mapping[str, Policy]:
    """The policy of each tenant that has an entry, and of ``default``."""
    base = entries.get(DEFAULT) or {}
    if not isinstance(base, dict):
        raise document.error(("tenants", DEFAULT), "this must be a mapping")
    found = {DEFAULT: document.convert(("tenants", DEFAULT), base, Policy)}
    for tenant, entry in entries.items():
        if not isinstance(entry, dict):
            raise document.error(("tenants", tenant), "this must be a mapping")
        sections = {name: _section(base.get(name), entry.get(name)) for name in {**base, **entry}}
        found[tenant] = document.convert(("tenants", tenant), sections, Policy)
    return MappingProxyType(found)


def _section(base: object, entry: object) -> object:
    if isinstance(base, dict) and isinstance(entry, dict):
        return {**base, **entry}
    return base if entry is None else entry
