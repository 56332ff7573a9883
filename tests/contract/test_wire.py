"""The wire form of every message is pinned: a change of it is a decision, not an accident.

After a decision: ``AQUATINT_GOLDEN=write scripts/test tests/contract``, and raise `PROTOCOL` if an old peer would misread it.
"""

import json
import os
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from pipelines.contract import errors
from pipelines.contract.adapters import ControlCard, ControlKind, LoraCard, PreprocessorCard, ReferenceCard, UpscalerCard
from pipelines.contract.catalog import (
    Attention,
    Compile,
    Defaults,
    Dtype,
    EmbeddingCard,
    Emphasis,
    ModelCard,
    ModelFacts,
    Quantize,
    Schedule,
)
from pipelines.contract.control import Balance, ControlUse, LoraUse, ReferenceUse
from pipelines.contract.enlarging import Enlarger, Hires, Tiles, Upscale
from pipelines.contract.errors import AquatintError, EngineFailure, ErrorReport, Overloaded
from pipelines.contract.family import Family
from pipelines.contract.inpainting import Margins, MaskedContent, Masking
from pipelines.contract.messages import (
    AdapterMemory,
    Cancel,
    Command,
    Completed,
    Drain,
    Drained,
    Event,
    Failed,
    Generate,
    Hello,
    ImageDone,
    KnowModel,
    LoadModel,
    Memory,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    Phase,
    Preparing,
    Preprocess,
    Preprocessed,
    Preview,
    Progress,
    RunStats,
    Tick,
    UnloadModel,
    decode_command,
    decode_event,
    encode,
)
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import ImageRequest, Init, Priority, Refiner, Sampling, SizeConditioning, SkipLayers, Style

GOLDEN = Path(__file__).parent / "golden"
DOT = Picture(width=2, height=1, mode="RGB", data=bytes(range(6)))
PAPER = LoraCard("paper", "hf:owner/paper", Family.SDXL, "main", "paper.safetensors", 0.8, "paper cut", "Cut from paper.")
POSES = ControlCard("poses", "dir:/models/poses", Family.SDXL, ControlKind.UNION, None, "openpose", {"pose": 0}, "Poses.")
FACES = ReferenceCard("faces", "file:/models/faces.safetensors", Family.SDXL, "dir:/models/clip", None, None, "Faces.")
LARGER = UpscalerCard("larger", "file:/models/larger.safetensors", tile=256)
REPORT = ErrorReport("out_of_memory", "too big", param="size")

MESSAGES = [
    LoadModel(
        ModelCard(
            id="demo",
            source="hf:owner/name",
            revision="main",
            family=Family.SDXL,
            dtype=Dtype.FLOAT16,
            vae="file:/models/vae.safetensors",
            text_encoders={"text_encoder_3": None},
            schedule=Schedule(prediction_type="v_prediction", zero_snr=True, timestep_spacing="trailing", shift=3.0),
            emphasis=Emphasis.NO_NORM,
            embedded_guidance=True,
            attention=Attention.XFORMERS,
            compile=Compile.BLOCKS,
            quantize=Quantize.INT8,
            defaults=Defaults(skip_layers=SkipLayers((7, 8, 9)), refiner=Refiner("other")),
            qualities={"low": 10},
            embeddings=(EmbeddingCard("easynegative", "file:/models/easynegative.safetensors", Family.SDXL),),
            preload=True,
            pin=True,
        )
    ),
    KnowModel(ModelCard(id="demo", source="bundled:demo", family=Family.SD)),
    UnloadModel("demo"),
    Generate(
        ImageRequest(
            id="r1",
            model="demo",
            prompt="a red circle",
            negative_prompt="blue",
            style=Style("line-art", "line art of {prompt}", "colour"),
            width=128,
            height=192,
            seeds=(1, 2**64 - 1),
            sampling=Sampling(
                sampler="dpmpp_2m",
                steps=20,
                guidance_scale=4.5,
                scheduler="karras",
                guidance_rescale=0.7,
                skip_layers=SkipLayers((7,)),
            ),
            sizes=SizeConditioning(original=(1024, 1024), crop=(8, 16), target=(512, 512)),
            refiner=Refiner("refiner", 0.7),
            init=Init(
                DOT,
                0.6,
                Resize.FILL,
                Picture(width=2, height=1, mode="L", data=b"\x00\xff"),
                Masking(invert=True, grow=4, blur=1.5, soft=True, content=MaskedContent.FILL, only_masked=True, padding=16),
                Margins(8, 16, 24, 32),
                keep_unmasked=True,
            ),
            clip_skip=1,
            loras=(LoraUse(PAPER, 0.7, -0.5),),
            controls=(
                ControlUse(POSES, DOT, "openpose", 1.2, 0.1, 0.8, Balance.CONTROL, Resize.STRETCH, "pose", {"resolution": 512}),
            ),
            references=(ReferenceUse(FACES, (DOT, DOT), 0.5, 0.2, 0.9),),
            hires=Hires(256, 384, Enlarger.MODEL, LARGER, 0.4, 12),
            upscale=Upscale(512, 768, Enlarger.MODEL, LARGER, Tiles(256, 32, 0.2)),
            preview_every=5,
            priority=Priority.BULK,
            deadline=1800000000.5,
        )
    ),
    Preprocess(
        "p1", "softedge_hed", PreprocessorCard("hed", "hf:owner/name", "main", "a.pth"), DOT, {"resolution": 512, "s": 0.5}
    ),
    Cancel("r1"),
    Drain(),
    Hello(1, 4242, "cuda:0", "NVIDIA H100", 85899345920),
    ModelLoading("demo", "unet", 0.3),
    ModelLoaded("demo", ModelFacts(Family.SD, "v_prediction", "float16", 11, 22, 4, inpainting=False, load_seconds=1.5)),
    ModelFailed("demo", REPORT),
    ModelUnloaded("demo", evicted=True),
    Memory(9 << 30, 20 << 30, 4 << 30, ("demo", "sdxl")),
    AdapterMemory(1 << 20, 2 << 30, ("paper", "poses")),
    Progress("r1", 1, 3, 20),
    Preview("r1", 1, 3, DOT),
    ImageDone("r1", 0, DOT),
    Preparing("p1", "hed", 0.5),
    Preprocessed("p1", DOT, 0.25),
    Completed("r1", RunStats(0.1, 0.2, 0.3, 0.4, 40, 11.5, 0.6, 0.05)),
    Failed("r1", REPORT),
    Tick("demo", Phase.DENOISE, 5, 9, 3, 0.05, out_of_memory=False, waiting=7),
    Drained(),
]


def name(message: object) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_wire_form_is_the_golden_one_and_reads_back(message):
    frame = encode(message)
    shown = json.dumps(json.loads(msgspec.json.encode(msgspec.msgpack.decode(frame))), indent=2, ensure_ascii=False) + "\n"
    path = GOLDEN / f"{name(message)}.json"
    if os.environ.get("AQUATINT_GOLDEN") == "write":
        path.write_text(shown)
    assert shown == path.read_text()
    decode = decode_command if isinstance(message, get_args(Command)) else decode_event
    assert decode(frame) == message


def test_every_message_has_a_golden_form():
    assert {name(message) for message in MESSAGES} == {kind.__name__ for kind in (*get_args(Command), *get_args(Event))}


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", msgspec.msgpack.encode({"type": "no such"}), msgspec.msgpack.encode({"type": "cancel"})]
)
def test_anything_else_is_refused(frame):
    with pytest.raises(msgspec.DecodeError):
        decode_command(frame)


def test_a_command_with_an_unknown_field_is_refused():
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        decode_command(msgspec.msgpack.encode({"type": "cancel", "id": "x", "why": "y"}))


@pytest.mark.parametrize(("width", "height", "size"), [(0, 1, 0), (2, 2, 11), (2, 2, 13)])
def test_a_picture_of_the_wrong_size_is_refused(width, height, size):
    with pytest.raises(ValueError, match="needs"):
        Picture(width=width, height=height, mode="RGB", data=bytes(size))


def tree(root: type[AquatintError]) -> list[type[AquatintError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


@pytest.mark.parametrize("kind", tree(AquatintError), ids=lambda kind: kind.__name__)
def test_every_error_survives_the_wire(kind):
    report = kind("message", param="size", retry_after=2.5).report()
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=ErrorReport).to_exception()
    assert type(back) is kind
    assert (back.message, back.param, back.retry_after) == ("message", "size", 2.5)


def test_codes_are_unique_and_unknown_ones_are_ours_to_mend():
    codes = [kind.code for kind in tree(AquatintError)]
    assert len(codes) == len(set(codes))
    assert isinstance(ErrorReport("from the future", "?").to_exception(), EngineFailure)
    assert Overloaded.retryable
    assert "UnknownModel" in errors.__doc__
