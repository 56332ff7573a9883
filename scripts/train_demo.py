"""Train the demo checkpoint from nothing, on a CPU: about two hours of two cores that do nothing else.

    python scripts/train_demo.py                      all phases, one after another
    python scripts/train_demo.py vae --minutes 12     autoencoder: 128x128 pixels <-> 16x16x4 latents
    python scripts/train_demo.py text --minutes 4     text encoder: which colours, shapes, sizes and places a prompt names
    python scripts/train_demo.py unet --minutes 75    denoiser, on the first two
    python scripts/train_demo.py decoder --minutes 8  sharpen the decoder on latents as inexact as sampled ones
    python scripts/train_demo.py export               fp16 safetensors into pipelines/bundled/demo
    python scripts/train_demo.py evaluate             draw held-out prompts and measure them
    python scripts/train_demo.py contact-sheet        docs/img/demo-contact-sheet.png

and its adapters, on the exported checkpoint, in another two hours of one core:

    python scripts/train_demo.py --only adapters        all of these
    python scripts/train_demo.py control --minutes 42   ControlNet that follows edges: pipelines/bundled/controlnets/canny
    python scripts/train_demo.py lines --minutes 5      encoder that sees outlines, for the next phase alone
    python scripts/train_demo.py outline --minutes 50   LoRA that draws outlines: pipelines/bundled/loras/outline.safetensors
    python scripts/train_demo.py two-tone --minutes 10  LoRA that draws in blue and white: .../two-tone.safetensors
    python scripts/train_demo.py evaluate-loras evaluate-control adapter-sheets

Each training phase saves its state every few minutes and, started again, goes on where it was. With `--minutes` the learning
rate follows the minutes spent, so a busy machine trains fewer steps but always ends annealed; with `--steps` it follows the
step count, which makes a run repeatable. What a step sees depends only on the seed and the step's number.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.demo.adapters_control import train_control
from scripts.demo.adapters_evaluate import adapter_sheets, evaluate_control, evaluate_styles
from scripts.demo.adapters_lora import train_encoder, train_outline, train_two_tone
from scripts.demo.autoencoder import train_decoder, train_vae
from scripts.demo.denoiser import train_unet
from scripts.demo.evaluate import contact_sheet, evaluate
from scripts.demo.export import export
from scripts.demo.recipe import STATE
from scripts.demo.text import train_text
from scripts.demo.trainer import Budget

TRAINING: dict[str, tuple[Callable[[Budget], None], float]] = {
    "vae": (train_vae, 12),
    "text": (train_text, 4),
    "unet": (train_unet, 75),
    "decoder": (train_decoder, 8),
    "control": (train_control, 42),
    "lines": (train_encoder, 5),
    "outline": (train_outline, 50),
    "two-tone": (train_two_tone, 10),
}
FINISHING: dict[str, Callable[[], None]] = {
    "export": export,
    "evaluate": evaluate,
    "contact-sheet": contact_sheet,
    "evaluate-loras": evaluate_styles,
    "evaluate-control": evaluate_control,
    "adapter-sheets": adapter_sheets,
}
CHECKPOINT = ("vae", "text", "unet", "decoder", "export", "evaluate", "contact-sheet")
ADAPTERS = ("control", "lines", "outline", "two-tone", "evaluate-loras", "evaluate-control", "adapter-sheets")


def main() -> None:
    """Run the phases named on the command line."""
    parser = argparse.ArgumentParser(
        description="Train the demo checkpoint.", epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    phases = " | ".join([*TRAINING, *FINISHING])
    parser.add_argument("phases", nargs="*", metavar="phase", help=f"{phases} (default: all)")
    parser.add_argument("--only", choices=("checkpoint", "adapters"), help="all phases of one of the two")
    parser.add_argument("--minutes", type=float, help="length of the training phase, in minutes of training")
    parser.add_argument("--steps", type=int, help="length of the training phase, in steps; makes the run repeatable")
    options = parser.parse_args()
    if unknown := set(options.phases) - {*TRAINING, *FINISHING}:
        parser.error(f"no such phase: {', '.join(sorted(unknown))}")
    STATE.mkdir(parents=True, exist_ok=True)
    wanted = {"checkpoint": CHECKPOINT, "adapters": ADAPTERS, None: (*CHECKPOINT, *ADAPTERS)}[options.only]
    for phase in options.phases or wanted:
        torch.set_num_threads(1 if phase in TRAINING else os.cpu_count() or 1)
        if phase in TRAINING:
            train, minutes = TRAINING[phase]
            train(Budget(options.minutes or minutes, options.steps))
        else:
            FINISHING[phase]()


if __name__ == "__main__":
    main()
