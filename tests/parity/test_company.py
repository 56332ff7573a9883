"""In company: unlike requests joining at random ticks give what each gives alone."""

import random

import numpy as np
import pytest
import torch
from by_diffusers import reference
from driving import run
from test_alone import KINDS, RELATIVE, relative, request

from pipelines.contract.messages import Phase, Preview
from pipelines.contract.request import Sampling
from pipelines.contract.samplers import SAMPLERS
from pipelines.engine.scheduler import Policy


def mixed(count: int, seed: int):
    rng = random.Random(seed)
    samplers = list(SAMPLERS)
    rng.shuffle(samplers)
    for index in range(count):
        spec = samplers[index % len(samplers)]
        kind = rng.choice(KINDS) if spec.img2img else "txt2img"
        guided = rng.random() < 0.6
        schedule = rng.choice([None, *sorted(spec.schedulers)])
        asked = request(kind, spec.id, guided=guided, seed=rng.randrange(2**32))
        sampling = Sampling(
            sampler=spec.id,
            steps=rng.randrange(4, 14),
            guidance_scale=rng.uniform(1.5, 9) if guided else 1.0,
            scheduler=schedule,
        )
        yield request(
            kind,
            spec.id,
            guided=guided,
            id=f"r{index}",
            seeds=asked.seeds,
            sampling=sampling,
            prompt=rng.choice(["a small green star", "a large red circle on a blue background", "", "жёлтый 🟡"]),
            clip_skip=rng.choice([0, 0, 1]),
        )


@pytest.mark.parametrize("policy", [Policy(), Policy(buckets=(1, 2, 4, 6, 8, 12, 16))], ids=["dense", "buckets"])
def test_24_unlike_requests_joining_at_random_ticks(tiny, policy):
    requests = list(mixed(24, seed=11))
    rng = random.Random(5)
    result = run({"tiny": tiny.family}, requests, join=[rng.randrange(40) for _ in requests], policy=policy)
    assert not result.failed
    assert max(batch.size for batch in result.batches if batch.phase is Phase.DENOISE) >= 12, "they never met"
    worst = 0.0
    for asked in requests:
        latents, pixels = reference(tiny, asked)
        difference = relative(result.latents[asked.id, 0], latents)
        worst = max(worst, difference)
        assert difference < RELATIVE, (asked.id, asked.sampling, difference)
        assert np.abs(result.pixels[asked.id, 0].astype(int) - pixels.astype(int)).max() <= 1
    print(f"largest relative difference to alone, 24 unlike requests: {worst:.1e}")


def test_two_models_and_two_sizes_take_turns(tiny, tiny_v):
    small = [request("txt2img", "euler", guided=True, id=f"s{i}", seeds=(i,)) for i in range(3)]
    wide = [request("txt2img", "ddim", guided=True, id=f"w{i}", seeds=(i,), width=96) for i in range(3)]
    other = [request("txt2img", "dpmpp_2m", guided=False, id=f"o{i}", seeds=(i,), model="other") for i in range(3)]
    result = run({"tiny": tiny.family, "other": tiny_v.family}, [*small, *wide, *other])
    assert {batch.key for batch in result.batches} == {batch.key for batch in result.batches if batch.phase is Phase.DENOISE}
    for asked in (*small, *wide):
        assert relative(result.latents[asked.id, 0], reference(tiny, asked)[0]) < RELATIVE
    for asked in other:
        assert relative(result.latents[asked.id, 0], reference(tiny_v, asked)[0]) < RELATIVE


def test_a_budget_of_one_runs_a_guided_row_in_two_forwards(tiny):
    asked = request("inpaint", "dpmpp_2m_sde", guided=True)
    result = run({"tiny": tiny.family}, [asked], max_rows=1)
    assert relative(result.latents[asked.id, 0], reference(tiny, asked)[0]) < RELATIVE


def test_the_same_request_twice_is_bitwise_the_same(tiny):
    asked = request("img2img", "euler_a", guided=True)
    first, second = run({"tiny": tiny.family}, [asked]), run({"tiny": tiny.family}, [asked])
    assert torch.equal(first.latents[asked.id, 0], second.latents[asked.id, 0])
    assert np.array_equal(first.pixels[asked.id, 0], second.pixels[asked.id, 0])


def test_previews_do_not_change_the_picture(tiny):
    asked = request("txt2img", "euler_a", guided=True)
    watched = request("txt2img", "euler_a", guided=True, preview_every=2)
    plain, seen = run({"tiny": tiny.family}, [asked]), run({"tiny": tiny.family}, [watched])
    previews = [event for event in seen.events if isinstance(event, Preview)]
    assert [preview.step for preview in previews] == [2, 4, 6]
    assert {(preview.picture.width, preview.picture.height) for preview in previews} == {(8, 8)}
    assert torch.equal(plain.latents[asked.id, 0], seen.latents[asked.id, 0])


@pytest.mark.parametrize("at", [0, 2, 5])
def test_memory_running_out_at_any_tick_changes_nothing(tiny, at):
    requests = list(mixed(8, seed=3))
    family = Cramped(tiny.family, at)
    result = run({"tiny": family}, requests)
    assert family.refused >= 2
    assert not result.failed
    for asked in requests:
        assert relative(result.latents[asked.id, 0], reference(tiny, asked)[0]) < RELATIVE


def test_a_single_image_that_does_not_fit_fails_alone(tiny):
    requests = [
        request("txt2img", "euler", guided=True, id="small"),
        request("txt2img", "euler", guided=True, id="wide", width=96),
    ]
    result = run({"tiny": Cramped(tiny.family, 0, evaluations=0, width=12)}, requests)
    assert set(result.failed) == {"wide"}
    assert result.failed["wide"].code == "out_of_memory"
    assert "96x64" in result.failed["wide"].message
    assert relative(result.latents["small", 0], reference(tiny, requests[0])[0]) < RELATIVE


class Cramped:
    """A family on a device that shrinks: from some forward on, no more than so many evaluations fit."""

    def __init__(self, family, at, evaluations=2, width=0):
        self._family = family
        self._at = at
        self._evaluations = evaluations
        self._width = width
        self._forwards = 0
        self.refused = 0

    def __getattr__(self, name):
        return getattr(self._family, name)

    def evaluate(self, latents, timesteps, conditioning, skip_layers=()):
        self._forwards += 1
        if self._forwards > self._at and len(latents) > self._evaluations and latents.shape[-1] >= self._width:
            self.refused += 1
            raise torch.OutOfMemoryError("no room")
        return self._family.evaluate(latents, timesteps, conditioning, skip_layers)
