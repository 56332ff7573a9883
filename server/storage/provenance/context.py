"""How the C2PA library is to behave, everywhere: no thumbnails, and never a look at the network."""

from typing import Any

_PURPOSES = (
    "1.3.6.1.5.5.7.3.4",  # e-mail protection, which the library takes by itself
    "1.3.6.1.5.5.7.3.8",  # time stamps
    "1.3.6.1.5.5.7.3.9",  # OCSP answers
    "1.3.6.1.5.5.7.3.36",  # document signing (RFC 9336)
    "1.3.6.1.4.1.62558.2.1",  # C2PA claim signing
)
_MOST_MANIFEST_MB = 16
"""Of one that is compressed, once it is not any more."""


def configuration(anchors: bytes = b"") -> dict[str, Any]:
    """The library's settings; ``anchors`` are the PEM certificates of those who are trusted.

    An empty list of hosts is a second lock behind the settings that switch off each kind of fetching: whatever a file names,
    manifests, OCSP responders or identities, nothing is asked for.
    """
    trust: dict[str, Any] = {"trust_config": "\n".join(_PURPOSES)}
    if anchors:
        trust["user_anchors"] = anchors.decode()
    return {
        # A thumbnail is up to 1.1 MB of the picture itself, and most of the time that signing takes.
        "builder": {"thumbnail": {"enabled": False}},
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
        "core": {
            "allowed_network_hosts": [],
            "allow_redirects": False,
            "decode_identity_assertions": False,
            "max_decompressed_manifest_size_in_mb": _MOST_MANIFEST_MB,
        },
        "trust": trust,
    }
