"""Upscalers: which files are taken, and that a picture in tiles is the picture whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from upscalers import compact, esrgan

from pipelines.adapters.tiling import Canvas, cut
from pipelines.adapters.upscaler import Upscaler, open_upscaler
from pipelines.contract.adapters import UpscalerCard
from pipelines.contract.errors import EngineFailure, ModelLoadFailed

CPU = torch.device("cpu")


def opened(card: UpscalerCard, **changes: object) -> Upscaler:
    return open_upscaler(msgspec.structs.replace(card, **changes), CPU, lambda _part, _done: None)


def in_tiles(upscaler: Upscaler, pixels: torch.Tensor) -> torch.Tensor:
    where = upscaler.grid(pixels.shape[2], pixels.shape[1])
    assert len(where) > 1
    canvas = Canvas(where, upscaler.scale)
    for index in range(len(where)):
        canvas.put(index, upscaler.enlarged(cut(pixels, where.box(index))))
    return canvas.pixels()


def smooth(width: int, height: int) -> torch.Tensor:
    small = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(5))
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1)[0]


@pytest.mark.parametrize("size", [(150, 201), (64, 65), (63, 300)])
def test_a_network_that_does_not_reach_far_gives_the_same_in_tiles(tmp_path, size):
    # It reaches four pixels to each side, and a quarter of the overlap of 16 is just that.
    upscaler = opened(compact(tmp_path / "x.safetensors"), tile=64)
    pixels = smooth(*size)
    assert (in_tiles(upscaler, pixels) - upscaler.enlarged(pixels)).abs().max() < 2e-6


def test_a_network_that_reaches_further_shows_no_seam(tmp_path):
    """Along the lines where tiles meet the picture is no rougher than elsewhere."""
    upscaler = opened(compact(tmp_path / "x.safetensors", convolutions=24, seed=3), tile=64)
    pixels = smooth(200, 200)
    whole, tiled = upscaler.enlarged(pixels), in_tiles(upscaler, pixels)
    assert (whole - tiled).abs().max() > 1e-6, "the test says nothing unless tiles make a difference"
    roughness = (tiled.diff(dim=2) - whole.diff(dim=2)).abs().amax(dim=(0, 1))
    assert roughness.max() < 2 / 255


def test_its_card_says_how_much_goes_through_at_once(tmp_path):
    upscaler = opened(esrgan(tmp_path / "x.safetensors"), tile=96)
    seen = []
    upscaler._descriptor.model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[2:]))
    pixels = smooth(300, 120)
    made = in_tiles(upscaler, pixels)
    assert made.shape == (3, 480, 1200)
    assert {tuple(each) for each in seen} == {(96, 96)}
    assert upscaler.bytes > 1_000_000


def test_half_precision_that_overflows_is_done_again_in_float32(tmp_path):
    card = compact(tmp_path / "x.safetensors")
    exact = opened(card)
    upscaler = opened(card)
    upscaler._descriptor.model.half()
    half = Upscaler(card.name, upscaler._descriptor, card.tile)
    pixels = smooth(40, 40)
    assert (half.enlarged(pixels) - exact.enlarged(pixels)).abs().max() < 2e-2
    for upscaler in (half, exact):
        first = upscaler._descriptor.model.body[0]
        first.weight.mul_(1e5 / first.weight.abs().max()).clamp_(-6e4, 6e4)
    assert torch.isfinite(half.enlarged(pixels)).all()
    assert half._descriptor.dtype is torch.float16
    first.weight.fill_(torch.inf)
    with pytest.raises(EngineFailure, match="no finite numbers"):
        exact.enlarged(pixels)


def denoiser(path: Path) -> UpscalerCard:
    return compact(path, scale=1)


def of_one_channel(path: Path) -> UpscalerCard:
    return compact(path, channels=1)


def of_nothing_known(path: Path) -> UpscalerCard:
    save_file({"some.weight": torch.ones(3)}, path)
    return UpscalerCard("x", f"file:{path}")


def damaged(path: Path) -> UpscalerCard:
    card = compact(path)
    path.write_bytes(path.read_bytes()[:-8])
    return card


def pickled(path: Path) -> UpscalerCard:
    torch.save({"body.0.weight": torch.ones(1)}, path)
    return UpscalerCard("x", f"file:{path}")


def missing(path: Path) -> UpscalerCard:
    return UpscalerCard("x", f"file:{path}")


def lacking(path: Path) -> UpscalerCard:
    card = esrgan(path)
    from safetensors.torch import load_file

    state = load_file(path)
    state.pop("model.0.bias")
    save_file(state, path)
    return card


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (denoiser, "does not enlarge"),
        (of_one_channel, "must be RGB"),
        (of_nothing_known, "no architecture that spandrel knows"),
        (damaged, "cut short"),
        (pickled, "is a pickle"),
        (missing, "is no file"),
        (lacking, "cannot be loaded"),
    ],
)
def test_what_is_no_upscaler_is_refused(tmp_path, make, words):
    with pytest.raises(ModelLoadFailed, match=words):
        opened(make(tmp_path / "x.safetensors"))


def test_a_tile_that_is_all_overlap_is_refused(tmp_path):
    with pytest.raises(ModelLoadFailed, match="tile must be 32"):
        opened(compact(tmp_path / "x.safetensors"), tile=16)


sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
from hub_double import Hub, serving  # noqa: E402 - lies beside other tests

SCRIPT = """
import json, os, sys
from pipelines.adapters.files import locate
from pipelines.contract.errors import ModelLoadFailed
for downloads, name in json.loads(sys.argv[1]):
    os.environ["AQUATINT_DOWNLOADS"] = downloads
    try:
        print(locate("hf:org/model", None, name, lambda *_: None).read_bytes().decode())
    except ModelLoadFailed as error:
        print(error.message)
"""


def test_a_repository_s_file_is_downloaded_once(tmp_path):
    hub = Hub({"two.safetensors": b"2", "four.safetensors": b"4", "README.md": b"hello"})
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    asked = [("0", "two.safetensors"), ("1", None), ("1", "four.safetensors"), ("0", "four.safetensors")]
    asked.append(("1", "weights.pth"))
    with serving(hub) as url:
        environment = clean | {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": url}
        command = [sys.executable, "-c", SCRIPT, json.dumps(asked)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()
    assert "downloads are off" in told[0]
    assert "several safetensors files (four.safetensors, two.safetensors)" in told[1]
    assert told[2:4] == ["4", "4"]
    assert "no safetensors file" in told[4]
    fetched = [path for method, path, _ in hub.asked if method == "GET" and path.endswith(".safetensors")]
    assert len(fetched) == 1, "only what is wanted, and once"
