"""IP-Adapters that cannot be had, and requests that cannot have them: each is told why, in words, before a step is made."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from pipelines.adapters.references.layout import Variant, layout_of
from pipelines.adapters.references.opening import open_reference
from pipelines.contract.adapters import ReferenceCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.control import ReferenceUse
from pipelines.contract.errors import AquatintError, InvalidRequest, ModelLoadFailed, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.messages import Failed
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.engine import Engine
from pipelines.engine.torch_runner import TorchRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

DOT = Picture(width=2, height=2, mode="RGB", data=bytes(12))


@pytest.fixture(scope="module")
def tiny():
    from tiny import Tiny

    return Tiny()


@pytest.fixture(scope="module")
def xl():
    from tiny_sdxl import TinyXL

    return TinyXL()


@pytest.fixture(scope="module")
def adapters(tiny, tmp_path_factory):
    from tiny_references import Adapters

    return Adapters(tmp_path_factory.mktemp("sd"), tiny, Family.SD)


def opened(card, family, encoders=()):
    return open_reference(card, family, lambda _part, _done: None, encoders)


def refusal(kind, card, family):
    with pytest.raises(kind) as told:
        opened(card, family)
    assert type(told.value) is kind
    assert told.value.param == "references"
    return told.value.message


def with_tensors(adapters, variant, path, *, without=(), **more):
    tensors = load_file(adapters.root / f"{variant}.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(without))}
    save_file(kept | more, path)
    return adapters.card(variant, source=f"file:{path}")


def test_an_adapter_knows_its_bytes_and_precision(adapters, tiny):
    told = []
    half = SimpleNamespace(facts=tiny.family.facts, network=tiny.unet, device=torch.device("cpu"), dtype=torch.float16)
    for family, size in ((tiny.family, 4), (half, 2)):
        prompt = open_reference(adapters.card("plus"), family, lambda part, done: told.append((part, done)))
        encoder = sum(p.numel() for p in prompt.encoder._module.parameters()) * size
        own = sum(tensor.numel() for tensor in load_file(adapters.root / "plus.safetensors").values()) * size
        buffers = sum(buffer.nbytes for buffer in prompt.encoder._module.buffers())
        assert prompt.bytes == encoder + own + buffers
        assert {p.dtype for p in (*prompt.layers.parameters(), *prompt._projection.parameters())} == {family.dtype}
        assert prompt.encoder.dtype is family.dtype
        assert not any(p.requires_grad for p in (*prompt.layers.parameters(), *prompt._projection.parameters()))
    assert told[0][0] == "image_encoder"
    assert told[-1] == ("plus", 1.0)


def test_weights_are_no_view_of_the_file(adapters, tiny, tmp_path):
    card = with_tensors(adapters, "full", tmp_path / "a.safetensors")
    prompt = opened(card, tiny.family)
    before = [p.clone() for p in (*prompt.layers.parameters(), *prompt._projection.parameters())]
    with (tmp_path / "a.safetensors").open("r+b") as file:
        file.write(bytes((tmp_path / "a.safetensors").stat().st_size))
    after = (*prompt.layers.parameters(), *prompt._projection.parameters())
    assert all(torch.equal(was, now) for was, now in zip(before, after, strict=True))


def test_an_image_encoder_of_the_same_source_and_precision_is_shared(adapters, tiny):
    first = opened(adapters.card("plus"), tiny.family)
    assert opened(adapters.card("plain"), tiny.family, [first.encoder]).encoder is first.encoder
    half = SimpleNamespace(facts=tiny.family.facts, network=tiny.unet, device=torch.device("cpu"), dtype=torch.float16)
    assert opened(adapters.card("plain"), half, [first.encoder]).encoder is not first.encoder


def test_the_card_is_for_another_family(adapters, tiny, xl):
    assert "is for models of family 'sd'; this one is of family 'sdxl'" in refusal(Unsupported, adapters.card("plain"), xl.family)
    lying = adapters.card("plain", family=Family.SDXL)
    message = refusal(Unsupported, lying, xl.family)
    assert (
        "was made for networks with 4 cross-attentions to tokens of 32; this model's has 8 cross-attentions to tokens of 72"
        in message
    )


def test_a_network_of_another_width(adapters, tiny, tmp_path):
    tensors = load_file(adapters.root / "plain.safetensors")
    narrow = {key: tensor[:16].clone() if ".to_" in key else tensor for key, tensor in tensors.items()}
    save_file(narrow, tmp_path / "narrow.safetensors")
    message = refusal(Unsupported, adapters.card("plain", source=f"file:{tmp_path}/narrow.safetensors"), tiny.family)
    assert "16, 16, 16, 16 wide; this model's has" in message
    assert "32, 32, 32, 32 wide" in message


@pytest.mark.parametrize(("count", "width", "known"), [(16, 768, "Stable Diffusion 1"), (70, 2048, "SDXL")])
def test_known_networks_are_called_by_name(tiny, tmp_path, count, width, known):
    image = {"image_proj.proj.weight": torch.zeros(4 * width, 24), "image_proj.proj.bias": torch.zeros(4 * width)}
    image |= {"image_proj.norm.weight": torch.zeros(width), "image_proj.norm.bias": torch.zeros(width)}
    for number in range(1, 2 * count, 2):
        image |= {f"ip_adapter.{number}.to_{half}_ip.weight": torch.zeros(8, width) for half in "kv"}
    save_file(image, tmp_path / "real.safetensors")
    card = ReferenceCard("real", f"file:{tmp_path}/real.safetensors", Family.SD)
    assert f"with {count} cross-attentions to tokens of {width} ({known})" in refusal(Unsupported, card, tiny.family)


def test_refiners_and_transformers_have_none(adapters):
    from tiny_sdxl import TinyXL

    message = refusal(Unsupported, adapters.card("plain", family=Family.SDXL), TinyXL(refiner=True).family)
    assert "there are no IP-Adapters for refiners" in message
    sd3 = SimpleNamespace(facts=SimpleNamespace(family=Family.SD3))
    assert "this one is of family 'sd3'" in refusal(Unsupported, adapters.card("plain"), sd3)


def test_a_pickle_is_refused_by_its_content(adapters, tiny, tmp_path):
    torch.save(load_file(adapters.root / "plain.safetensors"), tmp_path / "a.safetensors")
    with pytest.raises(ModelLoadFailed, match="is a pickle, which can run code"):
        opened(adapters.card("plain", source=f"file:{tmp_path}/a.safetensors"), tiny.family)


def test_a_pickled_image_encoder_is_refused(adapters, tiny, tmp_path):
    (tmp_path / "config.json").write_text((adapters.root / "image_encoder" / "config.json").read_text())
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadFailed, match="is a pickle"):
        opened(adapters.card("plain", image_encoder=f"dir:{tmp_path}"), tiny.family)


def test_a_missing_image_encoder(adapters, tiny, tmp_path):
    message = refusal(ModelLoadFailed, adapters.card("plus", image_encoder=None), tiny.family)
    assert "needs a CLIP image encoder with states of 32: name its folder as image_encoder" in message
    with pytest.raises(ModelLoadFailed, match="nowhere is no folder"):
        opened(adapters.card("plus", image_encoder=f"dir:{tmp_path}/nowhere"), tiny.family)
    assert "config.json cannot be read" in refusal(
        ModelLoadFailed, adapters.card("plus", image_encoder=f"dir:{tmp_path}"), tiny.family
    )
    assert "is no folder: write 'dir:PATH'" in refusal(
        ModelLoadFailed, adapters.card("plus", image_encoder=f"file:{tmp_path}"), tiny.family
    )


def test_an_image_encoder_that_it_was_not_made_for(adapters, tiny, tmp_path):
    from tiny_references import save_encoder

    save_encoder(tmp_path / "other", embedding=48)
    card = adapters.card("plain", image_encoder=f"dir:{tmp_path}/other")
    assert "needs a CLIP image encoder with embeddings of 24; the one in" in refusal(ModelLoadFailed, card, tiny.family)
    opened(msgspec.structs.replace(adapters.card("plus"), image_encoder=f"dir:{tmp_path}/other"), tiny.family)
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace("clip_vision_model", "siglip_vision_model"))
    assert "of type 'siglip_vision_model'" in refusal(ModelLoadFailed, card, tiny.family)


PROGRAM = """
import sys
from pipelines.adapters.references.image_encoder import folder_of
print(folder_of(sys.argv[1], lambda part, done: None))
"""


@pytest.mark.parametrize("source", ["hf:org/model/models/image_encoder", "hf:org/model@main"])
def test_an_image_encoder_in_a_repository(tmp_path, source):
    sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
    from hub_double import Hub, serving

    place = "models/image_encoder/" if "models" in source else "image_encoder/"
    wanted = {f"{place}config.json": b"{}", f"{place}model.safetensors": save({"a": torch.zeros(1)})}
    others = {"sdxl/image_encoder/config.json": b"{}", "sdxl/image_encoder/model.safetensors": save({"a": torch.ones(1)})}
    with serving(Hub(wanted | others)) as url:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        there = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "AQUATINT_DOWNLOADS": "1"}
        command = [sys.executable, "-c", PROGRAM, source]
        for _ in ("downloaded", "from the cache"):
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean | there)
            folder = Path(done.stdout.strip())
            assert str(folder).endswith(place.rstrip("/"))
            assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_face_recognisers_embeddings(adapters, tiny, tmp_path):
    norm = {"image_proj.norm.weight": torch.zeros(32), "image_proj.norm.bias": torch.zeros(32)}
    face = {"image_proj.proj.0.weight": torch.zeros(64, 512), "image_proj.proj.2.weight": torch.zeros(128, 64)}
    plus = {"image_proj.perceiver_resampler.proj_in.weight": torch.zeros(16, 32)}
    for index, more in enumerate((face | norm, face | norm | plus)):
        card = with_tensors(adapters, "plain", tmp_path / f"{index}.safetensors", without=["image_proj."], **more)
        assert "is a FaceID one" in refusal(Unsupported, card, tiny.family)


def test_files_that_are_no_whole_adapter(adapters, tiny, tmp_path):
    save_file({"lora_unet.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    card = adapters.card("plain", source=f"file:{tmp_path}/lora.safetensors")
    assert "has no tensors named image_proj.*" in refusal(ModelLoadFailed, card, tiny.family)
    for without, words in (
        ("ip_adapter.3.", "not for 1, 3, 5"),
        ("ip_adapter.3.to_v_ip", "ip_adapter.3.to_v_ip.weight"),
        ("image_proj.norm", "norm.weight"),
    ):
        card = with_tensors(adapters, "plain", tmp_path / "part.safetensors", without=[without])
        assert words in refusal(ModelLoadFailed, card, tiny.family)
    for without in ("image_proj.layers.2.", "image_proj.layers.3.1.3", "image_proj.layers.0.0.to_q", "image_proj.norm_out.bias"):
        card = with_tensors(adapters, "plus", tmp_path / "part.safetensors", without=[without])
        with pytest.raises(ModelLoadFailed):
            opened(card, tiny.family)
    with pytest.raises(ModelLoadFailed, match="is no file"):
        opened(adapters.card("plain", source=f"file:{tmp_path}/nowhere"), tiny.family)


def test_running_out_of_memory_is_still_seen_as_that(adapters, tiny):
    class Full:
        facts, dtype = tiny.family.facts, torch.float32
        network = tiny.unet

        @property
        def device(self):
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(ModelLoadFailed) as told:
        opened(adapters.card("plain"), Full())
    assert isinstance(told.value.__cause__, torch.OutOfMemoryError)


def test_real_layouts_are_told_apart():
    layers = {f"ip_adapter.{n}.to_{half}_ip.weight": (320, 768) for n in (1, 3) for half in "kv"}
    plain = {"image_proj.proj.weight": (3072, 1024), "image_proj.norm.weight": (768,)}
    plus = {
        "image_proj.latents": (1, 16, 768),
        "image_proj.proj_in.weight": (768, 1280),
        "image_proj.proj_out.weight": (768, 768),
    }
    full = {"image_proj.proj.0.weight": (1280, 1280), "image_proj.proj.3.weight": (768,)}
    found = [layout_of("x", image | layers) for image in (plain, plus, full)]
    assert [(each.variant, each.image_width, each.width) for each in found] == [
        (Variant.PLAIN, 1024, 768),
        (Variant.PLUS, 1280, 768),
        (Variant.FULL, 1280, 768),
    ]
    assert found[0].layers == (320, 320)


def play(tiny, use, **changes):
    """Why the request fails, and whether anything was loaded for it."""
    runner = TorchRunner(torch.device("cpu"))
    runner.add("m", tiny.family)
    engine = Engine(runner)
    engine.adopt(ModelCard(id="m", source="", family=tiny.family.facts.family))
    request = ImageRequest(
        id="r",
        model="m",
        prompt="x",
        width=64,
        height=64,
        seeds=(1,),
        sampling=Sampling(sampler="euler", steps=1, guidance_scale=1.0),
        references=(use,),
        **changes,
    )
    events = engine.generate(request)
    while engine.busy:
        events += engine.step()
    (failed,) = [event for event in events if isinstance(event, Failed)]
    return failed.error.to_exception(), bool(runner._wardrobe._adapters)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pictures": ()}, "is given no picture"),
        ({"weight": 2.5}, "has the weight 2.5: it must be from 0 to 2"),
        ({"weight": -0.1}, "must be from 0 to 2"),
        ({"weight": float("nan")}, "must be from 0 to 2"),
        ({"start": 0.6, "end": 0.5}, "0 <= start < end <= 1"),
        ({"end": 1.5}, "0 <= start < end <= 1"),
    ],
)
def test_mistakes_of_a_request_are_told_at_once(adapters, tiny, changes, words):
    fields = {"card": adapters.card("plain"), "pictures": (DOT,)}
    error, loaded = play(tiny, ReferenceUse(**(fields | changes)))
    assert type(error) is InvalidRequest
    assert error.param == "references"
    assert words in error.message
    assert not loaded


@pytest.mark.parametrize("family", [Family.SDXL, Family.SD3])
def test_families_that_do_not_go_together_are_told_at_once(adapters, tiny, family):
    card = adapters.card("plain", family=family, source="file:/nowhere")
    error, loaded = play(tiny, ReferenceUse(card, (DOT,)))
    assert type(error) is Unsupported
    assert f"is for models of family '{family.value}'" in error.message
    assert not loaded


def test_a_file_that_cannot_be_had_fails_the_request_that_wants_it(adapters, tiny):
    error, loaded = play(tiny, ReferenceUse(adapters.card("plain", image_encoder=None), (DOT,)))
    assert isinstance(error, AquatintError)
    assert error.code == "model_load_failed"
    assert "name its folder as image_encoder" in error.message
    assert not loaded


def test_an_adapter_for_another_model_of_the_family_fails_only_there(adapters, tiny):
    """SD 1 and SD 2 are one family, so one may have brought an adapter that the other finds."""
    import diffusers
    from tiny import Tiny

    wide = Tiny(seed=1)
    config = dict(wide.unet.config) | {"block_out_channels": (16, 48), "attention_head_dim": 4}
    wide.unet = diffusers.UNet2DConditionModel.from_config(config).eval()
    wide.family.network = wide.unet
    runner = TorchRunner(torch.device("cpu"))
    engine = Engine(runner)
    for name, family in (("m", tiny.family), ("wide", wide.family)):
        runner.add(name, family)
        engine.adopt(ModelCard(id=name, source="", family=Family.SD))
    sampling = Sampling(sampler="euler", steps=1, guidance_scale=1.0)
    events = []
    for name in ("m", "wide"):
        use = ReferenceUse(adapters.card("plain"), (DOT,))
        events += engine.generate(
            ImageRequest(id=name, model=name, prompt="x", width=64, height=64, seeds=(1,), sampling=sampling, references=(use,))
        )
        while engine.busy:
            events += engine.step()
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.id == "wide"
    assert failed.error.code == "unsupported"
    assert "48, 48, 48, 48 wide" in failed.error.message
