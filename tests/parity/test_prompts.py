"""Prompts of every kind: plain ones token by token as a straight reference, the others by hand; alone = in company."""

import itertools

import pytest
import torch
from by_diffusers import reference
from driving import run
from test_alone import RELATIVE, relative, request
from tiny import TOKENIZER
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.contract.catalog import Emphasis, ModelCard
from pipelines.contract.family import Family as Families
from pipelines.contract.messages import Phase
from pipelines.contract.request import Init, Sampling
from pipelines.engine.embeddings import Embeddings
from pipelines.engine.encoding import Encoder
from pipelines.families.clip import ClipText
from pipelines.families.family import Prompt
from pipelines.prompts.attention import weighted
from pipelines.sampling.noise import Noise
from pipelines.sampling.solver import Schedulers

PLAIN = [
    "",
    "a large red circle on a blue background",
    "A Cat,, don't   panic!\n\tÜber 12:30 \u00a0 naïve",
    "🟥 🏳️‍🌈 жёлтый круг, كلب أحمر",
    "red, " * 37 + "red",
    "<|endoftext|> after the end <|startoftext|>",
]
WORDS = ("red", "green", "blue", "circle", "square", "star", "background", "large", "small", "yellow")


def words(count, seed=0):
    turn = itertools.cycle(WORDS[seed:] + WORDS[:seed])
    return " ".join(next(turn) for _ in range(count))


def encoder(kind=CLIPTextModel, *, seed=0, pad=None, width=32, **config):
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
    if pad is not None:
        tokenizer.pad_token = pad
    torch.manual_seed(seed)
    module = kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=3,
            max_position_embeddings=77,
            projection_dim=24,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **config,
        )
    )
    return tokenizer, module.eval()


def straight(tokenizer, module, texts, *, clip_skip=0, penultimate=False):
    """What diffusers' pipelines compute: the tokenizer pads and cuts, the model reads, one layer is taken."""
    tokens = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    mask = tokens.attention_mask if getattr(module.config, "use_attention_mask", False) else None
    output = module(tokens.input_ids, attention_mask=mask, output_hidden_states=True)
    if penultimate:
        states = output.hidden_states[-(clip_skip + 2)]
    elif clip_skip:
        states = getattr(module, "text_model", module).final_layer_norm(output.hidden_states[-(clip_skip + 1)])
    else:
        states = output.last_hidden_state
    return states, getattr(output, "text_embeds", None)


@torch.inference_mode()
@pytest.mark.parametrize("clip_skip", [0, 1])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("pad", [None, "!"], ids=["end", "!"])
@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
def test_plain_prompts_are_bit_equal_to_a_straight_reference(kind, pad, masked, clip_skip):
    tokenizer, module = encoder(kind, pad=pad, use_attention_mask=masked)
    penultimate = kind is CLIPTextModelWithProjection
    clip = ClipText(tokenizer, module, penultimate=penultimate)
    states, pooled = straight(tokenizer, module, PLAIN, clip_skip=clip_skip, penultimate=penultimate)
    found = clip.encode([Prompt(text, clip_skip) for text in PLAIN])
    assert torch.equal(torch.cat([each.tokens for each in found]), states)
    if pooled is not None:
        assert torch.equal(torch.cat([each.pooled for each in found]), pooled)
    again = clip.encode([Prompt(text, clip_skip, wording=weighted(text)) for text in PLAIN])
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(found, again, strict=True))


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def chunk_states(tokenizer, module, ids):
    """One chunk, by hand."""
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    row += [tokenizer.pad_token_id] * (77 - len(row))
    return module(torch.tensor([row]), output_hidden_states=True)


@torch.inference_mode()
def test_long_prompts_are_chunks_of_75_joined():
    tokenizer, module = encoder(CLIPTextModelWithProjection, pad="!")
    text = words(200)
    ids = ids_of(tokenizer, text)
    assert len(ids) > 150
    (found,) = ClipText(tokenizer, module, penultimate=True).encode([Prompt(text)])
    parts = [chunk_states(tokenizer, module, ids[at : at + 75]) for at in range(0, len(ids), 75)]
    wanted = torch.cat([part.hidden_states[-2] for part in parts], dim=1)
    assert found.tokens.shape == wanted.shape
    assert relative(found.tokens, wanted) < 1e-5
    assert relative(found.pooled, parts[0].text_embeds) < 1e-5


@torch.inference_mode()
def test_a_full_chunk_ends_at_a_near_comma():
    tokenizer, module = encoder()
    clip = ClipText(tokenizer, module)
    one = len(ids_of(tokenizer, "red"))
    assert one == 1
    comma = ids_of(tokenizer, ",")
    red, blue = ids_of(tokenizer, "red"), ids_of(tokenizer, "blue")
    for after, kept in ((10, 65), (19, 56), (20, 75), (0, 75)):
        # 75 tokens, the comma being the one that `after` others follow.
        text = "red " * (74 - after) + ", " + "red " * after + "blue"
        ids = red * (74 - after) + comma + red * after + blue
        (found,) = clip.encode([Prompt(text)])
        wanted = torch.cat([chunk_states(tokenizer, module, part).last_hidden_state for part in (ids[:kept], ids[kept:])], dim=1)
        assert relative(found.tokens, wanted) < 1e-5, after


@torch.inference_mode()
def test_break_begins_a_chunk_and_encoders_of_one_vocabulary_chunk_alike():
    first, second = ClipText(*encoder()), ClipText(*encoder(CLIPTextModelWithProjection, pad="!", width=40), penultimate=True)
    for text, chunks in (("a BREAK b", 2), ("BREAK a", 2), ("a BREAK", 1), ("a BREAK BREAK b", 3), ("BREAK", 1), (words(300), 4)):
        prompt = Prompt("", wording=weighted(text))
        (a,), (b,) = first.encode([prompt]), second.encode([prompt])
        assert a.tokens.shape[1] == b.tokens.shape[1] == 77 * chunks, text
    tokenizer, module = encoder()
    (found,) = first.encode([Prompt("", wording=weighted("red circle BREAK blue"))])
    wanted = [chunk_states(tokenizer, module, ids_of(tokenizer, part)).last_hidden_state for part in ("red circle", "blue")]
    assert relative(found.tokens, torch.cat(wanted, dim=1)) < 1e-5


@torch.inference_mode()
def test_one_chunk_at_most_is_cut_as_diffusers_cuts():
    tokenizer, module = encoder()
    clip = ClipText(tokenizer, module, most_chunks=1)
    for text in (words(200), "red, " * 100, "red " * 70 + ", " + "blue " * 30):
        (found,) = clip.encode([Prompt(text)])
        assert torch.equal(found.tokens, straight(tokenizer, module, [text])[0])
    (found,) = clip.encode([Prompt("", wording=weighted("red BREAK blue"))])
    assert torch.equal(found.tokens, straight(tokenizer, module, ["red blue"])[0])


@torch.inference_mode()
@pytest.mark.parametrize("emphasis", list(Emphasis))
def test_weights_multiply_and_the_mean_is_put_back(emphasis):
    tokenizer, module = encoder()
    prompt = Prompt("", wording=weighted("a (red:1.5) [circle]"), emphasis=emphasis)
    (found,) = ClipText(tokenizer, module).encode([prompt])
    plain = straight(tokenizer, module, ["a red circle"])[0]
    weights = torch.ones(77)
    at = [len(ids_of(tokenizer, part)) for part in ("a", "red", "circle")]
    weights[1 + at[0] : 1 + at[0] + at[1]] = 1.5
    weights[1 + at[0] + at[1] : 1 + sum(at)] = 1 / 1.1
    if emphasis is Emphasis.NONE:
        weights[:] = 1
    wanted = plain * weights[:, None]
    if emphasis is Emphasis.ORIGINAL:
        wanted = wanted * (plain.mean() / wanted.mean())
        assert abs(float(found.tokens.mean() - plain.mean())) < 1e-5
    assert relative(found.tokens, wanted) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("weight", ["0", "-1", "1000000000", "-1000000000"])
@pytest.mark.parametrize("emphasis", list(Emphasis))
def test_no_weight_makes_an_embedding_that_is_no_number(weight, emphasis):
    (found,) = ClipText(*encoder()).encode([Prompt("", wording=weighted(f"({words(80)}:{weight})"), emphasis=emphasis)])
    assert found.tokens.isfinite().all()


def alone(tiny, asked):
    """A straight loop with no padding and no batch: each prompt at its own length, each step with its own wording."""
    card = ModelCard(id="tiny", source="", family=Families.SD)
    from pipelines.engine.row import rows_of

    (row,) = rows_of(asked, 0)
    cues = Encoder(tiny.family, card).reader.prompts(row)
    noise = Noise(row.seed, tiny.device, torch.float32)
    solver = Schedulers(tiny.scheduler.config).solver(asked.sampling, noise)
    latents = solver.initial(noise.draw((1, 4, asked.height // 8, asked.width // 8)))
    with torch.inference_mode():
        while not solver.finished:
            step = solver.position * asked.sampling.steps // solver.total
            predictions = []
            for timeline in cues:
                prompt = [cue.prompt for cue in timeline if cue.begins <= step][-1]
                (told,) = tiny.family.encode_prompts([prompt])
                given = solver.scaled(latents)
                predictions.append(tiny.unet(given, solver.timestep, encoder_hidden_states=told.tokens, return_dict=False)[0])
            guided = predictions[-1]
            if len(predictions) == 2:
                guided = predictions[0] + asked.sampling.guidance_scale * (predictions[1] - predictions[0])
            latents, _ = solver.advance(guided, latents)
    return latents


def mixed():
    long = words(180)
    prompts = [
        ("a red circle", ""),
        (long, "a square"),
        ("a small star", long),
        ("a (red:1.4) [circle] BREAK on blue", "(dull:1.2)"),
        ("a [red:blue:3] circle", "[a|b] square"),
        ("[red|green|blue BREAK star] circle", ""),
        (f"[{long}:a star:0.5]", "x"),
    ]
    samplers = ["euler", "heun", "dpmpp_2m", "ddim", "pndm", "dpm2", "unipc"]
    for index, (prompt, negative) in enumerate(prompts):
        guided = index != 3
        yield request(
            "txt2img",
            "euler",
            guided=guided,
            id=f"p{index}",
            seeds=(index,),
            prompt=prompt,
            negative_prompt=negative,
            sampling=Sampling(sampler=samplers[index], steps=6 + index % 3, guidance_scale=4.0 if guided else 1.0),
        )


def test_prompts_of_every_length_and_kind_in_company_equal_alone(tiny):
    requests = list(mixed())
    result = run({"tiny": tiny.family}, requests, join=[0, 1, 3, 4, 4, 6, 9])
    assert not result.failed
    assert max(batch.size for batch in result.batches if batch.phase is Phase.DENOISE) >= 8, "they never met"
    worst = 0.0
    for asked in requests:
        difference = relative(result.latents[asked.id, 0], alone(tiny, asked))
        worst = max(worst, difference)
        assert difference < RELATIVE, (asked.id, difference)
    print(f"largest relative difference to alone and unpadded: {worst:.1e}")


def test_the_straight_loop_is_diffusers_for_a_plain_prompt(tiny):
    asked = request("txt2img", "euler", guided=True)
    assert relative(alone(tiny, asked), reference(tiny, asked)[0]) < RELATIVE


def test_steps_are_those_really_run(tiny):
    """Half of the six steps that strength leaves of ten, not half of ten."""
    base = request("img2img", "euler", guided=False)
    init = Init(base.init.picture, 0.6, base.init.resize)
    sampling = Sampling(sampler="euler", steps=10, guidance_scale=1.0)

    def final(prompt):
        asked = request("img2img", "euler", guided=False, id="x", init=init, sampling=sampling, prompt=prompt)
        return run({"tiny": tiny.family}, [asked]).latents["x", 0]

    assert torch.equal(final("[a red circle:a blue star:0.5]"), final("[a red circle:a blue star:3]"))
    assert torch.equal(final("[a red circle:a blue star:6]"), final("a red circle"))
    assert not torch.equal(final("[a red circle:a blue star:5]"), final("a red circle"))


def test_refusals_reach_only_those_who_asked(tiny):
    requests = [
        request("txt2img", "euler", guided=True, id="fine"),
        request("txt2img", "euler", guided=True, id="lora", prompt="a <lora:paper-cut:0.8> cat"),
        request("txt2img", "euler", guided=True, id="negative", negative_prompt="<lora:dull>"),
        request("txt2img", "euler", guided=True, id="long", prompt="BREAK " * 1000),
    ]
    result = run({"tiny": tiny.family}, requests)
    assert {name: (error.code, error.param) for name, error in result.failed.items()} == {
        "lora": ("invalid_request", "prompt"),
        "negative": ("invalid_request", "negative_prompt"),
        "long": ("too_large", "prompt"),
    }
    assert "'paper-cut'" in result.failed["lora"].message
    assert relative(result.latents["fine", 0], reference(tiny, requests[0])[0]) < RELATIVE


def test_the_cache_is_bounded_by_bytes_and_keyed_by_wording(tiny):
    class Counting:
        def __init__(self):
            self.encoded = []

        def encode_prompts(self, prompts):
            self.encoded += [prompt.text for prompt in prompts]
            return tiny.family.encode_prompts(prompts)

    family = Counting()
    with torch.inference_mode():
        (encoded,) = tiny.family.encode_prompts([Prompt("any")])
    kept = Embeddings(family, most=3 * encoded.tokens.nbytes)
    one, two, long = Prompt("one"), Prompt("two"), Prompt(words(100))
    with torch.inference_mode():
        kept.fetch([one, one, Prompt("one", wording=weighted("(one)"))])
        kept.fetch([two, one])
        assert family.encoded == ["one", "one", "two"]
        kept.fetch([long])
        kept.fetch([one])
        assert family.encoded == ["one", "one", "two", long.text]
        kept.fetch([two])
    assert family.encoded[-1] == "two"
