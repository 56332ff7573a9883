"""What a request asks beside its first image: a second pass, an enlarged picture, redrawn tiles. No tensors.

Each pass is a request of its own, in the words of `ImageRequest`: whatever reads a row's request (prompts, sizes, adapters) reads
what the present pass asks. Only where the latents come from is known to the engine alone.
"""

from math import ceil

import msgspec

from pipelines.contract.enlarging import Enlarger, Hires, Tiles, Upscale
from pipelines.contract.errors import AquatintError, InvalidRequest, TooLarge, Unsupported
from pipelines.contract.request import ImageRequest
from pipelines.contract.samplers import kept_steps

MOST_PIXELS = 1 << 26
"""Of a picture made larger, 8192 x 8192: several copies of it are held as numbers, whatever limits a model's card has."""

_LEAST_TILE = 64
_TILE_MULTIPLE = 8


class Pass(msgspec.Struct, frozen=True):
    """A pass after the first: what it asks, the share of its steps that is run, and how many images go through it."""

    request: ImageRequest
    strength: float
    param: str
    """Where the request asks for it."""
    rows: int = 1

    @property
    def steps(self) -> int:
        """Steps of all its rows together, as diffusers' older pipelines round; the encoder knows better."""
        return self.rows * max(1, kept_steps(self.request.sampling.steps, self.strength))

    @property
    def pixels(self) -> int:
        """Of one row."""
        return self.request.width * self.request.height


def idle(request: ImageRequest) -> bool:
    """Whether the first pass draws nothing: the picture sent along is only to be enlarged, or enlarged and then redrawn."""
    init = request.init
    return init is not None and init.strength == 0 and (request.hires is not None or request.upscale is not None)


def second(request: ImageRequest, hires: Hires) -> Pass:
    """The second pass of ``request``."""
    steps = request.sampling.steps if hires.steps is None else hires.steps
    sampling = msgspec.structs.replace(request.sampling, steps=steps)
    changed = {"width": hires.width, "height": hires.height, "sampling": sampling, "init": None, "hires": None}
    return Pass(msgspec.structs.replace(request, **changed), hires.strength, "hires")


def tiled(request: ImageRequest, upscale: Upscale, tiles: Tiles) -> Pass:
    """The pass over the tiles of ``request``'s enlarged picture."""
    width, columns = _axis(upscale.width, tiles)
    height, rows = _axis(upscale.height, tiles)
    changed = {"width": width, "height": height, "init": None, "hires": None, "upscale": None}
    return Pass(msgspec.structs.replace(request, **changed), tiles.strength, "upscale", columns * rows)


def later(request: ImageRequest, origin: ImageRequest) -> tuple[Pass, ...]:
    """The passes that follow the one that ``request`` asks; ``origin`` is what the first pass asked, whose steps tiles take."""
    found = []
    if request.hires is not None:
        found.append(second(request, request.hires))
    if request.upscale is not None and request.upscale.tiles is not None:
        found.append(tiled(origin, request.upscale, request.upscale.tiles))
    return tuple(found)


def mistake(request: ImageRequest) -> AquatintError | None:
    """What is wrong with how ``request`` asks for larger pictures, whatever the model."""
    checks = (_size_mistake(request), _hires_mistake(request), _upscale_mistake(request), _idle_mistake(request))
    return next((error for error in checks if error is not None), None)


def _axis(side: int, tiles: Tiles) -> tuple[int, int]:
    """A tile's side, and how many there are along one side of the picture; `pipelines.adapters.tiling.grid` says where."""
    size = min(tiles.size, ceil(side / _TILE_MULTIPLE) * _TILE_MULTIPLE)
    return size, 1 if size >= side else ceil((side - tiles.overlap) / (size - tiles.overlap))


def _size_mistake(request: ImageRequest) -> AquatintError | None:
    for param, larger in (("hires", request.hires), ("upscale", request.upscale)):
        if larger is not None and larger.width * larger.height > MOST_PIXELS:
            msg = f"{param!r}: {larger.width}x{larger.height} is more than {MOST_PIXELS:,} pixels."
            return TooLarge(msg, param=param)
    return None


def _hires_mistake(request: ImageRequest) -> AquatintError | None:
    hires = request.hires
    if hires is None:
        return None
    init = request.init
    if hires.width < request.width or hires.height < request.height:
        size = f"{hires.width}x{hires.height}"
        msg = f"The second pass must not be smaller than the first: {size} is less than {request.width}x{request.height}."
        return InvalidRequest(msg, param="hires")
    if not 0 < hires.strength <= 1:
        return InvalidRequest("The second pass's strength must be above 0 and at most 1.", param="hires")
    if hires.steps is not None and hires.steps < 1:
        return InvalidRequest("The second pass needs one step at least.", param="hires")
    if init is not None and (init.mask is not None or init.outpaint is not None):
        msg = "A second pass would repaint what the mask keeps: inpaint first, then send the result as the picture to begin from."
        return Unsupported(msg, param="hires")
    return _card_mistake(hires.enlarger, named=hires.card is not None, param="hires")


def _upscale_mistake(request: ImageRequest) -> AquatintError | None:
    upscale = request.upscale
    if upscale is None:
        return None
    if upscale.width < 1 or upscale.height < 1:
        return InvalidRequest("The enlarged picture needs a width and a height.", param="upscale")
    if upscale.enlarger is Enlarger.LATENT:
        return InvalidRequest(
            "A finished picture is enlarged by 'lanczos' or a 'model'; 'latent' is for 'hires'.", param="upscale"
        )
    if upscale.tiles is not None:
        wrong = _tiles_mistake(upscale.tiles)
        if wrong is not None:
            return wrong
    return _card_mistake(upscale.enlarger, named=upscale.card is not None, param="upscale")


def _tiles_mistake(tiles: Tiles) -> AquatintError | None:
    if tiles.size < _LEAST_TILE or tiles.size % _TILE_MULTIPLE:
        msg = f"A tile's size must be a multiple of {_TILE_MULTIPLE}, {_LEAST_TILE} pixels at least."
        return InvalidRequest(msg, param="upscale")
    if not 0 <= tiles.overlap <= tiles.size // 2:
        return InvalidRequest("Tiles may overlap by half their size at most.", param="upscale")
    if not 0 < tiles.strength <= 1:
        return InvalidRequest("The tiles' strength must be above 0 and at most 1.", param="upscale")
    return None


def _card_mistake(enlarger: Enlarger, *, named: bool, param: str) -> AquatintError | None:
    if (enlarger is Enlarger.MODEL) is named:
        return None
    problem = "names no upscaler to enlarge with" if not named else f"names an upscaler, but is to enlarge by {enlarger.value!r}"
    return InvalidRequest(f"{param!r} {problem}.", param=param)


def _idle_mistake(request: ImageRequest) -> AquatintError | None:
    init = request.init
    if init is None or not idle(request):
        return None
    if init.mask is not None or init.outpaint is not None:
        return InvalidRequest("With strength 0 nothing is drawn: leave the mask out, or raise strength.", param="strength")
    if request.hires is not None and request.hires.enlarger is Enlarger.LATENT:
        msg = "With strength 0 there are no latents to enlarge: let 'hires' enlarge by 'lanczos' or a 'model'."
        return InvalidRequest(msg, param="hires")
    return None
