from pathlib import Path

import pytest

from pipelines.contract.catalog import EmbeddingCard
from pipelines.contract.errors import InvalidRequest, UnknownModel, Unsupported
from pipelines.contract.family import Family
from server.catalog.loading import load, parse
from server.catalog.positions import CatalogError
from server.catalog.styles import PRESETS
from server.domain.retention import Keeping

GOOD = """\
server: {default_model: a}
models:
  a:
    source: "fake:"
    family: fake
  org/b:
    source: dir:weights/b
    family: sd
    preload: true
    defaults: {width: 256, height: 256, sampler: Euler a}
    limits:
      max_steps: 50
    qualities: {high: 40}
aliases: {dall-e-3: org/b}
"""


def catalog(text=GOOD):
    return parse(text, name="models.yaml", folder=Path("/etc/aquatint"))


def refused(text):
    with pytest.raises(CatalogError) as caught:
        catalog(text)
    return str(caught.value)


def test_reads_cards_aliases_and_default():
    found = catalog()
    assert found.card(None).id == "a"
    assert found.card("dall-e-3") is found.card("org/b")
    assert found.card("org/b").source == "dir:/etc/aquatint/weights/b"
    assert found.card("org/b").limits.max_steps == 50
    assert found.card("a").family is Family.FAKE
    assert [card.id for card in found.preload] == ["a", "org/b"]
    with pytest.raises(UnknownModel, match="there are a, org/b"):
        found.card("c")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("default_model: a", "default_model: z", "models.yaml:1: server.default_model: there is no model 'z'"),
        ("family: fake", "family: flux", "models.yaml:5: models.a.family: Invalid enum value 'flux'"),
        ("max_steps: 50", "max_step: 50", "models.yaml:12: models.org/b.limits.max_step: there is no such setting"),
        ("max_steps: 50", "max_steps: lots", "models.yaml:12: models.org/b.limits.max_steps: Expected `int`, got `str`"),
        ("max_steps: 50", "max_steps: 0", "models.yaml:12: models.org/b.limits.max_steps: must be 1 or more"),
        ("sampler: Euler a", "sampler: magic", "models.yaml:10: models.org/b.defaults.sampler: There is no sampler 'magic'"),
        ("width: 256", "width: 250", "models.yaml:10: models.org/b.defaults.width: must be a multiple of 8"),
        ("sampler: Euler a", "guidance_rescale: 2", "models.yaml:10: models.org/b.defaults.guidance_rescale: must be from 0"),
        ("width: 256", "width: 8192", "models.yaml:10: models.org/b.defaults.width: the default size is over"),
        ("{high: 40}", "{high: 90}", "models.yaml:13: models.org/b.qualities.high: must be from 1 to max_steps=50"),
        ("{high: 40}", "{high: many}", "models.yaml:13: models.org/b.qualities: Expected `int`, got `str`"),
        ("source: dir:weights/b", "source: s3://x", "models.yaml:7: models.org/b.source: must begin with one of"),
        ("source: dir:weights/b", "source: 'file:'", "models.yaml:7: models.org/b.source: something must follow file:"),
        ("source: dir:weights/b", "source: hf:x", "models.yaml:7: models.org/b.source: must be hf:OWNER/NAME"),
        ("preload: true", "revision: main", "models.yaml:9: models.org/b.revision: only a source that begins with hf: has"),
        ("preload: true", "vae: bundled:demo", "models.yaml:9: models.org/b.vae: must begin with one of dir:, file:, hf:"),
        (
            "preload: true",
            "text_encoders: {text_encoder_2: 'hf:a/b'}",
            "models.yaml:9: models.org/b.text_encoders.text_encoder_2: there is no such text encoder; family sd has text_encoder",
        ),
        (
            "preload: true",
            "text_encoders: {text_encoder: null}",
            "models.yaml:9: models.org/b.text_encoders.text_encoder: only text_encoder_3 can be left out",
        ),
        ("    source: dir:weights/b\n", "", "models.yaml:6: models.org/b: Object missing required field `source`"),
        (
            "    family: sd\n",
            "    family: sd\n    family: sd\n",
            "models.yaml:9: models.org/b.family: this key stands here twice",
        ),
        ("    family: sd\n", "    family: sd\n    id: x\n", "models.yaml:9: models.org/b.id: the id is the key above"),
        ("dall-e-3: org/b", "dall-e-3: c", "models.yaml:14: aliases.dall-e-3: there is no model 'c'"),
        ("dall-e-3: org/b", "a: org/b", "models.yaml:14: aliases.a: a model has this name already"),
        ("aliases:", "alias:", "models.yaml:14: alias: there is no such setting"),
        ("aliases: {", "aliases: ]{", "models.yaml:14: "),
        ("  a:\n", "  a b:\n", "models.yaml:3: models.a b: an id is made of"),
        ("preload: true", "preload: 3", "models.yaml:9: models.org/b.preload: Expected `bool`, got `int`"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_field(old, new, message):
    assert old in GOOD
    assert refused(GOOD.replace(old, new)).startswith(message)


@pytest.mark.parametrize(
    ("refiner", "message"),
    [
        ("{model: c}", "models.yaml:10: models.org/b.defaults.refiner.model: there is no model 'c'"),
        ("{model: a}", "models.yaml:10: models.org/b.defaults.refiner.model: model 'a' is of family 'fake', and cannot"),
        ("{model: org/b, switch_at: 1}", "models.yaml:10: models.org/b.defaults.refiner.switch_at: must be above 0"),
    ],
)
def test_a_refiner_must_be_a_model_that_fits(refiner, message):
    assert refused(GOOD.replace("sampler: Euler a", f"sampler: Euler a, refiner: {refiner}")).startswith(message)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "models: {}\nserver: {default_model: a}", "just words", "\tx: 1", "models: [1]\nserver: {default_model: a}"],
)
def test_nothing_useful_is_refused(text):
    assert refused(text).startswith("models.yaml:")


MORE = (
    GOOD
    + """\
embeddings:
  EasyNegative: {source: file:words/easy.safetensors, family: sd}
  bad-hands-5: {source: file:/words/hands.safetensors, family: sdxl}
styles:
  house: {prompt: "{prompt}, in our house style", negative: "off brand"}
  anime: {prompt: "our own anime of {prompt}"}
"""
)


def test_embeddings_go_to_the_models_of_their_family():
    found = catalog(MORE)
    assert found.card("a").embeddings == ()
    assert found.card("org/b").embeddings == (
        EmbeddingCard("EasyNegative", "file:/etc/aquatint/words/easy.safetensors", Family.SD),
    )


def test_house_styles_join_the_presets_and_win():
    found = catalog(MORE)
    assert len(PRESETS) == 17
    assert set(found.styles) == {*PRESETS, "house"}
    assert found.style(" House ").negative == "off brand"
    assert found.style("anime").prompt == "our own anime of {prompt}"
    assert all(style.prompt.count("{prompt}") == 1 and style.negative and style.name == name for name, style in PRESETS.items())
    with pytest.raises(InvalidRequest, match=r"no style 'x'; there are .*photographic.*house") as caught:
        found.style("x")
    assert caught.value.param == "style_preset"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("EasyNegative:", "bad(word):", "models.yaml:16: embeddings.bad(word): a word for prompts is made of"),
        ("EasyNegative:", "Bad-Hands-5:", "models.yaml:17: embeddings.bad-hands-5: prompts cannot tell it from 'Bad-Hands-5'"),
        ("file:/words", "hf:words", "models.yaml:17: embeddings.bad-hands-5.source: must be file:PATH"),
        ("family: sdxl}", "family: sdx}", "models.yaml:17: embeddings.bad-hands-5.family: Invalid enum value 'sdx'"),
        (", family: sdxl}", "}", "models.yaml:17: embeddings.bad-hands-5: Object missing required field `family`"),
        (
            "    preload: true",
            "    embeddings: []",
            "models.yaml:9: models.org/b.embeddings: embeddings are listed beside models",
        ),
        ("  house:", "  House:", "models.yaml:19: styles.House: a style's name is made of small letters"),
        ("{prompt}, in our", "in our", "models.yaml:19: styles.house.prompt: must have {prompt} once"),
        ("of {prompt}", "of {prompt} {prompt}", "models.yaml:20: styles.anime.prompt: must have {prompt} once"),
        ("negative:", "minus:", "models.yaml:19: styles.house.minus: there is no such setting"),
    ],
)
def test_a_mistake_in_words_and_styles_is_told_with_file_line_and_field(old, new, message):
    assert old in MORE
    assert refused(MORE.replace(old, new)).startswith(message)


def test_code_in_yaml_is_not_run():
    assert "models.yaml" in refused(GOOD.replace('"fake:"', "!!python/object/apply:os.system [id]"))


def test_paths_of_every_source_start_at_the_catalog_s_folder():
    text = (
        GOOD.replace("source: dir:weights/b", "source: file:weights/b.safetensors")
        .replace("family: sd\n", "family: sd3\n")
        .replace("Euler a", "Euler")
    )
    text = text.replace("preload: true", "vae: dir:../vae\n    text_encoders: {text_encoder: 'dir:/clip', text_encoder_3: null}")
    card = catalog(text).card("org/b")
    assert card.source == "file:/etc/aquatint/weights/b.safetensors"
    assert card.vae == "dir:/etc/aquatint/../vae"
    assert card.text_encoders == {"text_encoder": "dir:/clip", "text_encoder_3": None}


def test_a_repository_keeps_its_revision():
    text = GOOD.replace("source: dir:weights/b", "source: hf:org/b\n    revision: v1.0")
    assert (catalog(text).card("org/b").source, catalog(text).card("org/b").revision) == ("hf:org/b", "v1.0")
    twice = text.replace("hf:org/b", "hf:org/b@main")
    assert "names a revision already" in refused(twice)


def test_an_absent_file_is_told(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_the_packaged_catalog_is_the_one_at_the_root():
    root = Path(__file__).parents[2] / "models.yaml"
    assert load(None).card(None).source == "bundled:demo"
    assert root.read_text() == (root.parent / "server/catalog/models.yaml").read_text()


SD3 = """\
server: {default_model: a}
models:
  a:
    source: dir:weights/sd3
    family: sd3
    text_encoders: {text_encoder_3: null}
    defaults:
      sampler: euler
      skip_layers: {layers: [7, 8, 9], start: 0.01, stop: 0.2}
"""


def test_an_sd3_card_may_skip_layers_and_leave_out_t5():
    card = catalog(SD3).card(None)
    assert card.defaults.skip_layers.layers == (7, 8, 9)
    assert card.text_encoders == {"text_encoder_3": None}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layers: [7, 8, 9]", "layers: [-1]", "models.yaml:9: models.a.defaults.skip_layers.layers: name one block or more"),
        ("layers: [7, 8, 9]", "layers: []", "models.yaml:9: models.a.defaults.skip_layers.layers: name one block or more"),
        ("stop: 0.2", "stop: 0.01", "models.yaml:9: models.a.defaults.skip_layers.start: must be from 0 to 1"),
        ("stop: 0.2", "stop: 1.5", "models.yaml:9: models.a.defaults.skip_layers.start: must be from 0 to 1"),
        ("sampler: euler", "sampler: ddim", "models.yaml:8: models.a.defaults.sampler: Sampler 'ddim' cannot run a flow"),
        ("sampler: euler", "sampler: DPM++ 2M Karras", "models.yaml:7: models.a.defaults.scheduler: Sampler 'dpmpp_2m' does"),
        ("sampler: euler", "width: 520", "models.yaml:8: models.a.defaults.width: must be a multiple of 16"),
        ("text_encoder_3: null", "text_encoder: null", "models.yaml:6: models.a.text_encoders.text_encoder: only text_enc"),
        (
            "family: sd3\n    text_encoders: {text_encoder_3: null}",
            "family: sd",
            "models.yaml:8: models.a.defaults.skip_layers: skip-layer guidance is for family sd3",
        ),
    ],
)
def test_a_mistake_in_an_sd3_card_is_told(old, new, message):
    assert old in SD3
    assert refused(SD3.replace(old, new)).startswith(message)


def test_a_default_sampler_that_cannot_run_the_model_s_schedule_is_told():
    zero_snr = GOOD.replace("preload: true", "schedule: {zero_snr: true}")
    assert catalog(zero_snr).card("org/b").schedule.zero_snr
    message = refused(zero_snr.replace("Euler a", "Heun"))
    assert message.startswith("models.yaml:10: models.org/b.defaults.sampler: Sampler 'heun' cannot run")


ADAPTED = (
    GOOD
    + """\
loras:
  Paper Cut: {source: file:loras/paper.safetensors, family: sd, weight: 0.8, trigger: paper cut style}
  ink: {source: hf:some/ink@v1, file: ink.safetensors, family: sdxl}
  outline: {source: bundled:outline, family: sd}
controlnets:
  canny: {source: dir:control/canny, family: sd, preprocessor: canny}
  union: {source: hf:some/union, revision: main, family: sdxl, kind: union, modes: {openpose: 0, depth: 1}}
ip_adapters:
  plus: {source: file:ip/plus.safetensors, family: sd, image_encoder: dir:ip/encoder}
upscalers:
  sharp: {source: file:/up/sharp.safetensors, tile: 256}
preprocessors:
  depth: {source: hf:some/depth}
styles:
  cut: {prompt: "<lora:paper cut:0.5>{prompt}", negative: flat}
"""
)


def test_adapters_are_read_with_their_places():
    found = catalog(ADAPTED)
    paper = found.lora(" PAPER cut", Family.SD)
    assert (paper.name, paper.source, paper.weight) == ("Paper Cut", "file:/etc/aquatint/loras/paper.safetensors", 0.8)
    assert found.lora("ink", Family.SDXL).file == "ink.safetensors"
    assert found.lora("outline", Family.SD).source == "bundled:outline"
    assert found.controlnet("Canny", Family.SD).source == "dir:/etc/aquatint/control/canny"
    assert found.controlnet("union", Family.SDXL).modes == {"openpose": 0, "depth": 1}
    assert found.ip_adapter("plus", Family.SD).image_encoder == "dir:/etc/aquatint/ip/encoder"
    assert found.upscaler("SHARP").tile == 256
    assert found.preprocessors["depth"].source == "hf:some/depth"
    with pytest.raises(TypeError):
        found.loras["new"] = paper


@pytest.mark.parametrize(
    ("look_up", "kind", "message"),
    [
        (
            lambda found: found.lora("papre", Family.SD, "loras[0].name"),
            InvalidRequest,
            "There is no LoRA 'papre'; for family sd there are Paper Cut, outline.",
        ),
        (
            lambda found: found.lora("ink", Family.SD, "loras[0].name"),
            Unsupported,
            "LoRA 'ink' is made for family sdxl, this model is of family sd; for family sd there are Paper Cut, outline.",
        ),
        (
            lambda found: found.controlnet("canny", Family.SD3, "loras[0].name"),
            Unsupported,
            "ControlNet 'canny' is made for family sd, this model is of family sd3; models.yaml lists none for family sd3.",
        ),
        (
            lambda found: found.ip_adapter("x", Family.SD, "loras[0].name"),
            InvalidRequest,
            "There is no IP-Adapter 'x'; for family sd there are plus.",
        ),
        (
            lambda found: found.upscaler("x", "loras[0].name"),
            InvalidRequest,
            "There is no upscaler 'x'; there are sharp.",
        ),
    ],
)
def test_an_adapter_that_is_not_there_is_told_with_those_that_are(look_up, kind, message):
    with pytest.raises(kind) as caught:
        look_up(catalog(ADAPTED))
    assert (type(caught.value), caught.value.message, caught.value.param) == (kind, message, "loras[0].name")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  Paper Cut:", "  a:b:", "models.yaml:16: loras.a:b: a name is made of"),
        ("  ink:", "  paper cut:", "models.yaml:17: loras.paper cut: requests cannot tell it from 'Paper Cut'"),
        ("weight: 0.8", "weight: 30", "models.yaml:16: loras.Paper Cut.weight: must be from -20 to 20"),
        ("weight: 0.8", "wight: 1", "models.yaml:16: loras.Paper Cut.wight: there is no such setting"),
        ("weight: 0.8", "name: x", "models.yaml:16: loras.Paper Cut.name: the name is the key above"),
        ("weight: 0.8", "file: x", "models.yaml:16: loras.Paper Cut.file: only a source that begins with hf:"),
        ("weight: 0.8", "revision: x", "models.yaml:16: loras.Paper Cut.revision: only a source that begins with hf:"),
        ("bundled:outline, family: sd", "bundled:outline", "models.yaml:18: loras.outline: Object missing required field"),
        ("bundled:outline", "dir:outline", "models.yaml:18: loras.outline.source: must begin with one of bundled:, file:, hf:"),
        ("bundled:outline", "s3:outline", "models.yaml:18: loras.outline.source: must begin with one of"),
        ("{source: bundled:outline, family: sd}", "x", "models.yaml:18: loras.outline: this must be a mapping"),
        ("preprocessor: canny", "modes: {a: 1}", "models.yaml:20: controlnets.canny.modes: only kind union has modes"),
        ("preprocessor: canny", "kind: magic", "models.yaml:20: controlnets.canny.kind: Invalid enum value 'magic'"),
        ("preprocessor: canny", "kind: union", "models.yaml:20: controlnets.canny.kind: kind union is for family sdxl, not sd"),
        (", modes: {openpose: 0, depth: 1}", "", "models.yaml:21: controlnets.union.modes: a union needs them"),
        ("depth: 1", "depth: -1", "models.yaml:21: controlnets.union.modes: numbers begin at 0"),
        ("family: sd, image_encoder", "family: sd3, image_encoder", "models.yaml:23: ip_adapters.plus.family: IP-Adapters are"),
        ("dir:ip/encoder", "file:x", "models.yaml:23: ip_adapters.plus.image_encoder: must begin with one of dir:, hf:"),
        ("tile: 256", "tile: 0", "models.yaml:25: upscalers.sharp.tile: must be from 64 to 4096"),
        ("hf:some/depth", "bundled:depth", "models.yaml:27: preprocessors.depth.source: must begin with one of dir:, file:, hf:"),
        ("<lora:paper cut", "<lora:gone", "models.yaml:29: styles.cut.prompt: there is no LoRA 'gone'"),
        ("negative: flat", 'negative: "<lora:gone:1>"', "models.yaml:29: styles.cut.negative: there is no LoRA 'gone'"),
    ],
)
def test_a_mistake_among_the_adapters_is_told_with_file_line_and_field(old, new, message):
    assert old in ADAPTED
    assert refused(ADAPTED.replace(old, new)).startswith(message)


TENANTS = """
server: {default_model: m}
models: {m: {source: "fake:", family: fake}}
tenants:
  default: {storage: {hours: 72}}
  shop: {storage: {bytes: 1000}}
"""


def test_results_are_kept_as_their_tenant_s_entry_says():
    found = catalog(TENANTS)
    assert found.policy("anybody").storage == Keeping(hours=72)
    assert found.policy("shop").storage == Keeping(hours=72, bytes=1000)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hours: 72", "hours: 0", "models.yaml:5: tenants.default.storage.hours: "),
        ("bytes: 1000", "bytes: 1.5", "models.yaml:6: tenants.shop.storage.bytes: "),
        ("bytes: 1000", "days: 3", "models.yaml:6: tenants.shop.storage.days: there is no such setting"),
    ],
)
def test_a_mistake_in_what_is_kept_is_told_with_its_line(old, new, message):
    assert refused(TENANTS.replace(old, new)).startswith(message)
