"""Random numbers of one image: a CPU generator seeded per image, as in diffusers, so that every device starts alike."""

from collections.abc import Sequence

import torch


class Noise:
    """All randomness of one image, drawn in a fixed order whatever it is batched with."""

    __slots__ = ("_device", "_dtype", "generator", "seed")

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        """Seed with 0 <= ``seed`` < 2**64; numbers are drawn on the CPU in ``dtype``, then moved to ``device``."""
        self.seed = seed
        self.generator = torch.Generator("cpu").manual_seed(seed)
        self._device = device
        self._dtype = dtype

    def draw(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Standard normal numbers of ``shape``; equal to diffusers' ``randn_tensor`` with the same generator and ``dtype``."""
        drawn = torch.randn(tuple(shape), generator=self.generator, dtype=self._dtype if dtype is None else dtype)
        return drawn.to(self._device, non_blocking=True)

    def state(self) -> torch.Tensor:
        """The generator's state, for `restore`."""
        return self.generator.get_state()

    def restore(self, state: torch.Tensor) -> None:
        """Go back to ``state``: the numbers drawn since are drawn again."""
        self.generator.set_state(state)
