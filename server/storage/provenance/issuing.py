"""A private authority, and certificates from it to sign pictures with."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from server.storage.provenance.credentials import AUTHORITY, AUTHORITY_KEY, CERTIFICATE, KEY, BadCredentials

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

_CLAIM_SIGNING = "1.3.6.1.4.1.62558.2.1"
_AUTHORITY_YEARS = 20
_EARLY = timedelta(hours=1)
"""Certificates begin a little in the past: clocks differ."""


def issue(folder: Path, organisation: str, years: int) -> None:
    """Write an authority (kept if ``folder`` has one) and a new certificate from it; keys are readable by their owner alone.

    The certificate has the key usages that C2PA asks for: claim signing, and e-mail protection beside it, as many validators
    know only that one. Raises `BadCredentials` if the authority that is there cannot be used.
    """
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - only who signs needs it

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (folder / AUTHORITY).exists():
        authority, authority_key = _authority(folder)
    else:
        authority_key = ec.generate_private_key(ec.SECP256R1())
        authority = _sign(
            f"{organisation} picture authority",
            organisation,
            _AUTHORITY_YEARS,
            authority_key,
            issuer=None,
            issuer_key=authority_key,
        )
        _write(folder / AUTHORITY_KEY, _key(authority_key), 0o600)
        _write(folder / AUTHORITY, _pem(authority), 0o644)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(f"{organisation} pictures", organisation, years, key, issuer=authority, issuer_key=authority_key)
    _write(folder / KEY, _key(key), 0o600)
    _write(folder / CERTIFICATE, _pem(certificate) + _pem(authority), 0o644)


def _authority(folder: Path) -> "tuple[Certificate, EllipticCurvePrivateKey]":
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415

    try:
        certificate = load_pem_x509_certificate((folder / AUTHORITY).read_bytes())
        key = load_pem_private_key((folder / AUTHORITY_KEY).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        msg = f"{folder} has {AUTHORITY}, and it cannot be used without {AUTHORITY_KEY}: {error}"
        raise BadCredentials(msg) from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        msg = f"{folder / AUTHORITY_KEY} is not the key of {AUTHORITY}."
        raise BadCredentials(msg)
    return certificate, key


def _sign(
    name: str,
    organisation: str,
    years: int,
    key: "EllipticCurvePrivateKey",
    *,
    issuer: "Certificate | None",
    issuer_key: "EllipticCurvePrivateKey",
) -> "Certificate":
    """A certificate for ``key``; one that signs itself (``issuer`` None) is an authority."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    now = datetime.now(UTC)
    authority = issuer is None
    usage = x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
    expires = now + timedelta(days=365 * years)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(expires if issuer is None else min(expires, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        purposes = [ExtendedKeyUsageOID.EMAIL_PROTECTION, x509.ObjectIdentifier(_CLAIM_SIGNING)]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(certificate: "Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return certificate.public_bytes(Encoding.PEM)


def _key(key: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """The file, with ``mode`` from its first byte on; whole or not at all."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    unfinished.replace(path)
