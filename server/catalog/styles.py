"""Styles by name: the presets that clients of Stability's API know, and the house styles of models.yaml."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from pipelines.contract.adapters import LoraCard
from pipelines.contract.loras import extract
from pipelines.contract.request import PLACE, Style
from server.catalog.positions import Document

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class StyleEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``styles:`` in models.yaml."""

    prompt: str
    """What is drawn, with ``{prompt}`` once, where the caller's words go; LoRA tags count as in prompts."""
    negative: str = ""


def styles(document: Document, entries: Mapping[str, StyleEntry], loras: Mapping[str, LoraCard]) -> Mapping[str, Style]:
    """The presets and the house styles of ``entries``, which win, their LoRA tags still in them; raises `CatalogError`."""
    house: dict[str, Style] = {}
    for name, entry in entries.items():
        if not _NAME.fullmatch(name):
            raise document.error(("styles", name), "a style's name is made of small letters, digits and . _ -")
        if entry.prompt.count(PLACE) != 1:
            raise document.error(("styles", name, "prompt"), f"must have {PLACE} once, where the caller's words go")
        for part, text in (("prompt", entry.prompt), ("negative", entry.negative)):
            for tag in extract(text)[1]:
                if tag.name.casefold() not in loras:
                    raise document.error(("styles", name, part), f"there is no LoRA {tag.name!r}")
        house[name] = Style(name, entry.prompt, entry.negative)
    return MappingProxyType({**PRESETS, **house})


def _presets(*rows: tuple[str, str, str]) -> Mapping[str, Style]:
    return MappingProxyType({name: Style(name, prompt, negative) for name, prompt, negative in rows})


PRESETS: Mapping[str, Style] = _presets(
    (
        "3d-model",
        "3d model of {prompt}, clean topology, physically based materials, soft studio light, ray traced render",
        "flat drawing, sketch, photo grain, low-resolution texture",
    ),
    (
        "analog-film",
        "{prompt}, 35mm analog film photo, visible grain, warm faded colours, light leak, slight vignette",
        "digital look, oversharpened, illustration, render",
    ),
    (
        "anime",
        "anime illustration of {prompt}, clean line work, cel shading, vivid colours, detailed background",
        "photo, realistic skin, 3d render, muddy colours",
    ),
    (
        "cinematic",
        "cinematic still of {prompt}, dramatic light, shallow depth of field, anamorphic lens, film colour grading",
        "flat light, snapshot, cartoon, drawing",
    ),
    (
        "comic-book",
        "comic book panel of {prompt}, bold ink outlines, halftone shading, strong flat colours, dynamic composition",
        "photo, 3d render, blurred lines, watercolour",
    ),
    (
        "digital-art",
        "digital painting of {prompt}, concept art, rich detail, confident brush work, glowing light",
        "photo, low detail, washed out",
    ),
    (
        "enhance",
        "{prompt}, highly detailed, sharp focus, balanced light, natural colours, fine texture",
        "blurry, noisy, low contrast, compression artefacts",
    ),
    (
        "fantasy-art",
        "fantasy art of {prompt}, otherworldly mood, epic scale, ornate detail, luminous atmosphere, painted",
        "modern objects, photo, plain background",
    ),
    (
        "isometric",
        "isometric view of {prompt}, parallel projection, tidy miniature scene, crisp edges, soft even shadows",
        "perspective distortion, horizon, photo, blur",
    ),
    (
        "line-art",
        "line art of {prompt}, clean black contour lines on white, even stroke, minimal hatching",
        "colour, shading, photo, grey smudges",
    ),
    (
        "low-poly",
        "low poly scene of {prompt}, faceted triangles, flat shaded surfaces, simple shapes, soft ambient light",
        "smooth surfaces, fine texture, photo, noise",
    ),
    (
        "modeling-compound",
        "{prompt} sculpted from modelling clay, visible fingerprints, rounded shapes, miniature stop-motion set, soft light",
        "flat drawing, glossy plastic, photo of a real subject",
    ),
    (
        "neon-punk",
        "{prompt}, neon-lit cyberpunk night, glowing magenta and cyan, wet reflections, haze, high contrast",
        "daylight, pastel colours, plain, washed out",
    ),
    (
        "origami",
        "{prompt} folded from paper, origami, crisp creases, layered sheets, plain studio background, soft shadow",
        "cloth, plastic, drawing, cluttered background",
    ),
    (
        "photographic",
        "photograph of {prompt}, natural light, true colours, sharp detail, 50mm lens, realistic",
        "drawing, painting, render, unnatural skin, oversaturated",
    ),
    (
        "pixel-art",
        "pixel art of {prompt}, small colour palette, hard pixel edges, 16-bit game sprite, no smoothing",
        "blur, anti-aliasing, photo, gradients, fine detail",
    ),
    (
        "tile-texture",
        "seamless tile texture of {prompt}, repeating pattern, even light, flat view from above, no borders",
        "perspective, shadows, single centred object, frame",
    ),
)
"""Stability's names (its API reference of 2026, v2beta); the wording is ours."""
