"""What pictures are signed with: a certificate and its key, read and checked when the server starts."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

CERTIFICATE, KEY, AUTHORITY, AUTHORITY_KEY = "certificate.pem", "key.pem", "ca.pem", "ca-key.pem"
"""What `aquatint provenance init` writes."""
_LEAST_RSA = 2048


class BadCredentials(Exception):
    """A certificate or a key cannot be used; the message names the file."""


class Credentials(msgspec.Struct, frozen=True):
    """A certificate with those that vouch for it, and the key to it."""

    chain: bytes
    """PEM, the signer's own first."""
    key: bytes
    """PEM, PKCS#8, not encrypted."""
    algorithm: str
    """As C2PA calls it: es256, ps256, ed25519, ..."""
    subject: str
    expires: float
    """Unix time."""

    def __repr__(self) -> str:
        return f"Credentials({self.subject!r}, {self.algorithm}, expires={self.expires})"


def found(certificate: Path | None, key: Path | None, folder: Path, now: float) -> Credentials | None:
    """Those of the two files that were named, else of ``folder``; None if there are none. Raises `BadCredentials`."""
    if (certificate is None) != (key is None):
        msg = "--provenance-certificate and --provenance-key go together: one of them is missing."
        raise BadCredentials(msg)
    if certificate is not None and key is not None:
        return load(certificate, key, now)
    if not (folder / CERTIFICATE).exists():
        return None
    return load(folder / CERTIFICATE, folder / KEY, now)


def load(certificate: Path, key: Path, now: float) -> Credentials:
    """The credentials in two PEM files; raises `BadCredentials` if they do not belong together or their time is over."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - only who signs needs it
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415

    chain = _read(certificate)
    try:
        first, *_ = load_pem_x509_certificates(chain)
    except ValueError as error:
        msg = f"{certificate} holds no PEM certificates: {error}"
        raise BadCredentials(msg) from None
    try:
        private = serialization.load_pem_private_key(_read(key), password=None)
    except (ValueError, TypeError) as error:
        msg = f"{key} holds no private key in PEM without a password: {error}"
        raise BadCredentials(msg) from None
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*spki) != first.public_key().public_bytes(*spki):
        msg = f"{key} is not the key of the first certificate in {certificate}."
        raise BadCredentials(msg)
    if not first.not_valid_before_utc.timestamp() <= now < first.not_valid_after_utc.timestamp():
        msg = f"{certificate} is valid from {first.not_valid_before_utc} to {first.not_valid_after_utc}, not now."
        raise BadCredentials(msg)
    pkcs8 = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    subject = first.subject.rfc4514_string()
    return Credentials(chain, pkcs8, _algorithm(private, key), subject, first.not_valid_after_utc.timestamp())


def anchors(named: Path | None, folder: Path) -> bytes:
    """The PEM certificates whose signatures are trusted: those in the file ``named``, and the authority of ``folder``."""
    own = folder / AUTHORITY
    return b"\n".join(certificates(path) for path in (named, own if own.exists() else None) if path is not None)


def certificates(path: Path) -> bytes:
    """The PEM certificates in ``path``; raises `BadCredentials` if there are none."""
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415

    text = _read(path)
    try:
        several = load_pem_x509_certificates(text)
    except ValueError as error:
        msg = f"{path} holds no PEM certificates: {error}"
        raise BadCredentials(msg) from None
    return b"".join(_pem(each) for each in several)


def days_left(credentials: Credentials, now: float) -> int:
    """Whole days until they expire."""
    return (datetime.fromtimestamp(credentials.expires, UTC) - datetime.fromtimestamp(now, UTC)).days


def _pem(certificate: "Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return certificate.public_bytes(Encoding.PEM)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise BadCredentials(msg) from None


def _algorithm(key: "PrivateKeyTypes", path: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    msg = f"{path}: C2PA signs with EC keys (P-256, P-384, P-521), RSA of {_LEAST_RSA} bits or more, or Ed25519; this is another."
    raise BadCredentials(msg)
