"""LoRA: low-rank changes of a network's weights, added for the rows that ask for them (https://arxiv.org/abs/2106.09685).

The base's weights stay as they are. A file is read once into one layer per module that it changes (`reading`); in each
evaluation those modules get a hook that adds, to the rows that use it, what the layers say (`application`).
"""

from pipelines.adapters.lora.application import applied
from pipelines.adapters.lora.opening import open_lora
from pipelines.adapters.lora.parts import Lora, LoraPart
from pipelines.adapters.lora.uses import TextParts, parts, texts

__all__ = ["Lora", "LoraPart", "TextParts", "applied", "open_lora", "parts", "texts"]
