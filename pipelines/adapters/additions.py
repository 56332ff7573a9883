"""What adapters do to one image, and to one evaluation of it.

Each kind has its own file: how it is opened (once), what part of it a row takes (once per image), and how the parts of all rows
act in one evaluation (every tick). Rows without it pay nothing and are not touched.
"""

import msgspec

from pipelines.adapters.control.part import ControlPart
from pipelines.adapters.lora import LoraPart
from pipelines.adapters.references.part import ReferencePart


class Additions(msgspec.Struct, frozen=True):
    """What one evaluation of the network gets beside latents, timestep and prompt."""

    loras: tuple[LoraPart, ...] = ()
    controls: tuple[ControlPart, ...] = ()
    references: tuple[ReferencePart, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.loras or self.controls or self.references)


NOTHING = Additions()


class Shaping(msgspec.Struct, frozen=True):
    """What one image takes of its adapters, for its whole way."""

    loras: tuple[LoraPart, ...] = ()
    controls: tuple[ControlPart, ...] = ()
    references: tuple[ReferencePart, ...] = ()

    def at(self, position: int, total: int, *, negative: bool) -> Additions:
        """What the evaluation at ``position`` of ``total`` gets, for the negative or the positive prompt."""
        if not (self.loras or self.controls or self.references):
            return NOTHING
        return Additions(
            self.loras,
            tuple(said for part in self.controls if (said := part.at(position, total, negative=negative)) is not None),
            tuple(part for part in self.references if part.speaks(position, total, negative=negative)),
        )


UNSHAPED = Shaping()
