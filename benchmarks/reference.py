"""diffusers' own pipelines over the same checkpoint: what the baselines serve, and a lonely client's yardstick."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from workload import Job

DEMO = Path(__file__).resolve().parents[1] / "pipelines" / "bundled" / "demo"

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "ddim": ("DDIMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


class Reference:
    """The text-to-image and the image-to-image pipeline over one set of networks; not for two threads at once."""

    def __init__(self, checkpoint: Path = DEMO, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        """Load the checkpoint as its documentation says."""
        unchecked: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
        self.txt2img = StableDiffusionPipeline.from_pretrained(str(checkpoint), torch_dtype=dtype, **unchecked).to(device)
        self.img2img = StableDiffusionImg2ImgPipeline(**self.txt2img.components | unchecked)
        self.options = dict(self.txt2img.scheduler.config)
        for pipeline in (self.txt2img, self.img2img):
            pipeline.set_progress_bar_config(disable=True)

    def channels_last(self) -> "Reference":
        """The networks in the memory layout that Aquatint uses too; on most devices the faster one."""
        for network in (self.txt2img.unet, self.txt2img.vae):
            network.to(memory_format=torch.channels_last)
        return self

    def draw(self, jobs: Sequence[Job], pictures: Sequence[bytes] = ()) -> list[Image.Image]:
        """One call of the pipeline for jobs that differ in prompt, seed and input picture only."""
        first = jobs[0]
        name, options = SCHEDULERS[first.sampler]
        scheduler = getattr(diffusers, name).from_config(self.options, **options)
        common: dict[str, Any] = {
            "prompt": [job.prompt for job in jobs],
            "num_inference_steps": first.steps,
            "guidance_scale": first.guidance,
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
        }
        if first.kind == "txt2img":
            self.txt2img.scheduler = scheduler
            images = self.txt2img(**common, width=first.width, height=first.height).images
        else:
            self.img2img.scheduler = scheduler
            inputs = [Image.open(io.BytesIO(png)).convert("RGB") for png in pictures]
            images = self.img2img(**common, image=inputs, strength=first.strength).images
        return list(images)

    def timed(self, jobs: Sequence[Job], pictures: Sequence[bytes]) -> tuple[list[Image.Image], float]:
        """`draw`, and the seconds it took."""
        start = time.perf_counter()
        images = self.draw(jobs, pictures)
        return images, time.perf_counter() - start


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
