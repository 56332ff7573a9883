"""What a tenant's pictures say about their being made by a machine: `disclosure:` in models.yaml."""

import msgspec

MOST_TEXT = 1000


class Disclosure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much is told; it does not need a certificate."""

    header: bool = True
    """``x-ai-generated: true`` on answers that bring pictures."""
    metadata: bool = True
    """IPTC's DigitalSourceType in the XMP of the file."""
    text: str = ""
    """A line for people: the description in the XMP, and in the signed manifest where there is one."""

    def __post_init__(self) -> None:
        """Refuse a text that a file's metadata could not hold."""
        if len(self.text) > MOST_TEXT or not self.text.isprintable():
            msg = f"'text' must be one line of at most {MOST_TEXT} characters"
            raise ValueError(msg)
