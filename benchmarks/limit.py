"""The limit: what the bare networks cost on this machine, and so what no server can better."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import torch
from reference import Reference
from workload import Job

BUCKETS = (1, 2, 4, 6, 8, 12, 16)
"""Rows of one UNet evaluation."""

Size = tuple[int, int]


@dataclass(slots=True)
class Costs:
    """Seconds of the bare networks; every figure is the best of the passes measured so far."""

    unet: dict[Size, dict[int, float]] = field(default_factory=dict)
    """Seconds of one evaluation, by picture size and number of rows."""
    decode: dict[Size, float] = field(default_factory=dict)
    """Seconds of the VAE decoder for one image."""
    encode: dict[Size, float] = field(default_factory=dict)
    """Seconds of the VAE encoder for one image."""
    text: float = float("inf")
    """Seconds of the text encoder for one prompt, in a batch of eight."""

    def per_row(self, size: Size) -> float:
        """Seconds per UNet row at the bucket where that is least."""
        return min(seconds / rows for rows, seconds in self.unet[size].items())

    def ideal(self, job: Job) -> float:
        """Seconds that the job must cost: its rows at the best batch size, its decode, its encode, its prompts."""
        prompts = 2 if job.guided else 1
        encode = self.encode[job.size] if job.kind == "img2img" else 0.0
        return job.evaluations * self.per_row(job.size) + self.decode[job.size] + encode + prompts * self.text

    def ideal_rate(self, work: Sequence[Job]) -> float:
        """Images per second of a server that costs nothing and always finds full batches."""
        return 1.0 / fmean(self.ideal(job) for job in work)


def measure(reference: Reference, sizes: Sequence[Size], seconds: float, known: Costs | None = None) -> Costs:
    """One pass over everything, ``seconds`` for each figure; merged with ``known`` by taking the better."""
    costs = known or Costs()
    for size in sizes:
        costs.unet[size] = _better(costs.unet.get(size, {}), unet_curve(reference, size, BUCKETS, seconds))
        costs.decode[size] = min(costs.decode.get(size, float("inf")), timed(decoding(reference, size), seconds))
        costs.encode[size] = min(costs.encode.get(size, float("inf")), timed(encoding(reference, size), seconds))
    costs.text = min(costs.text, timed(prompting(reference, 8), seconds) / 8)
    return costs


def _better(left: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    return {rows: min(left.get(rows, seconds), seconds) for rows, seconds in right.items()}


def unet_curve(reference: Reference, size: Size, buckets: Sequence[int], seconds: float) -> dict[int, float]:
    """Seconds of one evaluation at each number of rows."""
    return {rows: timed(evaluating(reference, size, rows), seconds) for rows in buckets}


def evaluating(reference: Reference, size: Size, rows: int) -> Callable[[], object]:
    """One UNet evaluation over ``rows`` rows."""
    unet, width, height = reference.txt2img.unet, *size
    like = {"device": unet.device, "dtype": unet.dtype}
    latents = torch.randn(rows, unet.config.in_channels, height // 8, width // 8, **like)
    steps = torch.linspace(999, 1, rows, device=unet.device)
    tokens = reference.txt2img.tokenizer.model_max_length
    prompts = torch.randn(rows, tokens, unet.config.cross_attention_dim, **like)
    return lambda: unet(latents, steps, encoder_hidden_states=prompts, return_dict=False)


def decoding(reference: Reference, size: Size, images: int = 1) -> Callable[[], object]:
    """The VAE decoder over latents."""
    vae, width, height = reference.txt2img.vae, *size
    like = {"device": vae.device, "dtype": vae.dtype}
    latents = torch.randn(images, vae.config.latent_channels, height // 8, width // 8, **like)
    return lambda: vae.decode(latents, return_dict=False)


def encoding(reference: Reference, size: Size) -> Callable[[], object]:
    """The VAE encoder over one picture."""
    vae, width, height = reference.txt2img.vae, *size
    pixels = torch.randn(1, 3, height, width, device=vae.device, dtype=vae.dtype)
    return lambda: vae.encode(pixels)


def prompting(reference: Reference, prompts: int) -> Callable[[], object]:
    """Tokenizer and text encoder over a batch of prompts."""
    pipeline = reference.txt2img
    texts = [f"a red circle on a blue background, number {number}" for number in range(prompts)]

    def run() -> object:
        tokens = pipeline.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return pipeline.text_encoder(tokens.input_ids.to(pipeline.text_encoder.device))

    return run


@torch.inference_mode()
def timed(work: Callable[[], object], seconds: float) -> float:
    """Median seconds of ``work``, after a warm-up, repeated for at least ``seconds`` and at least three times."""
    cuda = torch.cuda.is_available()
    spent: list[float] = []
    for turn in range(100_000):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        if turn > 0:
            spent.append(time.perf_counter() - start)
        if len(spent) >= 3 and sum(spent) >= seconds:
            break
    return median(spent)
