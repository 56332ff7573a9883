"""One model, one worker, one picture: whether a card works, without a server."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.contract.messages import (
    Command,
    Completed,
    Drain,
    Event,
    Failed,
    Generate,
    Hello,
    ImageDone,
    LoadModel,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    Progress,
    decode_event,
    encode,
)
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling
from pipelines.contract.samplers import resolve
from server.domain.asset import Delivery
from server.fleet.host import Process
from server.fleet.process import ProcessHost
from server.storage.encode import encode as encode_picture
from server.telemetry.logs import configure

_GREY, _REPAINT = b"\x80", b"\xff"
_LEAVE_SECONDS = 30.0
_MIB = 1 << 20


class CheckFailed(Exception):
    """The model does not work; the message says why."""


async def check_model(card: ModelCard, device: str, *, prompt: str, seed: int, target: Path, say: Callable[[str], None]) -> None:
    """Load ``card`` on ``device`` and write one picture to ``target``, telling ``say`` of each stage.

    Raises `CheckFailed` with the worker's reason, `OSError` if ``target`` cannot be written.
    """
    process = await ProcessHost(configure("console", "info")).spawn("check", device)
    try:
        facts = await _load(process, card, say)
        if facts.refines_only:
            say("It finishes other models' images and makes none alone: loading it is the whole check.")
            return
        picture = await _draw(process, request_for(card, facts, prompt, seed), say)
        await asyncio.to_thread(target.write_bytes, encode_picture(picture, Delivery()))
        say(f"{target}: {picture.width}x{picture.height}")
    finally:
        await _leave(process)


def request_for(card: ModelCard, facts: ModelFacts, prompt: str, seed: int) -> ImageRequest:
    """What a request with nothing but a prompt becomes; an inpainting network repaints the whole of a grey picture."""
    defaults = card.defaults
    sampler, scheduler = resolve(defaults.sampler, defaults.scheduler, flow=card.family.flow)
    pixels = defaults.width * defaults.height
    return ImageRequest(
        id="check",
        model=card.id,
        prompt=prompt,
        negative_prompt=defaults.negative_prompt,
        width=defaults.width,
        height=defaults.height,
        seeds=(seed,),
        clip_skip=defaults.clip_skip,
        sampling=Sampling(
            sampler=sampler.id,
            scheduler=scheduler,
            steps=defaults.steps,
            guidance_scale=defaults.guidance,
            guidance_rescale=defaults.guidance_rescale,
            embedded_guidance=card.embedded_guidance,
            skip_layers=defaults.skip_layers,
        ),
        init=Init(
            Picture(defaults.width, defaults.height, "RGB", _GREY * pixels * 3),
            strength=1.0,
            mask=Picture(defaults.width, defaults.height, "L", _REPAINT * pixels),
        )
        if facts.inpainting
        else None,
    )


async def _load(process: Process, card: ModelCard, say: Callable[[str], None]) -> ModelFacts:
    part = ""
    while True:
        match await _event(process):
            case Hello(device=device, device_name=name):
                say(f"{device}: {name}")
                _say(process, LoadModel(card))
            case ModelLoading(part=now, fraction=fraction) if now != part:
                part = now
                say(f"loading {part}" + (f" {fraction:.0%}" if fraction else ""))
            case ModelLoaded(facts=facts):
                size = f"{facts.parameters / 1e6:.1f} million parameters, {facts.bytes / _MIB:.0f} MiB"
                say(f"loaded in {facts.load_seconds:.1f} s: {facts.family.value}, {facts.prediction_type}, {facts.dtype}, {size}")
                return facts
            case ModelFailed(error=error):
                raise CheckFailed(error.message)
            case _:
                pass


async def _draw(process: Process, request: ImageRequest, say: Callable[[str], None]) -> Picture:
    _say(process, Generate(request))
    picture: Picture | None = None
    while True:
        match await _event(process):
            case Progress(step=step, steps=steps):
                say(f"step {step} of {steps}")
            case ImageDone(picture=found):
                picture = found
            case Failed(error=error):
                raise CheckFailed(error.message)
            case Completed() if picture is not None:
                return picture
            case _:
                pass


async def _event(process: Process) -> Event:
    frame = await process.link.receive()
    if frame is None:
        code = await process.wait()
        msg = f"The worker ended with code {code}; its last words are above."
        raise CheckFailed(msg)
    return decode_event(frame)


def _say(process: Process, command: Command) -> None:
    process.link.send(encode(command))


async def _leave(process: Process) -> None:
    """Let it finish; one that does not is killed."""
    _say(process, Drain())
    try:
        async with asyncio.timeout(_LEAVE_SECONDS):
            while await process.link.receive() is not None:
                pass
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    process.link.close()
