"""What is known of an upload that lies in a bucket, beside its bytes."""

import msgspec


class Upload(msgspec.Struct, frozen=True):
    """One file of a tenant, as it was sent. Its row has a `server.domain.stored.BlobState`, and lives as a blob's does."""

    path: str
    """Never used twice, not even for the same bytes."""
    tenant: str
    id: str
    """What the tenant knows it by; the same for the same bytes."""
    bytes: int
    created: float
    """Unix time."""
    used: float
    """Unix time of the last use that was written down."""
