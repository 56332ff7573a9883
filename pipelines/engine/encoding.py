"""From requests to row states: embeddings, noise, and the latents of input pictures.

The order in which an image draws its random numbers is the order of diffusers' pipelines, so that the same seed gives the same
picture: txt2img draws the noise; img2img the latents of the picture, then the noise; inpainting with four channels the same
and then, for nothing, the latents of the masked picture; with nine channels the picture (unless strength is 1), the noise, the
masked picture.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling

from pipelines.contract.errors import InvalidRequest
from pipelines.engine.embeddings import Embeddings
from pipelines.engine.row import Row
from pipelines.engine.state import Kept, RowState
from pipelines.families import pictures
from pipelines.families.autoencoder import Moments
from pipelines.families.family import Family, Prompt
from pipelines.sampling.noise import Noise
from pipelines.sampling.solver import Schedulers, Solver

Encode = Callable[[torch.Tensor], Moments]


def prompts_of(row: Row, family: Family) -> tuple[Prompt, ...]:
    """The texts one evaluation each is made for: negative and positive, or only the positive.

    Raises `InvalidRequest` for more skipped layers than the encoder has, and for a request that is wrong about whether the
    network takes the guidance scale itself.
    """
    request = row.request
    embedded = family.facts.embedded_guidance
    if request.sampling.embedded_guidance != embedded and request.sampling.guidance_scale > 1.0:
        msg = f"embedded_guidance must be {str(embedded).lower()} for this model."
        raise InvalidRequest(msg, param="guidance_scale")
    if not 0 <= request.clip_skip <= family.max_clip_skip:
        msg = f"clip_skip must be 0 to {family.max_clip_skip} for this model, not {request.clip_skip}."
        raise InvalidRequest(msg, param="clip_skip")
    positive = Prompt(request.prompt, request.clip_skip)
    # Like diffusers, the negative prompt is never tapped early: clip_skip is about the picture's description.
    return (Prompt(request.negative_prompt, negative=True), positive) if request.sampling.guided else (positive,)


class Encoder:
    """Makes row states for one model."""

    def __init__(self, family: Family) -> None:
        """Share ``family``'s embeddings among all rows."""
        self.embeddings = Embeddings(family)
        self._family = family
        self._schedulers = Schedulers(family.scheduler_config)

    def state(self, row: Row, encode: Encode) -> RowState:
        """The state in which ``row`` begins; ``encode`` gives the latent moments of pixels [1, 3, H, W].

        Raises `InvalidRequest` for what this sampler or model cannot do.
        """
        family, request, init = self._family, row.request, row.request.init
        prompts = prompts_of(row, family)
        noise = Noise(row.seed, family.device, family.dtype)
        strength = None if init is None else init.strength
        solver = self._schedulers.solver(request.sampling, noise, strength=strength)
        shape = (
            1,
            family.vae.channels,
            row.key.height // family.vae.scale,
            row.key.width // family.vae.scale,
        )
        kept, channels = None, None
        if init is None:
            latents = solver.initial(noise.draw(shape))
        elif init.mask is None:
            picture = self._sample(encode(pictures.init_pixels(init, row.key.width, row.key.height)), noise)
            latents = solver.noised(picture, noise.draw(shape))
        else:
            latents, kept, channels = self._inpaint(row, solver, noise, encode)
        if family.facts.inpainting and channels is None:
            channels = self._blank(row, encode)
        embedded = self.embeddings.fetch(prompts)
        return RowState(
            latents=latents,
            solver=solver,
            conditioning=tuple(family.condition(embedded[prompt], request, negative=prompt.negative) for prompt in prompts),
            guidance=request.sampling.guidance_scale,
            guidance_rescale=request.sampling.guidance_rescale,
            kept=kept,
            channels=channels,
            paste=init if init is not None and init.mask is not None and init.keep_unmasked else None,
        )

    def _inpaint(
        self, row: Row, solver: Solver, noise: Noise, encode: Encode
    ) -> tuple[torch.Tensor, Kept | None, torch.Tensor | None]:
        init = row.request.init
        if init is None:
            msg = "inpainting needs a picture"
            raise ValueError(msg)
        family, size = self._family, (row.key.width, row.key.height)
        pixels = pictures.init_pixels(init, *size)
        mask = pictures.mask_pixels(init, *size)
        whole = init.strength >= 1.0
        nine = family.facts.inpainting
        picture = None if nine and whole else self._sample(encode(pixels), noise)
        shape = (1, family.vae.channels, size[1] // family.vae.scale, size[0] // family.vae.scale)
        drawn = noise.draw(shape)
        latents = solver.initial(drawn) if whole or picture is None else solver.noised(picture, drawn)
        small = F.interpolate(mask, size=shape[-2:]).to(family.device, family.dtype)
        if nine:
            masked = self._sample(encode(pixels * (mask < 0.5)), noise)  # noqa: PLR2004 - half
            return latents, None, torch.cat([small, masked], dim=1)
        # diffusers encodes the masked picture here and does not use it; only the draw matters, for what is drawn later.
        noise.draw(shape)
        if picture is None:
            msg = "unreachable: four channels always encode the picture"
            raise ValueError(msg)
        return latents, Kept(small, picture, drawn), None

    def _blank(self, row: Row, encode: Encode) -> torch.Tensor:
        """What a nine-channel network gets without a mask: everything is to be painted, nothing is known."""
        mean = encode(torch.zeros(1, 3, row.key.height, row.key.width)).mean
        grey = self._family.vae.scaled(mean.to(self._family.dtype))
        return torch.cat([torch.ones_like(grey[:, :1]), grey], dim=1)

    def _sample(self, moments: Moments, noise: Noise) -> torch.Tensor:
        """Scaled latents drawn from the VAE's posterior, in the VAE's precision, then rounded to the network's."""
        drawn = moments.mean + moments.std * noise.draw(moments.mean.shape, moments.mean.dtype)
        return self._family.vae.scaled(drawn.to(self._family.dtype))
