"""Preprocessing without numpy and torch, for the fake worker: whatever is asked for, the picture's edges come back."""

from collections.abc import Callable

from PIL import Image, ImageFilter

from pipelines.contract.errors import Unsupported
from pipelines.contract.messages import Preprocess
from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import find, missing, scaled, settle


def fake(work: Preprocess, _progress: Callable[[str, float], None]) -> Picture:
    """Edges, at the size and under the conditions that the real preprocessor has."""
    spec = find(work.preprocessor)
    options = settle(spec, work.options)
    if spec.weights is not None and work.card is None:
        raise Unsupported(missing(spec), param="preprocessor")
    picture = work.picture
    image = Image.frombytes(picture.mode, (picture.width, picture.height), picture.data).convert("L")
    image = image.resize(scaled(picture.width, picture.height, int(options["resolution"])))
    edges = image.filter(ImageFilter.FIND_EDGES).convert("RGB")
    return Picture(edges.width, edges.height, "RGB", edges.tobytes())
