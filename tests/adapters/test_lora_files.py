"""LoRA files of every layout and kind: the same change whatever its spelling, and errors that say what is wrong."""

import copy
import pickle
import re
import sys
from pathlib import Path

import peft
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_unet_lora_key, _maybe_map_sgm_blocks_to_diffusers

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from loras import ATTENTION, CONVOLUTIONS, TEXT, changes, kohya_layout, peft_layout, save

from pipelines.adapters.lora import LoraPart, applied, open_lora
from pipelines.adapters.lora.places import Places
from pipelines.contract.adapters import LoraCard
from pipelines.contract.errors import ModelLoadFailed, Unsupported
from pipelines.contract.family import Family
from pipelines.families.conditioning import Conditioning


@pytest.fixture(scope="module")
def sd():
    from tiny import Tiny

    return Tiny()


@pytest.fixture(scope="module")
def sdxl():
    from tiny_sdxl import TinyXL

    return TinyXL()


@pytest.fixture(scope="module")
def sd3():
    from tiny_sd3 import TinySD3

    return TinySD3(medium=True)


def opened(path, tiny, family=Family.SD, **fields):
    return open_lora(LoraCard(path.stem, f"file:{path}", family, **fields), tiny.family, lambda _part, _done: None)


def inputs(tiny, rows=3):
    torch.manual_seed(3)
    network = tiny.family.network
    told = {
        "tokens": torch.randn(rows, 7, getattr(network.config, "joint_attention_dim", None) or network.config.cross_attention_dim)
    }
    if hasattr(tiny, "transformer"):
        told["pooled"] = torch.randn(rows, network.config.pooled_projection_dim)
    elif hasattr(tiny, "text_encoder_2"):
        told |= {"pooled": torch.randn(rows, 24), "sizes": torch.full((rows, 6), 64.0)}
    return torch.randn(rows, network.config.in_channels, 8, 8), torch.tensor([10.0, 500.0, 900.0]), Conditioning(**told)


@torch.inference_mode()
def evaluated(tiny, *rows):
    """What the network says of three rows, with these LoRAs."""
    given = inputs(tiny)
    with applied([tuple(LoraPart(lora, weight) for lora, weight in row) for row in rows]):
        return tiny.family.evaluate(*given)


def layers_of(lora):
    return {id(held()): layer.delta() for held, layer in (*lora.network, *lora.text)}


def same(one, other):
    first, second = layers_of(one), layers_of(other)
    assert first.keys() == second.keys()
    for module, delta in first.items():
        torch.testing.assert_close(second[module], delta, rtol=1e-5, atol=1e-6)
    assert first


def test_kohya_and_peft_layouts_of_the_same_change(tmp_path, sd):
    unet, text = changes(sd.unet, ATTENTION + CONVOLUTIONS, seed=1), changes(sd.text_encoder, TEXT, seed=2)
    one = save(tmp_path / "peft.safetensors", peft_layout({"unet": unet, "text_encoder": text}))
    other = save(tmp_path / "kohya.safetensors", kohya_layout({"unet": unet, "te": text}, alpha=4.0))
    same(opened(one, sd), opened(other, sd))
    # Half of alpha is half of the change.
    half = opened(save(tmp_path / "half.safetensors", kohya_layout({"unet": unet, "te": text}, alpha=2.0)), sd)
    whole = layers_of(opened(one, sd))
    assert all(torch.allclose(delta * 2, whole[module], atol=1e-6) for module, delta in layers_of(half).items())


def test_older_layouts(tmp_path, sd):
    unet, text = changes(sd.unet, (".to_q", ".to_out.0"), seed=1), changes(sd.text_encoder, ("q_proj", "out_proj", "fc1"), seed=2)
    new = opened(save(tmp_path / "new.safetensors", peft_layout({"unet": unet, "text_encoder": text})), sd)
    old = {}
    for path, layer in unet.items():
        attention, _, projection = re.sub(r"\.to_out\.0$", ".to_out", path).rpartition(".")
        for slot, way in (("A", "down"), ("B", "up")):
            old[f"unet.{attention}.processor.{projection}_lora.{way}.weight"] = layer[slot]
    for path, layer in text.items():
        name = f"text_encoder.text_model.{path}"
        name = (
            name.replace("q_proj", "to_q_lora").replace("out_proj", "to_out_lora")
            if "attn" in name
            else f"{name}.lora_linear_layer"
        )
        for slot, way in (("A", "down"), ("B", "up")):
            old[f"{name}.{way}.weight"] = layer[slot]
    same(new, opened(save(tmp_path / "old.safetensors", old), sd))
    wrapped = {f"base_model.model.{path}.lora_A.default.weight": layer["A"] for path, layer in unet.items()}
    wrapped |= {f"base_model.model.{path}.lora_B.default.weight": layer["B"] for path, layer in unet.items()}
    plain = opened(save(tmp_path / "plain.safetensors", peft_layout({"unet": unet})), sd)
    same(plain, opened(save(tmp_path / "wrapped.safetensors", wrapped), sd))


@pytest.mark.parametrize("blocks", ["tiny", "real"])
def test_the_original_unet_s_names_are_the_ones_that_diffusers_knows(sdxl, blocks):
    """Our table against diffusers' own conversion, name by name."""
    unet = sdxl.unet
    if blocks == "real":
        import diffusers
        from accelerate import init_empty_weights

        with init_empty_weights():
            config = diffusers.UNet2DConditionModel.load_config("pipelines/families/configs/sdxl/unet", local_files_only=True)
            unet = diffusers.UNet2DConditionModel.from_config(config)
    places = Places(unet)
    originals = [name for name in places._dotted if name.startswith(("input_blocks", "middle_block", "output_blocks"))]
    assert len(originals) > 50
    checked = 0
    for name in originals:
        flat = f"lora_unet_{name.replace('.', '_')}.lora_down.weight"
        block = re.match(r"output_blocks\.(\d+)\.1\.conv", name)
        if block is not None or name.startswith("input_blocks.0"):
            continue  # diffusers takes an upsampler without attention before it for an attention
        mapped = next(iter(_maybe_map_sgm_blocks_to_diffusers({flat: None}, unet.config)))
        found = _convert_unet_lora_key(mapped)
        found = found.replace(".processor", "").replace("_lora.down.weight", "").replace(".lora.down.weight", "")
        found = re.sub(r"\.to_out$", ".to_out.0", found)
        assert [place.path for place in places.find(name, flat=False)] == [found], name
        assert places.find(name.replace(".", "_"), flat=True) == places.find(name, flat=False)
        checked += 1
    assert checked > 50


def test_an_sdxl_trainer_s_file(tmp_path, sdxl):
    unet = changes(sdxl.unet, ATTENTION + CONVOLUTIONS, seed=1)
    parts = {"te1": changes(sdxl.text_encoder, TEXT, seed=2), "te2": changes(sdxl.text_encoder_2, TEXT, seed=3)}
    names = {places[0].path: name for name, places in Places(sdxl.unet)._dotted.items() if name != places[0].path}
    diffusers = save(tmp_path / "diffusers.safetensors", kohya_layout({"unet": unet} | parts))
    original = {names.get(path, path): layer for path, layer in unet.items()}
    assert any(name.startswith("output_blocks") for name in original)
    sgm = save(tmp_path / "sgm.safetensors", kohya_layout({"unet": original} | parts))
    same(opened(diffusers, sdxl, Family.SDXL), opened(sgm, sdxl, Family.SDXL))
    dotted = {f"diffusion_model.{name}.lora_A.weight": layer["A"] for name, layer in original.items()}
    dotted |= {f"diffusion_model.{name}.lora_B.weight": layer["B"] for name, layer in original.items()}
    only = save(tmp_path / "only.safetensors", kohya_layout({"unet": unet}))
    same(opened(only, sdxl, Family.SDXL), opened(save(tmp_path / "comfy.safetensors", dotted), sdxl, Family.SDXL))


def original_sd3(transformer, layers):
    """A change of the original MMDiT, where q, k and v are one: joined from the separate ones along the ranks."""
    fused, found = {}, {}
    for path, layer in layers.items():
        ((name, place),) = [
            (name, place)
            for name, places in Places(transformer)._dotted.items()
            for place in places
            if place.path == path and name.startswith(("joint_blocks", "final_layer", "x_embedder", "y_embedder", "t_embedder"))
        ]
        up = torch.cat(layer["B"].chunk(2)[::-1]) if place.swapped else layer["B"]
        if place.share == (0, 1):
            found[name] = {"A": layer["A"], "B": up}
        else:
            fused.setdefault(name, {})[place.share[0]] = {"A": layer["A"], "B": up}
    for name, three in fused.items():
        found[name] = {
            "A": torch.cat([three[index]["A"] for index in range(3)]),
            "B": torch.block_diag(*(three[index]["B"] for index in range(3))),
        }
    return found


def test_original_sd3_files_with_joined_projections(tmp_path, sd3):
    ends = ("to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj", "to_out.0", "to_add_out", "ff.net.2", "linear", "proj_out")
    layers = changes(sd3.transformer, ends, seed=1, rank=3)
    layers = {path: layer for path, layer in layers.items() if not path.startswith("time_text_embed")}
    plain = opened(save(tmp_path / "plain.safetensors", peft_layout({"transformer": layers})), sd3, Family.SD3)
    joined = original_sd3(sd3.transformer, layers)
    assert "joint_blocks.0.context_block.attn.qkv" in joined
    tensors = kohya_layout({"unet": joined}, alpha=None)
    for flat in (True, False):
        if not flat:
            tensors = {f"diffusion_model.{name}.lora_A.weight": layer["A"] for name, layer in joined.items()}
            tensors |= {f"diffusion_model.{name}.lora_B.weight": layer["B"] for name, layer in joined.items()}
        same(plain, opened(save(tmp_path / f"joined{flat}.safetensors", tensors), sd3, Family.SD3))


def test_alpha_from_diffusers_metadata(tmp_path, sd):
    import json

    unet = changes(sd.unet, (".to_q", ".to_k"), seed=1)
    tensors = peft_layout({"unet": unet})
    told = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 2}, "unet.target_modules": ["to_q", "to_k"]}
    path = save(tmp_path / "a.safetensors", tensors, {"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    found = {held(): layer.scale for held, layer in opened(path, sd).network}
    for name, module in sd.unet.named_modules():
        if name in unet:
            assert found[module] == (0.5 if name.endswith("attn2.to_k") else 2.0)
    path = save(tmp_path / "rs.safetensors", tensors, {"lora_adapter_metadata": json.dumps(told | {"unet.use_rslora": True})})
    assert {layer.scale for _, layer in opened(path, sd).network} == {1.0, 4.0}
    with pytest.raises(ModelLoadFailed, match="no JSON"):
        opened(save(tmp_path / "bad.safetensors", tensors, {"lora_adapter_metadata": "{"}), sd)


KINDS = {
    "loha": lambda r, **more: peft.LoHaConfig(r=r, alpha=r / 2, init_weights=False, **more),
    "lokr": lambda r, **more: peft.LoKrConfig(r=r, alpha=r / 2, init_weights=False, decompose_factor=2, **more),
    "lokr both": lambda r, **more: peft.LoKrConfig(
        r=r, alpha=r / 2, init_weights=False, decompose_both=True, decompose_factor=4, **more
    ),
}
TARGETS = r".*\.(to_q|to_out\.0|conv1|proj_in|conv|time_emb_proj)"


@pytest.mark.parametrize("core", [False, True], ids=["plain", "tucker"])
@pytest.mark.parametrize("rank", [1, 2, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_loha_and_lokr_as_peft_s_own_layers(tmp_path, sd, kind, rank, core):
    torch.manual_seed(rank)
    theirs = copy.deepcopy(sd.unet)
    config = KINDS[kind](rank, target_modules=TARGETS, use_effective_conv2d=core)
    if kind.startswith("lokr"):
        # Factors that are not low-rank keep alpha/r in PEFT, and nowhere else: with 1 there is no difference.
        config.alpha = rank
    peft.inject_adapter_in_model(config, theirs)
    tensors, modules = {}, set()
    for name, parameter in theirs.named_parameters():
        found = re.match(r"(.+)\.((?:hada|lokr)_\w+)\.default$", name)
        if found:
            parameter.data = torch.randn_like(parameter) * 0.3
            tensors[f"lora_unet_{found[1].replace('.', '_')}.{found[2]}"] = parameter.data
            modules.add(found[1].replace(".", "_"))
    tensors |= {f"lora_unet_{module}.alpha": torch.tensor(float(config.alpha)) for module in modules}
    lora = opened(save(tmp_path / "x.safetensors", tensors), sd)
    assert len(lora.network) == len(modules) > 8
    plain = evaluated(sd, (), (), ())
    ours = evaluated(sd, ((lora, 1.0),), (), ((lora, -0.5),))
    given = inputs(sd)

    def alone(weight):
        for module in theirs.modules():
            if hasattr(module, "set_scale"):
                module.set_scale("default", weight)
        with torch.inference_mode():
            return theirs(given[0], given[1], encoder_hidden_states=given[2].tokens, return_dict=False)[0]

    assert torch.equal(ours[1], plain[1])
    for row, weight in ((0, 1.0), (2, -0.5)):
        wanted = alone(weight)[row]
        assert (wanted - plain[row]).abs().max() > 0.01 * plain.abs().max()
        torch.testing.assert_close(ours[row], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_small_loha_is_written_out_and_a_large_one_is_not(tmp_path, sd):
    from pipelines.adapters.lora.layers import Hadamard, LowRank

    for rank, kind in ((8, LowRank), (9, Hadamard)):
        name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
        sides = {"hada_w1_a": (32, rank), "hada_w1_b": (rank, 32), "hada_w2_a": (32, rank), "hada_w2_b": (rank, 32)}
        tensors = {f"{name}.{slot}": torch.randn(shape) for slot, shape in sides.items()}
        ((_, layer),) = opened(save(tmp_path / f"{rank}.safetensors", tensors), sd).network
        assert type(layer) is kind
        product = (tensors[f"{name}.hada_w1_a"] @ tensors[f"{name}.hada_w1_b"]) * (
            tensors[f"{name}.hada_w2_a"] @ tensors[f"{name}.hada_w2_b"]
        )
        torch.testing.assert_close(layer.delta(), product, rtol=1e-4, atol=1e-4)


def test_dora_over_lycoris_layers_is_the_merged_weight(tmp_path, sd):
    """Against the definition: the row of W + D over its length, times the file's."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    module = sd.unet.get_submodule(name)
    torch.manual_seed(1)
    first, second, length = torch.randn(4, 4), torch.randn(8, 8), torch.rand(32) + 1
    flat = f"lora_unet_{name.replace('.', '_')}"
    tensors = {f"{flat}.lokr_w1": first, f"{flat}.lokr_w2": second, f"{flat}.dora_scale": length[:, None]}
    lora = opened(save(tmp_path / "d.safetensors", tensors), sd)
    for weight in (1.0, 0.4, -1.3):
        changed = module.weight + weight * torch.kron(first, second)
        merged = copy.deepcopy(sd.unet)
        merged.get_submodule(name).weight.data = changed * (length / changed.norm(dim=1))[:, None]
        given = inputs(sd)
        with torch.inference_mode():
            wanted = merged(given[0], given[1], encoder_hidden_states=given[2].tokens, return_dict=False)[0]
        found = evaluated(sd, ((lora, weight),), ((lora, weight),), ((lora, weight),))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (768, "it was made for SD 1.x (cross-attention width 768), this model is a UNet (cross-attention width 32)."),
        (2048, "it was made for SDXL (cross-attention width 2048), this model is a UNet (cross-attention width 32)."),
        ("sd3", "it was made for SD3, this model is a UNet (cross-attention width 32)."),
        ("flux", "it was made for Flux, this model is a UNet (cross-attention width 32)."),
    ],
)
def test_a_file_for_another_model_says_both(tmp_path, sd, other, message):
    names = {
        "sd3": "lora_unet_joint_blocks_0_x_block_attn_qkv",
        "flux": "lora_unet_double_blocks_0_img_attn_qkv",
    }
    name = names.get(other, "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k")
    width = other if isinstance(other, int) else 64
    tensors = {f"{name}.lora_down.weight": torch.zeros(4, width), f"{name}.lora_up.weight": torch.zeros(32, 4)}
    with pytest.raises(Unsupported, match=re.escape(f"LoRA 'x': {message}")) as caught:
        opened(save(tmp_path / "x.safetensors", tensors), sd)
    assert caught.value.param == "loras"


def test_the_families_of_card_and_model_must_agree(tmp_path, sd, sd3):
    with pytest.raises(Unsupported, match="for models of family 'sdxl', this one is of 'sd'"):
        opened(tmp_path / "x.safetensors", sd, Family.SDXL)
    tensors = peft_layout({"unet": changes(sd.unet, (".to_k",), seed=1)})
    with pytest.raises(Unsupported, match=re.escape("made for a UNet (cross-attention width 32), this model is SD3")):
        opened(save(tmp_path / "y.safetensors", tensors), sd3, Family.SD3)


GOOD = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
DOWN, UP = torch.ones(4, 32), torch.ones(32, 4)


@pytest.mark.parametrize(
    ("tensors", "kind", "message"),
    [
        ({f"{GOOD}.lora_down.weight": DOWN}, ModelLoadFailed, "has down, but no up"),
        ({f"{GOOD}.lora_down.weight": DOWN, f"{GOOD}.lora_up.weight": torch.ones(33, 4)}, Unsupported, "33x32 instead of 32x32"),
        ({f"{GOOD}.lora_down.weight": DOWN, f"{GOOD}.lora_up.weight": torch.ones(32, 5)}, Unsupported, "32x5 instead of 32x4"),
        ({f"{GOOD}.lora_down.weight": DOWN * torch.nan, f"{GOOD}.lora_up.weight": UP}, ModelLoadFailed, "not finite in float32"),
        ({f"{GOOD}.lora_down.weight": DOWN, f"{GOOD}.lora_up.weight": UP * torch.inf}, ModelLoadFailed, "not finite in float32"),
        (
            {"lora_unet_nowhere.lora_down.weight": DOWN, "lora_unet_nowhere.lora_up.weight": UP},
            Unsupported,
            "does not have: nowhere",
        ),
        (
            {"lora_te2_x.lora_down.weight": DOWN, "lora_te2_x.lora_up.weight": UP},
            Unsupported,
            "'text_encoder_2', which this model",
        ),
        ({f"{GOOD}.diff": torch.ones(32, 32), f"{GOOD}.alpha": torch.ones(())}, Unsupported, "it reads LoRA, LoCon"),
        ({"model.layers.0.weight": DOWN}, ModelLoadFailed, "holds no LoRA; its tensors are called model.layers.0.weight"),
        ({}, ModelLoadFailed, "it is empty"),
        (
            {f"{GOOD}.lora_down.weight": DOWN, f"{GOOD}.lora_up.weight": UP, f"{GOOD}.dora_scale": torch.ones(1, 32)},
            Unsupported,
            "over inputs, as early LyCORIS wrote it",
        ),
        (
            {f"{GOOD}.lora_down.weight": DOWN, f"{GOOD}.lora_up.weight": UP}
            | {f"unet.{DOTTED}.lora_A.weight": DOWN * 2, f"unet.{DOTTED}.lora_B.weight": UP * 2},
            ModelLoadFailed,
            "two layers for mid_block",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, sd, tensors, kind, message):
    with pytest.raises(kind, match=message) as caught:
        opened(save(tmp_path / "x.safetensors", tensors), sd)
    assert caught.value.param == "loras"


def test_pickles_and_broken_files_are_refused(tmp_path, sd):
    disguised = tmp_path / "p.safetensors"
    disguised.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelLoadFailed, match="is a pickle"):
        opened(disguised, sd)
    good = save(tmp_path / "g.safetensors", {f"{GOOD}.lora_down.weight": DOWN, f"{GOOD}.lora_up.weight": UP})
    good.write_bytes(good.read_bytes()[:-7])
    with pytest.raises(ModelLoadFailed, match="is cut short"):
        opened(good, sd)
    with pytest.raises(ModelLoadFailed, match="is no file"):
        opened(tmp_path / "absent.safetensors", sd)


def test_numbers_that_float16_cannot_hold(tmp_path, sd):
    path = save(tmp_path / "x.safetensors", {f"{GOOD}.lora_down.weight": DOWN * 1e5, f"{GOOD}.lora_up.weight": UP})
    half = copy.deepcopy(sd.unet).half()
    from pipelines.families.sd import StableDiffusion

    family = StableDiffusion(half, sd.vae, sd.text_encoder, sd.tokenizer, sd.scheduler.config)
    with pytest.raises(ModelLoadFailed, match="not finite in float16"):
        open_lora(LoraCard("x", f"file:{path}", Family.SD), family, lambda _part, _done: None)
    opened(path, sd)


def test_bytes_are_those_of_the_tensors_and_the_file_may_be_written_over(tmp_path, sd):
    tensors = {f"{GOOD}.lora_down.weight": DOWN.half(), f"{GOOD}.lora_up.weight": UP.half()}
    path = save(tmp_path / "x.safetensors", tensors)
    lora = opened(path, sd)
    assert lora.bytes == 4 * (DOWN.numel() + UP.numel())
    before = evaluated(sd, ((lora, 1.0),), (), ())
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(before, evaluated(sd, ((lora, 1.0),), (), ()))
    with pytest.raises(ModelLoadFailed, match="no safetensors"):
        opened(path, sd)


def test_a_forward_over_other_rows_than_told_is_refused(tmp_path, sd):
    path = save(tmp_path / "x.safetensors", {f"{GOOD}.lora_down.weight": DOWN, f"{GOOD}.lora_up.weight": UP})
    lora = opened(path, sd)
    with pytest.raises(RuntimeError, match="called with 3 rows while LoRAs are set for 2"):
        evaluated(sd, ((lora, 1.0),), ())
    assert not any(module._forward_hooks for module in sd.unet.modules()), "hooks must go even then"
