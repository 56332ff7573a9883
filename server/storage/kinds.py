"""What a file is by its first bytes; names and declared types are never asked."""

_PNG, _JPEG, _GIF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"GIF87a", b"GIF89a")
_AVIF = (b"avif", b"avis")


def media_type(data: bytes) -> str | None:
    """``image/png``, ``image/jpeg``, ``image/webp``, ``image/gif`` or ``image/avif``; None for everything else."""
    if data.startswith(_PNG):
        return "image/png"
    if data.startswith(_JPEG):
        return "image/jpeg"
    if data.startswith(_GIF):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp" and data[8:12] in _AVIF:
        return "image/avif"
    return None
