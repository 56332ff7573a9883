"""The part that signs results, and what is to be known of it at the start."""

import asyncio

from structlog.typing import FilteringBoundLogger

from server.domain.clock import Clock
from server.settings import Settings
from server.storage.provenance.credentials import days_left, found
from server.storage.provenance.signing import Signer

SOON_DAYS = 30
"""A certificate that has no more left is worth a warning."""
_SIGNED_INPUTS = 16 << 20


def signed_inputs(signer: Signer | None) -> int:
    """Bytes of input files that one request may have kept for their manifests."""
    return 0 if signer is None else _SIGNED_INPUTS


def signing(settings: Settings, clock: Clock, trusted: bytes) -> Signer | None:
    """What signs results; None if there is no certificate. Raises `BadCredentials` if there is one and it cannot be used."""
    credentials = found(settings.provenance_certificate, settings.provenance_key, settings.provenance, clock.time())
    return None if credentials is None else Signer(credentials, settings.provenance_tsa, trusted)


async def check_signing(signer: Signer | None) -> None:
    """Raise `BadCredentials` if results are to be signed and cannot be."""
    if signer is not None:
        await asyncio.to_thread(signer.prove)


def tell_signing(signer: Signer | None, now: float, log: FilteringBoundLogger) -> None:
    """Say in the log what results are signed with, and warn if its time is nearly over."""
    if signer is not None:
        credentials = signer.credentials
        days = days_left(credentials, now)
        tell = log.warning if days <= SOON_DAYS else log.info
        tell("results are signed", subject=credentials.subject, algorithm=credentials.algorithm, days_left=days)
