"""From requests to row states: embeddings, noise, and the latents of input pictures.

The order in which an image draws its random numbers is the order of diffusers' pipelines, so that the same seed gives the same
picture: txt2img draws the noise; img2img the latents of the picture, then the noise; inpainting with four channels the same
and then, for nothing, the latents of the masked picture; with nine channels the picture (unless strength is 1), the noise, the
masked picture. Inpainting at full strength begins with the noise alone, as there; where other content than the picture is
asked for, which diffusers has not, that content is under the noise. A second pass goes on with the same generator, in the order
of img2img: see `pipelines.engine.enlarging`.
"""

from collections.abc import Callable

import msgspec
import torch

from pipelines.adapters import inpainting, lora
from pipelines.adapters.additions import Shaping
from pipelines.adapters.opened import Find
from pipelines.adapters.shaping import shaping
from pipelines.contract.catalog import Emphasis, ModelCard
from pipelines.contract.errors import InvalidRequest, Unsupported
from pipelines.contract.family import Family as Architecture
from pipelines.contract.inpainting import MaskedContent
from pipelines.contract.request import Init, Sampling
from pipelines.engine.embeddings import Embeddings
from pipelines.engine.enlarging import Held, enlarged
from pipelines.engine.row import Row
from pipelines.engine.state import Kept, RowState, Timeline
from pipelines.engine.wordings import Cue, Reader
from pipelines.families import inversion, pictures
from pipelines.families.autoencoder import Moments
from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Family, Prompt
from pipelines.sampling.noise import Noise
from pipelines.sampling.solver import Schedulers, Solver

Encode = Callable[[torch.Tensor], Moments]


def _check(row: Row, family: Family) -> None:
    """Refuse a size the network cannot be cut into, and an option it has no place for."""
    _check_size(row.key.width, row.key.height, family)
    if row.request.sampling.skip_layers is not None and family.facts.family is not Architecture.SD3:
        msg = "Skip-layer guidance is for SD3 models only."
        raise Unsupported(msg, param="skip_layers")


def _check_size(width: int, height: int, family: Family) -> None:
    multiple = family.vae.scale * family.facts.patch
    if width % multiple or height % multiple:
        msg = f"The size {width}x{height} will not do: both sides must be multiples of {multiple} for this model."
        raise InvalidRequest(msg, param="size")


class Encoder:
    """Makes row states for one model."""

    def __init__(self, family: Family, card: ModelCard | None = None) -> None:
        """Share ``family``'s embeddings among all rows; ``card`` says how prompts are to be read.

        Raises `ModelLoadFailed` for a textual-inversion file that cannot be read.
        """
        self.embeddings = Embeddings(family)
        inversions = () if card is None else [inversion.load(each) for each in card.embeddings]
        self.reader = Reader(family, Emphasis.ORIGINAL if card is None else card.emphasis, inversions)
        self._family = family
        self._schedulers = Schedulers(family.scheduler_config)
        self._ready: tuple[Init, inpainting.Repainting] | None = None

    def state(self, row: Row, encode: Encode, find: Find, shaped: Shaping | None = None, *, held: Held | None = None) -> RowState:
        """The state in which ``row`` begins; ``encode`` gives the latent moments of pixels [1, 3, H, W], ``find`` its adapters.

        ``shaped`` is what they do to another image of the same request: the same as to this one. ``held`` is what a pass after
        the first begins from. Raises `InvalidRequest` for what this sampler or model cannot do.
        """
        family, request, init = self._family, row.request, row.request.init
        if held is not None and held.controls:
            request = msgspec.structs.replace(request, controls=held.controls)
        if init is None and held is None and family.facts.refines_only:
            msg = "This model is a refiner: it finishes a picture, or another model's image, and cannot begin one."
            raise Unsupported(msg, param="model")
        noise = Noise(row.seed, family.device, family.dtype) if held is None else held.noise
        _check(row, family)
        ahead = self.ahead(row)
        shape = (
            1,
            family.vae.channels,
            row.key.height // family.vae.scale,
            row.key.width // family.vae.scale,
        )
        solver = self._solver(row, noise)
        kept, channels = None, None
        if held is not None:
            picture = enlarged(held.latents, shape) if held.pixels is None else self._sample(encode(held.pixels), noise)
            latents = solver.noised(picture, noise.draw(shape))
        elif init is None:
            latents = solver.initial(noise.draw(shape))
        elif not init.inpaints:
            picture = self._sample(encode(pictures.init_pixels(init, row.key.width, row.key.height)), noise)
            latents = solver.noised(picture, noise.draw(shape))
        else:
            latents, kept, channels = self._inpaint(init, shape, solver, noise, encode)
        if family.facts.inpainting and channels is None:
            channels = self._blank(row, encode)
        return RowState(
            latents=latents,
            solver=solver,
            timelines=self._timelines(row, find),
            steps=solver.steps,
            guidance=request.sampling.guidance_scale,
            guidance_rescale=request.sampling.guidance_rescale,
            kept=kept,
            channels=channels,
            paste=init if init is not None and inpainting.puts_back(init) else None,
            skip_layers=request.sampling.skip_layers,
            shaping=shaping(request, family, find) if shaped is None else shaped,
            ahead=ahead,
        )

    def ahead(self, row: Row) -> int:
        """Steps of the passes that follow the present one of ``row``; what cannot be done is refused now, not when it is due."""
        steps = 0
        for each in row.to_come:
            try:
                _check_size(each.request.width, each.request.height, self._family)
                idle = Noise(0, self._family.device, self._family.dtype)
                size = (each.request.width, each.request.height)
                steps += each.rows * self._solver_for(each.request.sampling, idle, size, each.strength).steps
            except InvalidRequest as error:
                msg = f"{each.param!r}: {error.message}"
                raise type(error)(msg, param=each.param) from error
        return steps

    def refined(self, row: Row, state: RowState, find: Find) -> RowState:
        """``state`` as it goes on with this model, the refiner that ``row`` asks for, from where another model has left it.

        The prompts are read anew and the schedule is this model's own, from `Refiner.switch_at` on; the random numbers go on
        where they are, and so does what a mask keeps. The first model's mask channels are left behind unless this one has them
        too. Raises `Unsupported` for a model whose latents are not the first one's.
        """
        family, request = self._family, row.request
        if request.refiner is None:
            msg = "there is no refiner"
            raise ValueError(msg)
        nine = family.facts.inpainting
        if state.latents.shape[1] != family.vae.channels or (nine and state.channels is None):
            msg = f"Model {request.refiner.model!r} cannot refine what model {request.model!r} makes: they are not of a kind."
            raise Unsupported(msg, param="refiner")
        _check(row, family)
        return RowState(
            latents=state.latents.to(family.device, family.dtype),
            solver=self._solver(row, state.solver.noise, start=request.refiner.switch_at),
            timelines=self._timelines(row, find),
            steps=row.own_steps,
            guidance=state.guidance,
            guidance_rescale=state.guidance_rescale,
            kept=state.kept,
            channels=state.channels if nine else None,
            paste=state.paste,
            skip_layers=state.skip_layers,
            begun=state.position,
            ahead=state.ahead,
        )

    def prompts(self, row: Row, find: Find) -> tuple[tuple[Cue, ...], ...]:
        """What ``row`` is conditioned on: see `Reader.prompts`. A refiner has none of its LoRAs: they are not made for it."""
        return self.reader.prompts(row, None if row.refining else lora.texts(row.request, find))

    def _timelines(self, row: Row, find: Find) -> tuple[Timeline, ...]:
        prompts = self.prompts(row, find)
        encoded = self.embeddings.fetch(cue.prompt for cues in prompts for cue in cues)

        def told(prompt: Prompt) -> Conditioning:
            return self._family.condition(encoded[prompt], row.request, negative=prompt.negative)

        return tuple(tuple((cue.begins, told(cue.prompt)) for cue in cues) for cues in prompts)

    def _solver(self, row: Row, noise: Noise, *, start: float | None = None) -> Solver:
        return self._solver_for(row.request.sampling, noise, (row.key.width, row.key.height), row.strength, start=start)

    def _solver_for(
        self,
        sampling: Sampling,
        noise: Noise,
        size: tuple[int, int],
        strength: float | None,
        *,
        start: float | None = None,
    ) -> Solver:
        side = self._family.vae.scale * self._family.facts.patch
        tokens = (size[1] // side) * (size[0] // side)
        return self._schedulers.solver(sampling, noise, strength=strength, start=start, tokens=tokens)

    def _inpaint(
        self, init: Init, shape: tuple[int, int, int, int], solver: Solver, noise: Noise, encode: Encode
    ) -> tuple[torch.Tensor, Kept | None, torch.Tensor | None]:
        """Latents of ``shape``, what is blended into them, and the channels beside them."""
        family = self._family
        asked = self._prepared(init, shape[3] * family.vae.scale, shape[2] * family.vae.scale)
        small = asked.shrunk(*shape[2:]).to(family.device)
        mask = small.to(family.dtype)
        whole = init.strength >= 1.0 and asked.content is MaskedContent.ORIGINAL
        nine = family.facts.inpainting
        picture = None if nine and whole else self._sample(encode(asked.pixels), noise)
        drawn = noise.draw(shape)
        latents = solver.initial(drawn)
        if picture is not None:
            picture = asked.begun(picture, mask, drawn)
            latents = latents if whole else solver.noised(picture, drawn)
            if not nine:
                # diffusers encodes the masked picture here and does not use it; only the draw matters, for what is drawn later.
                noise.draw(shape)
                return latents, Kept(small if asked.soft else mask, picture, drawn, soft=asked.soft), None
        channels = torch.cat([(mask > 0).to(family.dtype), self._sample(encode(asked.shown), noise)], dim=1)
        if not asked.soft:
            return latents, None, channels
        if picture is None:
            picture = self._sample(encode(asked.pixels), noise)
        # What the mask keeps wholly is left to the network, as without softness: nothing is blended in there.
        return latents, Kept(torch.where(small > 0, small, 1.0), picture, drawn, soft=True), channels

    def _prepared(self, init: Init, width: int, height: int) -> inpainting.Repainting:
        """``init`` made ready; the images of one request share it."""
        if self._ready is None or self._ready[0] is not init or self._ready[1].pixels.shape[-2:] != (height, width):
            self._ready = (init, inpainting.prepared(init, width, height))
        return self._ready[1]

    def _blank(self, row: Row, encode: Encode) -> torch.Tensor:
        """What a nine-channel network gets without a mask: everything is to be painted, nothing is known."""
        mean = encode(torch.zeros(1, 3, row.key.height, row.key.width)).mean
        grey = self._family.vae.scaled(mean.to(self._family.dtype))
        return torch.cat([torch.ones_like(grey[:, :1]), grey], dim=1)

    def _sample(self, moments: Moments, noise: Noise) -> torch.Tensor:
        """Scaled latents drawn from the VAE's posterior, in the VAE's precision, then rounded to the network's."""
        drawn = moments.mean + moments.std * noise.draw(moments.mean.shape, moments.mean.dtype)
        return self._family.vae.scaled(drawn.to(self._family.dtype))
