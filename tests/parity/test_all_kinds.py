"""One tick of twelve rows that have nothing in common but the checkpoint: each equals diffusers run alone."""

import numpy as np
import pytest
import torch
from by_diffusers import picture_of, reference
from control_by_diffusers import reference as control_reference
from differential import differential
from driving import run
from loras import wearing
from PIL import Image
from test_alone import RELATIVE, relative, request
from test_inpainting import grey, soft_of
from test_loras import Pair
from tiny import Tiny
from tiny_controls import controlnet
from tiny_references import Adapters

from pipelines.contract.control import ReferenceUse
from pipelines.contract.family import Family
from pipelines.contract.inpainting import Masking
from pipelines.contract.messages import Phase
from pipelines.contract.picture import Resize
from pipelines.contract.request import Init, Sampling
from pipelines.contract.samplers import resolve
from pipelines.engine.scheduler import Policy
from pipelines.families.pictures import as_pixels, to_picture
from pipelines.sampling.samplers import build

STEPS = 16
STRENGTH = 0.95
"""Rows with a picture are to stay as long as the others: adapters are opened one a tick, and all twelve must meet."""


class Everything:
    """A tiny SD checkpoint twice, ours and diffusers', with files of every kind of adapter for it."""

    def __init__(self, folder):
        self.pair = Pair("sd", Tiny, reference, folder)
        self.ours, self.theirs = self.pair.ours, self.pair.theirs
        made = [controlnet(folder / name, self.ours.unet, Family.SD, seed=seed) for seed, name in enumerate("ab", 1)]
        self.controls = {each.card.name: each for each in made}
        self.references = Adapters(folder, self.theirs, Family.SD)

    def requests(self):
        a, b = self.controls["a"], self.controls["b"]
        lora = self.pair.use
        seen = (ReferenceUse(self.references.card("plus"), (to_picture(picture_of(90, 50, 2)),), 0.7),)
        soft = Init(to_picture(picture_of(64, 64, 7)), STRENGTH, Resize.STRETCH, grey(soft_of(64, 7)), Masking(soft=True))
        asked = {
            "plain": self.ask(),
            "LoRA a": self.ask(loras=(lora("net", 0.9),)),
            "LoRA b+c": self.ask(loras=(lora("both", 0.5, 0.3), lora("other", 0.7, 1.2))),
            "ControlNet": self.ask(controls=(a.use(1),)),
            "ControlNet + LoRA": self.ask(controls=(b.use(2),), loras=(lora("net", -0.6),)),
            "two ControlNets": self.ask(controls=(a.use(3), b.use(4, weight=0.4, start=0.2))),
            "IP-Adapter": self.ask(references=seen),
            "img2img": self.ask("img2img"),
            "inpaint": self.ask("inpaint"),
            "soft mask": self.ask("inpaint", init=soft),
            "unguided": self.ask(guided=False),
            "another sampler": self.ask(sampler="dpmpp_2m_sde"),
        }
        return {
            name: request(kind, sampler, **{**fields, "id": name, "seeds": (index,)})
            for index, (name, (kind, sampler, fields)) in enumerate(asked.items())
        }

    def ask(self, kind="txt2img", *, sampler="euler", guided=True, init=None, **fields):
        if init is None and kind != "txt2img":
            like = request(kind, sampler, guided=guided).init
            init = Init(like.picture, STRENGTH, like.resize, like.mask)
        sampling = Sampling(sampler=sampler, steps=STEPS, guidance_scale=4.5 if guided else 1.0)
        return kind, sampler, {"guided": guided, "sampling": sampling, "init": init, **fields}

    def alone(self, asked):
        """Latents as diffusers' own pipelines make them for ``asked`` and nobody else."""
        if asked.init is not None and asked.init.masking.soft:
            return self.published(asked)
        with wearing(self.theirs, asked.loras):
            if asked.controls:
                return control_reference(self.theirs, asked, self.controls)[0]
            return reference(self.references.by_diffusers(asked), asked)[0]

    def published(self, asked):
        """Diffusers has no pipeline for soft masks; the algorithm is written out over its parts."""
        mask = asked.init.mask
        greys = np.frombuffer(mask.data, np.uint8).reshape(mask.height, mask.width) / np.float32(255)
        spec, schedule = resolve(asked.sampling.sampler, None)
        return differential(
            self.theirs,
            build(spec, schedule, self.theirs.scheduler.config),
            as_pixels(Image.frombytes("RGB", (64, 64), asked.init.picture.data)),
            torch.nn.functional.interpolate(torch.from_numpy(greys)[None, None], (8, 8), mode="area"),
            prompt=asked.prompt,
            negative=asked.negative_prompt,
            steps=asked.sampling.steps,
            guidance=asked.sampling.guidance_scale,
            strength=asked.init.strength,
            seed=asked.seeds[0],
        )


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return Everything(tmp_path_factory.mktemp("everything"))


@pytest.mark.parametrize("policy", [Policy(), Policy(buckets=(1, 2, 4, 8, 16, 24, 32))], ids=["dense", "buckets"])
def test_twelve_rows_of_every_kind_share_a_tick(everything, policy):
    requests = everything.requests()
    result = run({"tiny": everything.ours.family}, list(requests.values()), max_rows=32, policy=policy)
    assert not result.failed
    busiest = max((batch for batch in result.batches if batch.phase is Phase.DENOISE), key=lambda batch: len(batch.rows))
    assert {row.request.id for row in busiest.rows} == set(requests), "they never met"
    differences = {}
    for name, asked in requests.items():
        found, wanted = result.latents[name, 0], everything.alone(asked)
        if asked.init is not None and asked.init.masking.soft:
            # What is kept wholly, the paper leaves as the last step has it; we give the picture itself.
            strengths = torch.from_numpy(np.frombuffer(asked.init.mask.data, np.uint8).reshape(1, 1, 64, 64) / np.float32(255))
            painted = (torch.nn.functional.interpolate(strengths, (8, 8), mode="area") > 0).expand_as(found)
            found, wanted = found[painted], wanted[painted]
        differences[name] = relative(found, wanted)
    print("\n" + "\n".join(f"{name:20} {difference:.1e}" for name, difference in differences.items()))
    assert max(differences.values()) < RELATIVE, differences


def test_each_kind_shows(everything):
    """An adapter that did nothing would equal diffusers too: what each row adds must change its picture."""
    requests = everything.requests()
    for name in ("LoRA a", "LoRA b+c", "ControlNet", "ControlNet + LoRA", "two ControlNets", "IP-Adapter"):
        asked = requests[name]
        kind, sampler, fields = everything.ask()
        bare = request(kind, sampler, **{**fields, "id": "bare", "seeds": asked.seeds})
        result = run({"tiny": everything.ours.family}, [asked, bare])
        assert relative(result.latents[name, 0], result.latents["bare", 0]) > 0.01, name
