"""What several phases of the training must agree on."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEED = 20
BUNDLE = ROOT / "pipelines" / "bundled" / "demo"
CANNY = ROOT / "pipelines" / "bundled" / "controlnets" / "canny"
LORAS = ROOT / "pipelines" / "bundled" / "loras"
STATE = ROOT / "out" / "demo-training"
SHEET = ROOT / "docs" / "img" / "demo-contact-sheet.png"
LORA_SHEET = ROOT / "docs" / "img" / "demo-loras.png"
CONTROL_SHEET = ROOT / "docs" / "img" / "demo-controlnet.png"
SD_SCALING = 0.18215  # latents are brought to this scale, since some tools write the number into their code
TOKENS = 77
