"""Puts the trained parts together and writes the checkpoint as users load it."""

from __future__ import annotations

import json
import shutil

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel

from scripts.demo.networks import new_scheduler, new_text_encoder, new_unet, new_vae
from scripts.demo.recipe import BUNDLE, STATE
from scripts.demo.tokenizer import write_tokenizer
from scripts.demo.trainer import Budget, Trainer


def assemble() -> StableDiffusionPipeline:
    """Put the averaged weights of all phases that have run into a pipeline; the rest stays untrained."""
    tokenizer = write_tokenizer(STATE / "tokenizer")
    trained = [STATE / name for name in ("vae-sharp", "vae") if (STATE / name).exists()]
    vae = AutoencoderKL.from_pretrained(trained[0]) if trained else new_vae()
    text = CLIPTextModel.from_pretrained(STATE / "text") if (STATE / "text").exists() else new_text_encoder(tokenizer)
    unet = new_unet()
    if (STATE / "unet.pt").exists():
        trainer = Trainer("unet", {"unet": unet}, Budget(1), rate=0, decay=0, average=0)
        trainer.use_average()
        print(f"denoiser: {trainer.step} steps in {trainer.seconds / 60:.0f} minutes")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export() -> None:
    """Write the checkpoint as users load it; each file is replaced in one move, so a reader never meets half of one."""
    fresh = STATE / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    assemble().to(dtype=torch.float16).save_pretrained(fresh, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # older versions of transformers read these two
        shutil.copyfile(STATE / "tokenizer" / name, fresh / "tokenizer" / name)
    for file in (f for f in fresh.rglob("*.json") if "config" in f.name):
        settings = json.loads(file.read_text(encoding="utf-8"))
        # Where a part was loaded from while training is nobody's business.
        if settings.pop("_name_or_path", None):
            file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    wanted = {file.relative_to(fresh) for file in fresh.rglob("*") if file.is_file()}
    for name in sorted(wanted):
        (BUNDLE / name).parent.mkdir(parents=True, exist_ok=True)
        partial = BUNDLE / name.with_name(f".{name.name}.partial")
        shutil.copyfile(fresh / name, partial)
        partial.replace(BUNDLE / name)
    for file in [f for f in BUNDLE.rglob("*") if f.is_file() and f.relative_to(BUNDLE) not in wanted]:
        file.unlink()
    size = sum(f.stat().st_size for f in BUNDLE.rglob("*") if f.is_file())
    print(f"exported {size / 1e6:.1f} MB to {BUNDLE}")
