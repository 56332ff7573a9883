"""How long and how much of a tenant's results is kept: `storage` of its entry under `tenants:` in models.yaml."""

from typing import Annotated

import msgspec
from msgspec import Meta


class Keeping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is not said here is as the server's settings say."""

    hours: Annotated[float, Meta(gt=0)] | None = None
    """From when a result is stored."""
    bytes: Annotated[int, Meta(gt=0)] | None = None
    """All results of the tenant together, equal ones counted once; the oldest go first."""
