"""A real worker on the CPU with the demo checkpoint: from a card to pixels, equal to diffusers on the same folder."""

import numpy as np
import pytest
import torch
from test_worker import Process

from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import Completed, Failed, Generate, ImageDone, LoadModel, ModelFailed, ModelLoaded
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.families import sources

CARD = ModelCard(id="demo", source="bundled:demo", family=Family.SD)


def request(id_: str, **changes: object) -> ImageRequest:
    fields = {
        "id": id_,
        "model": "demo",
        "prompt": "a large red circle on a blue background",
        "width": 128,
        "height": 128,
        "seeds": (7,),
        "sampling": Sampling(sampler="euler", steps=6, guidance_scale=4.0),
    }
    return ImageRequest(**(fields | changes))


@pytest.fixture(scope="module")
def worker():
    process = Process("--device", "cpu", "--threads", "2")
    yield process
    process.sock.close()
    process.child.wait(timeout=60)


@pytest.fixture(scope="module")
def facts(worker):
    worker.send(LoadModel(CARD))
    return worker.until(ModelLoaded)[-1].facts


def test_the_demo_loads_through_the_same_path_as_any_checkpoint(facts):
    assert facts.family is Family.SD
    assert facts.dtype == "float32"
    assert not facts.inpainting
    assert facts.parameters > 1_000_000


def test_pixels_equal_diffusers_on_the_same_folder(worker, facts):
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    worker.send(Generate(request("a")))
    worker.send(Generate(request("b", seeds=(8,), sampling=Sampling(sampler="ddim", steps=9, guidance_scale=1.0))))
    done = []
    while len(done) < 2:
        done += [event for event in worker.until(Completed) if isinstance(event, ImageDone)]
    found = next(event.picture for event in done if event.id == "a")
    pipeline = StableDiffusionPipeline.from_pretrained(
        sources.folder(CARD.source), torch_dtype=torch.float32, safety_checker=None, local_files_only=True
    )
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    asked = request("a")
    (wanted,) = pipeline(
        asked.prompt,
        width=128,
        height=128,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images
    pixels = np.frombuffer(found.data, np.uint8).reshape(128, 128, 3).astype(int)
    assert np.abs(pixels - np.asarray(wanted).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"clip_skip": 50}, "invalid_request", "clip_skip"),
        ({"sampling": Sampling(sampler="lcm", steps=60, guidance_scale=1.0)}, "too_large", "steps"),
        ({"sampling": Sampling(sampler="no such", steps=6, guidance_scale=1.0)}, "unknown_sampler", "sampler"),
    ],
)
def test_what_the_model_cannot_do_is_the_caller_s_error_and_only_theirs(worker, facts, changes, code, param):
    worker.send(Generate(request("bad", **changes)))
    worker.send(Generate(request("good")))
    events = worker.until(Completed, id="good")
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.id, failed.error.code, failed.error.param) == ("bad", code, param)


def test_a_folder_of_pickles_is_refused_with_the_reason(worker, facts, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    worker.send(LoadModel(ModelCard(id="pickled", source=f"dir:{tmp_path}", family=Family.SD)))
    assert "pickle" in worker.until(ModelFailed, model="pickled")[-1].error.message


@pytest.mark.parametrize("source", ["dir:/nowhere", "hf:someone/something", "bundled:other", ""])
def test_a_source_that_is_not_there_says_so(worker, facts, source):
    worker.send(LoadModel(ModelCard(id="gone", source=source, family=Family.SD)))
    assert worker.until(ModelFailed, model="gone")[-1].error.code == "model_load_failed"
