"""Keys of requests: equal requests have equal ones, and whatever is changed changes them."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipelines.contract.adapters import ControlCard, LoraCard, ReferenceCard, UpscalerCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.control import ControlUse, LoraUse, ReferenceUse
from pipelines.contract.enlarging import Enlarger, Hires, Tiles, Upscale
from pipelines.contract.family import Family
from pipelines.contract.inpainting import Margins
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Priority, Refiner, Sampling, SizeConditioning, SkipLayers, Style
from server.catalog.current import CurrentCatalog
from server.domain.asset import Delivery, Format
from server.domain.call import Call
from server.domain.clock import SetClock
from server.domain.wishes import Wishes
from server.gateway.identity import _BESIDE, Identity
from server.gateway.weights import FRESH_SECONDS, Weights, mark
from server.telemetry.logs import silent

PICTURE = Picture(2, 1, "L", b"ab")
SHARP = UpscalerCard("sharp", "file:/nowhere/sharp.safetensors")
FULL = ImageRequest(
    id="one",
    model="m",
    prompt="a cat",
    width=64,
    height=64,
    seeds=(1, 2**64 - 1),
    sampling=Sampling("euler", 4, 7.0, "karras", 0.5, skip_layers=SkipLayers((7, 8))),
    negative_prompt="a dog",
    style=Style("plain", "{prompt}, plain", "busy"),
    init=Init(PICTURE, 0.5, mask=PICTURE, outpaint=Margins(1, 2, 3, 4)),
    clip_skip=1,
    loras=(LoraUse(LoraCard("ink", "bundled:ink", Family.FAKE, weight=0.5), 0.25),),
    controls=(
        ControlUse(
            ControlCard("canny", "bundled:canny", Family.FAKE), PICTURE, "canny", preprocessor_options={"low": 1, "high": 2.5}
        ),
    ),
    references=(ReferenceUse(ReferenceCard("plus", "bundled:plus", Family.FAKE), (PICTURE, PICTURE)),),
    hires=Hires(128, 128, Enlarger.MODEL, SHARP, steps=3),
    upscale=Upscale(256, 256, Enlarger.MODEL, SHARP, Tiles(64, 8)),
    sizes=SizeConditioning((64, 64), target=(32, 32)),
    refiner=Refiner("n"),
    preview_every=2,
    priority=Priority.BULK,
    deadline=9.0,
)
"""Nothing in it is left at None."""
CARDS = (
    ModelCard("m", "bundled:m", Family.FAKE, vae="bundled:v", text_encoders={"text_encoder": "bundled:t"}),
    ModelCard("n", "bundled:n", Family.FAKE),
)
CALL = Call("one", cards=CARDS)
TEXT = replace(FULL, init=None, controls=(), references=())


@pytest.fixture(scope="module")
def identity():
    return maker()


def maker(tmp_path=None, text=None, **options):
    path = None
    if text is not None:
        path = tmp_path / "models.yaml"
        path.write_text(text)
    clock = SetClock()
    return Identity(CurrentCatalog(path, clock=clock, log=silent()), Weights(clock), **{"engine": "1.0", **options})


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in ``value`` that holds nothing else."""
    if isinstance(value, (dict, list, tuple)):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for name, each in entries:
            yield from leaves(each, (*path, name))
        return
    yield path


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """``value`` with ``new`` at ``path``."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


def plain(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def other(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same kind."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, bytes):
        return st.binary(min_size=len(value), max_size=len(value))
    if isinstance(value, (int, float)):
        return st.one_of(st.integers(0, 2**64 - 1), st.floats(0, 1e6), st.none())
    return st.one_of(
        st.sampled_from(["", "png", "jpeg", "latent", "stretch", "fake", "sd", "RGB"]), st.text(max_size=5), st.none()
    )


REQUEST_PATHS = [path for path in leaves(plain(FULL)) if path[0] not in _BESIDE]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
async def test_whatever_is_changed_in_a_request_changes_its_key(identity, data):
    path = data.draw(st.sampled_from(REQUEST_PATHS))
    was = plain(FULL)
    for step in path:
        was = was[step]
    new = data.draw(other(was))
    try:
        asked = msgspec.convert(changed(plain(FULL), path, new), ImageRequest, builtin_types=(bytes,))
    except (msgspec.ValidationError, ValueError):
        assume(False)
    before, after = await identity.of(FULL, Delivery(), CALL), await identity.of(asked, Delivery(), CALL)
    if after is None:
        # Nobody knows the card of another model, or who would make the control image.
        assert path in [("model",), ("refiner", "model"), ("controls", 0, "preprocessor")]
    else:
        assert (before.exact == after.exact) == (asked == FULL)
        if path[0] == "seeds":
            assert before.loose == after.loose


def test_every_field_is_filled_and_changed_above():
    """A field that requests get one day fails here until this test has a value for it; the key has it without being told."""
    empty = [name for name in ImageRequest.__struct_fields__ if getattr(FULL, name) is None]
    assert empty == []
    assert {path[0] for path in REQUEST_PATHS} | set(_BESIDE) == set(ImageRequest.__struct_fields__)


async def test_what_shapes_no_pixel_is_beside_the_point(identity):
    aside = replace(FULL, id="two", priority=Priority.NORMAL, deadline=None, preview_every=0)
    call = replace(CALL, id="two", priority=Priority.NORMAL)
    assert await identity.of(aside, Delivery(), call) == await identity.of(FULL, Delivery(), CALL)


async def test_equal_values_in_any_order_have_one_key(identity):
    (control,) = FULL.controls
    turned = replace(control, preprocessor_options={"high": 2.5, "low": 1.0})
    same = replace(FULL, controls=(turned,), sampling=replace(FULL.sampling, guidance_scale=7))
    assert same == FULL
    assert await identity.of(same, Delivery(), CALL) == await identity.of(FULL, Delivery(), CALL)


@pytest.mark.parametrize(
    "around",
    [
        {"delivery": Delivery(Format.JPEG)},
        {"delivery": Delivery(quality=50)},
        {"delivery": Delivery(width=8)},
        {"call": replace(CALL, tenant="other")},
        {"call": replace(CALL, road="openai")},
        {"call": replace(CALL, wishes=Wishes(allowed=("m",)))},
        {"call": replace(CALL, cards=(replace(CARDS[0], revision="abc"), CARDS[1]))},
        {"call": replace(CALL, cards=(CARDS[0], replace(CARDS[1], source="bundled:o")))},
        {"identity": maker(engine="1.1")},
    ],
    ids=["format", "quality", "width", "tenant", "road", "allowed", "revision", "source", "version"],
)
async def test_what_is_around_a_request_counts_too(identity, around):
    found = await around.get("identity", identity).of(FULL, around.get("delivery", Delivery()), around.get("call", CALL))
    before = await identity.of(FULL, Delivery(), CALL)
    assert found.exact != before.exact
    assert found.loose != before.loose


async def test_what_only_the_server_needs_of_a_card_does_not(identity):
    cards = (replace(CARDS[0], description="new", pin=True), CARDS[1])
    assert await identity.of(FULL, Delivery(), replace(CALL, cards=cards)) == await identity.of(FULL, Delivery(), CALL)


async def test_without_the_cards_there_is_no_key(identity):
    assert await identity.of(FULL, Delivery(), replace(CALL, cards=())) is None


async def test_tenants_share_keys_only_by_setting():
    calls = [replace(CALL, tenant=tenant) for tenant in ("a", "b")]
    for shared in (False, True):
        own = maker(shared=shared)
        keys = {(await own.of(TEXT, Delivery(), call)).exact for call in calls}
        assert len(keys) == (1 if shared else 2)


def test_a_source_is_known_by_its_files(tmp_path, monkeypatch):
    file, folder = tmp_path / "a.safetensors", tmp_path / "folder"
    (folder / "unet").mkdir(parents=True)
    seen = set()
    for content in (None, b"1", b"22"):
        if content is not None:
            file.write_bytes(content)
            (folder / "unet" / "w.safetensors").write_bytes(content)
        seen |= {mark(f"file:{file}", ""), mark(f"dir:{folder}", "")}
    os.utime(file, ns=(1, 1))
    seen.add(mark(f"file:{file}", ""))
    assert len(seen) == 7
    assert mark(f"file:{file}", "") in seen

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--o--n" / "refs"
    refs.mkdir(parents=True)
    hub = set()
    for commit in ("1" * 40, "2" * 40):
        (refs / "main").write_text(commit)
        hub |= {mark("hf:o/n", ""), mark("hf:o/n@main", ""), mark("hf:o/n", "3" * 40), mark("hf:o/n@v1", "")}
    assert len(hub) == 6


async def test_weights_that_are_replaced_change_the_key(tmp_path):
    file = tmp_path / "ink.safetensors"
    file.write_bytes(b"1")
    use = LoraUse(LoraCard("ink", f"file:{file}", Family.FAKE))
    clock = SetClock()
    own = Identity(CurrentCatalog(None, clock=clock, log=silent()), Weights(clock), engine="1.0")
    asked = replace(TEXT, loras=(use,))
    before = await own.of(asked, Delivery(), CALL)
    file.write_bytes(b"12")
    clock.advance(FRESH_SECONDS)
    assert await own.of(asked, Delivery(), CALL) != before


UPSTREAMS = """
server: {default_model: m}
models: {m: {source: "fake:", family: fake}}
upstreams:
  one: {kind: openai, key_env: null, model: big, base_url: "http://127.0.0.1:1/v1"}
  two: {kind: replicate, key_env: null, model: a/b}
"""


def edited(old, new):
    assert old in UPSTREAMS
    return UPSTREAMS.replace(old, new)


async def of_road(tmp_path, text, road):
    return (await maker(tmp_path, text).of(TEXT, Delivery(), replace(CALL, road=road))).exact


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (edited("model: big", "model: small"), {"one", "auto"}),
        (edited("127.0.0.1:1", "127.0.0.1:2"), {"one", "auto"}),
        (edited("kind: openai", "kind: stability"), {"one", "auto"}),
        (edited("model: big", "model: big, sizes: [[512, 512]]"), {"one", "auto"}),
        (edited("model: big", "model: big, successors: [small]"), {"one", "auto"}),
        (edited("model: a/b", "model: a/b, inputs: {prompt: text}"), {"two", "auto"}),
        (edited("  two: {", "  two: {enabled: false, "), {"two", "auto"}),
        (edited("models: {m: {", "models: {m: {fallback: [two], "), {"auto"}),
        (edited("model: big", "model: big, concurrency: 2, timeouts: {total: 9}, monthly_budget_usd: 1, owned_by: us"), set()),
        (edited("model: a/b", "model: a/b, queue: 3, attempts: 2, file_hosts: [x.example], description: new"), set()),
    ],
    ids=["model", "server", "kind", "sizes", "successors", "inputs", "off", "chain", "pace", "talk"],
)
async def test_an_upstream_is_what_its_entry_says(tmp_path, text, changes):
    roads = ("one", "two", "auto", "local")
    before = {road: await of_road(tmp_path, UPSTREAMS, road) for road in roads}
    after = {road: await of_road(tmp_path, text, road) for road in roads}
    assert {road for road in roads if before[road] != after[road]} == changes


async def test_which_upstream_is_preferred_counts_where_the_server_chooses(tmp_path):
    one, two = (line for line in UPSTREAMS.splitlines() if line.startswith("  "))
    turned = UPSTREAMS.replace(f"{one}\n{two}", f"{two}\n{one}")
    assert await of_road(tmp_path, turned, "auto") != await of_road(tmp_path, UPSTREAMS, "auto")
    assert await of_road(tmp_path, turned, "one") == await of_road(tmp_path, UPSTREAMS, "one")


async def test_weights_of_preprocessors_count(tmp_path):
    text = 'server: {default_model: m}\nmodels: {m: {source: "fake:", family: fake}}\n'
    text += 'preprocessors: {depth_midas: {source: "file:/x/%s.safetensors"}}\n'
    (control,) = FULL.controls
    asked = replace(FULL, controls=(replace(control, preprocessor="depth_midas", preprocessor_options={}),))
    keys = {(await maker(tmp_path, text % name).of(asked, Delivery(), CALL)).exact for name in ("a", "b")}
    assert len(keys) == 2
