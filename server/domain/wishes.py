"""What a caller says, or may, that is no part of the picture's recipe, but that some roads understand or all must honour."""

import msgspec

AUTO_WORD = "auto"


class Wishes(msgspec.Struct, frozen=True):
    """Words beside a request; our own engine needs none of them."""

    quality: str = AUTO_WORD
    """As the caller wrote it: low, medium, high, ... Our own engine has it as a number of steps already."""
    background: str = AUTO_WORD
    """``opaque``, ``transparent`` or ``auto``."""
    said: tuple[str, ...] = ()
    """The options that the caller named itself, in the spelling of its dialect: what it did not name, no road has to honour."""
    allowed: tuple[str, ...] = ()
    """The models and upstreams that the caller's key may use, whoever chooses among them; empty: all."""
