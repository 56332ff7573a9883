"""Every preprocessor of the contract's table, at work: pictures in, control images out."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

import cv2
import torch

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.errors import ModelLoadFailed, Unsupported
from pipelines.contract.messages import Preprocess
from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import Options, PreprocessorSpec, find, missing, settle
from pipelines.families.progress import Progress
from pipelines.preprocessing import edges, tones
from pipelines.preprocessing.checkpoint import tensors
from pipelines.preprocessing.networks import OPENERS, RUNNERS, Opened
from pipelines.preprocessing.pixels import Pixels, padded, read, written
from pipelines.preprocessing.weights import files

KEPT_BYTES = 2 << 30
"""Weights that stay in RAM; what was used last stays in any case."""

DRAWN: Mapping[str, Callable[[Pixels, Options], Pixels]] = {
    "canny": edges.canny,
    "sobel": edges.sobel,
    "scharr": edges.scharr,
    "outlines": edges.outlines,
    "lineart_standard": edges.lineart,
    "scribble_xdog": edges.xdog,
    "shuffle": tones.shuffle,
    "color_grid": tones.grid,
    "recolor_luminance": tones.luminance,
    "recolor_intensity": tones.intensity,
    "grey": tones.grey,
    "invert": tones.invert,
    "threshold": tones.threshold,
    "blur_gaussian": tones.blur,
    "tile_resample": tones.resample,
}
"""Those without weights, by the ids of `pipelines.contract.preprocessing`."""


class Preprocessors:
    """Makes control images on the CPU, and keeps the networks it has opened, the least recently used leaving first.

    Not on the GPU: what it would need there is in nobody's books, and its work would stand between the ticks. For one thread, in
    which it is made; how many threads torch takes there is ``threads``.
    """

    def __init__(self, *, threads: int = 1, kept_bytes: int = KEPT_BYTES) -> None:
        """Limit this thread's work to ``threads`` cores and the networks at hand to ``kept_bytes``."""
        _limit(threads)
        self._kept_bytes = kept_bytes
        self._opened: OrderedDict[tuple[str, PreprocessorCard], Opened] = OrderedDict()

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of the weights at hand, the least recently used first."""
        return tuple(name for name, _ in self._opened)

    def run(self, work: Preprocess, progress: Progress = lambda _part, _fraction: None) -> Picture:
        """The control image that ``work`` asks for: RGB, its shorter side ``resolution`` pixels long.

        Raises an `AquatintError` for what cannot be done; whatever else a library raises is a mistake of ours.
        """
        spec = find(work.preprocessor)
        options = settle(spec, work.options)
        pixels = read(work.picture, int(options["resolution"]))
        height, width = pixels.shape[:2]
        if spec.weights is None:
            return written(DRAWN[spec.id](pixels, options), width, height)
        opened = self._open(spec, work.card, progress)
        made: Any = RUNNERS[spec.id](opened, padded(pixels), options)
        return written(made[:height, :width], width, height)

    def _open(self, spec: PreprocessorSpec, card: PreprocessorCard | None, progress: Progress) -> Opened:
        weights = spec.weights
        if card is None or weights is None:
            raise Unsupported(missing(spec), param="preprocessor")
        key = weights.name, card
        if key not in self._opened:
            progress(card.name, 0.0)
            try:
                opened = OPENERS[weights.name]([tensors(path) for path in files(card, weights, progress)])
            except ModelLoadFailed as error:
                msg = f"The preprocessor {spec.id!r} cannot be used: {error.message}"
                raise ModelLoadFailed(msg, param="preprocessor") from error
            self._make_room(opened.bytes)
            self._opened[key] = opened
        self._opened.move_to_end(key)
        return self._opened[key]

    def _make_room(self, wanted: int) -> None:
        while self._opened and wanted + sum(each.bytes for each in self._opened.values()) > self._kept_bytes:
            self._opened.popitem(last=False)


def _limit(threads: int) -> None:
    """Keep this thread's work to ``threads`` cores, and no other thread's.

    torch counts for each thread, but new threads begin with what was set last; so another one sets what was before.
    """
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    others = Thread(target=torch.set_num_threads, args=(usual,))
    others.start()
    others.join()
    cv2.setNumThreads(threads)
