"""From a folder to a loaded family: what the card says, what the files lack, how far it is, how much memory it takes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.contract.catalog import Attention, Compile, Defaults, Dtype, ModelCard, Quantize, Schedule
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.families.loading import load, precision

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny():
    from tiny import Tiny

    return Tiny()


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tiny.pipeline("txt2img").save_pretrained(path)
    return path


def card(folder, **fields):
    return ModelCard(id="m", source=f"dir:{folder}", family=Family.SD, **fields)


def quiet(part, done):
    pass


def copied(folder, to, part):
    """The folder with one part of its own to change."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to / part


def test_progress_is_told_in_bytes_and_ends_at_one(folder, tiny):
    told = []
    family = load(card(folder), CPU, lambda part, done: told.append((part, done)))
    sizes = {part: (folder / part / name).stat().st_size for part, name in WEIGHTS.items()}
    whole = sum(sizes.values())
    done, wanted = 0, []
    for part in ("text_encoder", "vae", "unet"):
        wanted += [(part, done / whole), (part, (done + sizes[part]) / whole)]
        done += sizes[part]
    assert told == [*wanted, ("ready", 1.0)]
    assert family.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(family.network.conv_in.weight, tiny.unet.conv_in.weight)


WEIGHTS = {
    "text_encoder": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
}


def test_the_card_s_schedule_is_the_family_s(folder):
    said = Schedule(prediction_type="v_prediction", zero_snr=True, timestep_spacing="trailing")
    family = load(card(folder, schedule=said), CPU, quiet)
    assert family.facts.prediction_type == "v_prediction"
    assert family.scheduler_config["rescale_betas_zero_snr"] is True
    assert load(card(folder), CPU, quiet).facts.prediction_type == "epsilon"


def test_half_precision_reads_the_half_precision_files(folder, tiny, tmp_path):
    unet = copied(folder, tmp_path, "unet")
    marked = dict(tiny.unet.state_dict())
    marked["conv_in.bias"] = torch.full_like(marked["conv_in.bias"], 0.5)
    other = type(tiny.unet).from_config(tiny.unet.config)
    other.load_state_dict(marked)
    other.half().save_pretrained(unet, variant="fp16")
    half = load(card(tmp_path, dtype=Dtype.FLOAT16), CPU, quiet).network
    assert (half.dtype, half.conv_in.bias[0]) == (torch.float16, 0.5)
    full = load(card(tmp_path), CPU, quiet).network
    assert torch.equal(full.conv_in.bias, tiny.unet.conv_in.bias)
    (unet / WEIGHTS["unet"]).unlink()
    only = load(card(tmp_path), CPU, quiet).network
    assert (only.dtype, only.conv_in.bias[0]) == (torch.float32, 0.5)


@pytest.mark.parametrize(("says", "dtype"), [(True, torch.float32), (False, torch.float16), (None, torch.float16)])
def test_a_vae_that_overflows_in_float16_is_read_in_float32(folder, tiny, tmp_path, says, dtype):
    config = copied(folder, tmp_path, "vae") / "config.json"
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "force_upcast"}
    config.write_text(json.dumps(kept if says is None else kept | {"force_upcast": says}))
    family = load(card(tmp_path, dtype=Dtype.FLOAT16), CPU, quiet)
    assert (family.dtype, family.vae.module.dtype) == (torch.float16, dtype)
    if dtype is torch.float32:
        assert torch.equal(family.vae.module.decoder.conv_in.weight, tiny.vae.decoder.conv_in.weight), "rounded on the way"


def test_weights_that_are_missing_are_an_error_not_random_numbers(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    path = copied(folder, tmp_path, "unet") / WEIGHTS["unet"]
    weights = load_file(path)
    del weights["conv_in.bias"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelLoadFailed, match=r"lacks 1 of the weights of a UNet2DConditionModel, such as 'conv_in.bias'"):
        load(card(tmp_path), CPU, quiet)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedded_guidance": True}, "says embedded_guidance: true, but the network does not take"),
        ({"attention": Attention.XFORMERS}, "attention: xformers"),
    ],
)
def test_what_the_network_cannot_do_is_told(folder, fields, message):
    with pytest.raises(ModelLoadFailed, match=message):
        load(card(folder, **fields), CPU, quiet)


def test_a_card_that_forgets_embedded_guidance_is_told(folder, tmp_path):
    from tiny import Tiny

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    Tiny(guidance_width=32).unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(ModelLoadFailed, match="says embedded_guidance: false, but the network takes"):
        load(card(tmp_path), CPU, quiet)
    assert load(card(tmp_path, embedded_guidance=True), CPU, quiet).facts.embedded_guidance


def test_quantised_weights_without_torchao_say_what_to_install(folder):
    try:
        import torchao  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ModelLoadFailed, match="pip install 'aquatint\\[quantize\\]'"):
            load(card(folder, quantize=Quantize.INT8), CPU, quiet)


@pytest.mark.parametrize("kind", Quantize)
def test_quantised_weights_are_smaller_and_predict_nearly_the_same(folder, kind):
    pytest.importorskip("torchao")
    plain = load(card(folder), CPU, quiet)
    family = load(card(folder, quantize=kind), CPU, quiet)
    assert family.facts.parameters == plain.facts.parameters
    assert family.facts.bytes < 0.9 * plain.facts.bytes
    latents, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0, 20.0])
    from pipelines.families.conditioning import Conditioning

    with torch.inference_mode():
        tokens = Conditioning(torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(1)))
        exact, found = (each.evaluate(latents, time, tokens) for each in (plain, family))
        alone = family.evaluate(latents[:1], time[:1], tokens.rows(0, 1))
    assert 0 < (found - exact).abs().max() / exact.abs().max() < 0.1
    assert (alone - found[:1]).abs().max() / found.abs().max() < 1e-4


def test_a_quantised_parameter_counts_for_what_it_is_made_of():
    from torch.testing._internal.two_tensor import TwoTensor

    from pipelines.families.facts import stored

    module = torch.nn.Linear(4, 4, bias=False)
    module.weight = torch.nn.Parameter(TwoTensor(torch.zeros(4, 4), torch.zeros(4, 4)), requires_grad=False)
    assert stored(module) == 2 * 64


def test_auto_precision_suits_the_device():
    assert precision(Dtype.AUTO, CPU) is torch.float32
    assert precision(Dtype.AUTO, torch.device("cuda:0")) is torch.float16
    assert precision(Dtype.BFLOAT16, CPU) is torch.bfloat16


@pytest.mark.parametrize("compiled", [Compile.BLOCKS])
@pytest.mark.slow
def test_compiled_blocks_predict_the_same(folder, compiled):
    told = []
    small = Defaults(width=64, height=64, guidance=4.0)
    asked = card(folder, compile=compiled, defaults=small)
    family = load(asked, CPU, lambda part, done: told.append((part, done)))
    assert ("compile for 2", 0.5) in told
    assert told[-1] == ("ready", 1.0)
    plain = load(card(folder), CPU, quiet)
    from pipelines.families.conditioning import Conditioning

    with torch.inference_mode():
        for rows, side in ((2, 8), (1, 8), (5, 8), (3, 16)):
            latents = torch.randn(rows, 4, side, side)
            tokens = Conditioning(torch.randn(rows, 77, 32))
            time = torch.full((rows,), 300.0)
            wanted, found = (each.evaluate(latents, time, tokens) for each in (plain, family))
            assert (found - wanted).abs().max() / wanted.abs().max() < 1e-4


MEASURE = """
import gc, json, sys
from pathlib import Path
import torch
from diffusers import UNet2DConditionModel
from pipelines.families.parts import FolderParts

def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

def growth(dtype):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before, own = memory("VmRSS"), memory("RssAnon")
    parts = FolderParts(Path(sys.argv[1]), torch.device("cpu"), dtype, lambda part, done: None)
    module = parts.module("unet", UNet2DConditionModel).to(memory_format=torch.channels_last)
    sum(float(parameter.sum()) for parameter in module.parameters())  # every weight is really there
    return memory("VmHWM") - before, memory("RssAnon") - own

# Once for nothing: what the libraries import late is not the weights' fault.
growth(torch.float32)
print(json.dumps({name: growth(getattr(torch, name)) for name in ("float32", "float16")}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's own books on memory")
def test_loading_never_holds_two_copies_of_the_weights(tmp_path):
    import diffusers

    network = diffusers.UNet2DConditionModel(
        block_out_channels=(128, 256, 256),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
    )
    network.save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    file = (tmp_path / "unet" / WEIGHTS["unet"]).stat().st_size
    assert file > 100e6
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    measured = json.loads(run.stdout.splitlines()[-1])
    grown = {name: (peak / file, own / file) for name, (peak, own) in measured.items()}
    print(f"loading {file / 1e6:.0f} MB: the peak, and what is the process's own, as shares of the file: {grown}")
    for peak, own in grown.values():
        # The file's mapped pages, which the kernel may drop, and convolutions beside them, laid out anew: 0.6 of this network.
        assert peak < 1.75
        assert own < 1.0
