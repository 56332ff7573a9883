"""What the names of tensors in a LoRA file say: which part of a model, which of its modules, and which tensor of the layer.

kohya and LyCORIS write ``lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight``; PEFT and diffusers
``unet.down_blocks.1.attentions.0.proj_in.lora_A.weight``; older diffusers
``unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight``.
"""

import re
from enum import StrEnum

import msgspec


class Part(StrEnum):
    """A part of a model that a LoRA can change, as diffusers calls its text encoders."""

    NETWORK = "network"
    TEXT = "text_encoder"
    TEXT_2 = "text_encoder_2"
    TEXT_3 = "text_encoder_3"


class Slot(StrEnum):
    """A tensor of one layer."""

    DOWN = "down"
    UP = "up"
    CORE = "core"
    ALPHA = "alpha"
    MAGNITUDE = "magnitude"
    """DoRA's lengths as PEFT writes them."""
    DORA_SCALE = "dora_scale"
    """The same as LyCORIS does: of outputs or, in early files, of inputs."""
    HADA_1A = "hada_w1_a"
    HADA_1B = "hada_w1_b"
    HADA_2A = "hada_w2_a"
    HADA_2B = "hada_w2_b"
    HADA_CORE_1 = "hada_t1"
    HADA_CORE_2 = "hada_t2"
    LOKR_1 = "lokr_w1"
    LOKR_1A = "lokr_w1_a"
    LOKR_1B = "lokr_w1_b"
    LOKR_2 = "lokr_w2"
    LOKR_2A = "lokr_w2_a"
    LOKR_2B = "lokr_w2_b"
    LOKR_CORE = "lokr_t2"


class Key(msgspec.Struct, frozen=True):
    """A tensor's name, taken apart."""

    part: Part
    module: str
    """With dots or, if `flat`, with underscores in their place."""
    flat: bool
    slot: Slot


_PREFIXES = (
    ("lora_unet_", Part.NETWORK),
    ("lora_transformer_", Part.NETWORK),
    ("lycoris_", Part.NETWORK),
    ("lora_te1_", Part.TEXT),
    ("lora_te2_", Part.TEXT_2),
    ("lora_te3_", Part.TEXT_3),
    ("lora_te_", Part.TEXT),
    ("unet.", Part.NETWORK),
    ("transformer.", Part.NETWORK),
    ("model.diffusion_model.", Part.NETWORK),
    ("diffusion_model.", Part.NETWORK),
    ("base_model.model.", Part.NETWORK),
    ("text_encoder.", Part.TEXT),
    ("text_encoder_2.", Part.TEXT_2),
    ("text_encoder_3.", Part.TEXT_3),
    ("text_encoders.clip_l.transformer.", Part.TEXT),
    ("text_encoders.clip_g.transformer.", Part.TEXT_2),
    ("text_encoders.t5xxl.transformer.", Part.TEXT_3),
)

_ENDS = tuple(
    (re.compile(f"(?:{pattern})$"), slot)
    for pattern, slot in (
        (r"\.lora_(?:down|A)(?:\.\w+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight", Slot.DOWN),
        (r"\.lora_(?:up|B)(?:\.\w+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight", Slot.UP),
        (r"\.lora_mid\.weight", Slot.CORE),
        (r"(?:[._]lora|\.lora_linear_layer)?\.alpha", Slot.ALPHA),
        (r"\.dora_scale", Slot.DORA_SCALE),
        (r"\.lora_magnitude_vector(?:\.\w+)*", Slot.MAGNITUDE),
        *((rf"\.{slot.value}", slot) for slot in Slot if slot.value.startswith(("hada", "lokr"))),
    )
)

_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def parse(name: str) -> Key | None:
    """``name`` taken apart; None for what is no tensor of a layer that Aquatint knows."""
    prefix, part = next((known for known in _PREFIXES if name.startswith(known[0])), ("", Part.NETWORK))
    rest = name[len(prefix) :]
    for end, slot in _ENDS:
        found = end.search(rest)
        if found is not None:
            module = rest[: found.start()]
            flat = prefix.endswith("_")
            return Key(part, module if flat else _modern(module, part), flat, slot)
    return None


def _modern(module: str, part: Part) -> str:
    """Older diffusers gave a LoRA to an attention processor, and called a text encoder's projections as the UNet's."""
    module = module.replace(".processor.", ".")
    parent, _, last = module.rpartition(".")
    if part is Part.NETWORK:
        return f"{module}.0" if last == "to_out" else module
    return f"{parent}.{_OLD_TEXT[last]}" if last in _OLD_TEXT and parent.endswith("self_attn") else module
