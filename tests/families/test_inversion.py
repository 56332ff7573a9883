"""Textual inversions: every layout of file, what is refused, and where the vectors go."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.contract.catalog import EmbeddingCard, Emphasis, ModelCard
from pipelines.contract.errors import ModelLoadFailed, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.encoding import Encoder
from pipelines.engine.row import rows_of
from pipelines.engine.wordings import Reader
from pipelines.families.clip import ClipText
from pipelines.families.family import Prompt
from pipelines.families.inversion import load
from pipelines.prompts.fragments import Fragment

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
WIDTH = 32


@pytest.fixture(scope="module")
def tiny():
    from tiny import Tiny

    return Tiny()


def vectors(count, width=WIDTH, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def saved(folder, tensors, name="Magic"):
    path = folder / f"{name}.safetensors"
    save_file(tensors, path)
    return EmbeddingCard(name, f"file:{path}", Family.SD)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("tensors", "count"),
    [
        ({"emb_params": vectors(3)}, 3),
        ({"emb_params": vectors(3), "name_of_something_else": vectors(1)}, 3),
        ({"<cat-toy>": vectors(1)[0]}, 1),
        ({"*": vectors(2).half()}, 2),
        ({"clip_l": vectors(4), "clip_g": vectors(4, 40)}, 4),
        ({"text_encoders_0": vectors(4), "text_encoders_1": vectors(4, 40)}, 4),
        ({"clip_g": vectors(4, 40), "clip_l": vectors(4)}, 4),
    ],
)
def test_layouts(tmp_path, tensors, count):
    inversion = load(saved(tmp_path, tensors))
    assert inversion.name == "magic"
    found = inversion.vectors(WIDTH)
    assert (found.shape, found.dtype) == ((count, WIDTH), torch.float32)
    if "clip_g" in tensors:
        assert torch.equal(inversion.vectors(40), tensors["clip_g"])


def test_a_wrong_width_names_file_width_and_needed_width(tmp_path):
    inversion = load(saved(tmp_path, {"clip_l": vectors(2, 768), "clip_g": vectors(2, 1280)}))
    with pytest.raises(Unsupported, match=r"Magic\.safetensors.* width 768 and 1280.* needs 1024") as caught:
        inversion.vectors(1024)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": vectors(1), "b": vectors(1)}, "no embedding that Aquatint knows: it has a, b"),
        ({"clip_l": vectors(2), "clip_g": vectors(3, 40)}, "as many for each text encoder"),
        ({"emb_params": vectors(76)}, "must hold 1 to 75 vectors"),
        ({"emb_params": torch.zeros(0, WIDTH)}, "must hold 1 to 75 vectors"),
        ({"emb_params": torch.zeros(2, 3, WIDTH)}, "must hold 1 to 75 vectors"),
    ],
)
def test_unusable_files_are_refused(tmp_path, tensors, message):
    with pytest.raises(ModelLoadFailed, match=message):
        load(saved(tmp_path, tensors))


def test_pickles_and_absent_files_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"string_to_param": {"*": vectors(1)}}, path)
    with pytest.raises(ModelLoadFailed, match=r"x\.pt cannot be read as safetensors"):
        load(EmbeddingCard("x", f"file:{path}", Family.SD))
    with pytest.raises(ModelLoadFailed, match=r"none\.safetensors does not exist"):
        load(EmbeddingCard("x", f"file:{tmp_path / 'none.safetensors'}", Family.SD))


def by_hand(tiny, rows):
    """Rows of token ids and vectors, read by the model with a longer table of embeddings."""
    module, tokenizer = tiny.text_encoder, tiny.tokenizer
    states = []
    for row in rows:
        ids = [tokenizer.bos_token_id, *(each if isinstance(each, int) else 0 for each in row), tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        table = torch.nn.Embedding.from_pretrained(
            torch.cat([module.get_input_embeddings().weight, *[each[None] for each in row if not isinstance(each, int)]])
        )
        # Each vector has an id behind the vocabulary: diffusers' way, here with a copy of the table.
        extra = iter(range(len(module.get_input_embeddings().weight), len(table.weight)))
        for place, each in enumerate(row, start=1):
            if not isinstance(each, int):
                ids[place] = next(extra)
        own = module.get_input_embeddings()
        module.set_input_embeddings(table)
        try:
            states.append(module(torch.tensor([ids])).last_hidden_state)
        finally:
            module.set_input_embeddings(own)
    return torch.cat(states, dim=1)


def relative(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


@torch.inference_mode()
def test_vectors_take_the_place_of_the_word(tiny, tmp_path):
    inversion = load(saved(tmp_path, {"emb_params": vectors(3)}))
    clip = ClipText(tiny.tokenizer, tiny.text_encoder)
    red, blue = (ids_of(tiny.tokenizer, word) for word in ("red", "blue"))
    before = clip.encode([Prompt("red blue")])[0].tokens
    wording = (Fragment("red "), Fragment("magic", learned=True), Fragment(" blue"))
    with_it, without = clip.encode([Prompt("", wording=wording, learned=(inversion,)), Prompt("red blue")])
    assert relative(with_it.tokens, by_hand(tiny, [[*red, *vectors(3), *blue]])) < 1e-5
    assert relative(without.tokens, before) < 1e-6
    assert torch.equal(clip.encode([Prompt("red blue")])[0].tokens, before), "nothing is left behind"


@torch.inference_mode()
def test_vectors_stay_together_at_the_end_of_a_chunk(tiny, tmp_path):
    inversion = load(saved(tmp_path, {"emb_params": vectors(8)}))
    clip = ClipText(tiny.tokenizer, tiny.text_encoder)
    red = ids_of(tiny.tokenizer, "red")
    for count, whole in ((67, True), (68, False)):
        wording = (Fragment("red " * count), Fragment("magic", learned=True), Fragment(" red"))
        (found,) = clip.encode([Prompt("", wording=wording, learned=(inversion,))])
        first, rest = red * count, [*vectors(8), *red]
        rows = [[*first, *rest[:8]], rest[8:]] if whole else [first, rest]
        assert relative(found.tokens, by_hand(tiny, rows)) < 1e-5, count


def test_prompts_name_them_in_any_case_and_with_weights(tiny, tmp_path):
    card = ModelCard(
        id="m", source="", family=Family.SD, embeddings=(saved(tmp_path, {"emb_params": vectors(2)}, "Bad-Hands-5"),)
    )
    reader = Reader(tiny.family, card.emphasis, [load(each) for each in card.embeddings])
    request = ImageRequest(
        id="r",
        model="m",
        prompt="a cat, (bad-HANDS-5:1.3)",
        width=64,
        height=64,
        seeds=(1,),
        sampling=Sampling(sampler="euler", steps=4, guidance_scale=3.0),
    )
    (negative,), (positive,) = reader.prompts(rows_of(request, 0)[0])
    assert negative.prompt.learned == ()
    assert positive.prompt.text == "a cat, bad-HANDS-5"
    assert positive.prompt.wording == (Fragment("a cat, "), Fragment("bad-hands-5", 1.3, learned=True))
    assert [inversion.name for inversion in positive.prompt.learned] == ["bad-hands-5"]


def test_the_card_s_emphasis_decides_how_prompts_are_read(tiny):
    request = ImageRequest(
        id="r",
        model="m",
        prompt="(a:1.3) [b:c:2]",
        width=64,
        height=64,
        seeds=(1,),
        sampling=Sampling(sampler="euler", steps=4, guidance_scale=1.0),
    )
    (row,) = rows_of(request, 0)
    for emphasis, first in (
        (Emphasis.NONE, (Fragment("(a:1.3) b"),)),
        (Emphasis.NO_NORM, (Fragment("a", 1.3), Fragment(" b"))),
    ):
        encoder = Encoder(tiny.family, ModelCard(id="m", source="", family=Family.SD, emphasis=emphasis))
        ((begun, turned),) = encoder.reader.prompts(row)
        assert (begun.begins, begun.prompt.wording, begun.prompt.emphasis) == (0, first, emphasis)
        assert (turned.begins, turned.prompt.text[-1]) == (2, "c")


def test_a_wrong_width_fails_its_own_request_only(tiny, tmp_path):
    from driving import Recording
    from test_alone import request

    from pipelines.engine.engine import Engine

    wide = saved(tmp_path, {"emb_params": vectors(2, 48)}, "wide")
    fits = saved(tmp_path, {"emb_params": vectors(2)}, "fits")
    card = ModelCard(id="tiny", source="", family=Family.SD, embeddings=(wide, fits))
    runner = Recording(tiny.device)
    runner.add("tiny", tiny.family, card)
    engine = Engine(runner)
    engine.adopt(card)
    asked = [request("txt2img", "euler", guided=True, id=name, prompt=f"a {name} circle") for name in ("wide", "fits", "red")]
    events = [event for each in asked for event in engine.generate(each)]
    while engine.busy:
        events += engine.step()
    failed = {event.id: event.error for event in events if hasattr(event, "error")}
    assert set(failed) == {"wide"}
    assert failed["wide"].code == "unsupported"
    assert "width 48" in failed["wide"].message
    assert "needs 32" in failed["wide"].message
    assert relative(runner.final["fits", 0], runner.final["red", 0]) > 1e-3
