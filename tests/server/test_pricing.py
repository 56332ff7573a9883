"""What requests cost, by the shipped table: figures of the vendors' own pages."""

from pathlib import Path

import msgspec
import pytest

from pipelines.contract.enlarging import Hires
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling
from server.catalog.loading import load, parse
from server.catalog.positions import CatalogError
from server.catalog.prices import LocalMoney, Price
from server.catalog.pricing import Range, cost, estimate, grid, local_cost, pixel_steps
from server.domain.generation import Usage

TABLE = load(None).prices.table
MODELS = """
server: {default_model: a, prices: {gpu_hour_usd: 3.6, devices: {"cuda:1": 7.2}}}
models:
  a: {source: "fake:", family: fake}
  b: {source: "fake:", family: fake, prices: {per_megapixel_step: 0.0000004}}
upstreams:
  openai:
    model: gpt-image-2.6-flare
    monthly_budget_usd: 200
    prices:
      gpt-image-2.6-flare: {tokens: {text_in: 1, image_in: 2, image_out: 3}, image_tokens: grid}
  other: {kind: replicate, model: somebody/model, prices: {"*": {per_second: 0.001, seconds: [2, 10]}}}
"""


def request(width=1024, height=1024, images=1, prompt="a cat", **fields):
    usual = {"sampling": Sampling("euler", 20, 7.0)}
    return ImageRequest("j", "m", prompt, width, height, tuple(range(images)), **{**usual, **fields})


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((1024, 1024), (196, 1756, 7024)), ((1536, 1024), (158, 1372, 5488)), ((2048, 2048), (397, 3568, 14272))],
)
def test_the_formula_gives_what_the_calculator_gives(size, tokens):
    assert tuple(grid(factor, *size) for factor in (16, 48, 96)) == tokens
    assert tuple(grid(factor, *reversed(size)) for factor in (16, 48, 96)) == tokens


@pytest.mark.parametrize(
    ("model", "size", "usd"),
    [
        ("gpt-image-1", (1024, 1024), (0.011, 0.042, 0.167)),
        ("gpt-image-1", (1536, 1024), (0.016, 0.063, 0.25)),
        ("gpt-image-1.5", (1024, 1024), (0.009, 0.034, 0.133)),
        ("gpt-image-1.5", (1024, 1536), (0.013, 0.05, 0.2)),
        ("gpt-image-2", (1024, 1024), (0.006, 0.053, 0.211)),
        ("gpt-image-2.6-sunburst", (1024, 1024), (0.006, 0.053, 0.211)),
        ("gpt-image-1-mini", (1024, 1024), (0.005, 0.011, 0.052)),
    ],
)
def test_an_estimate_holds_the_published_price_of_a_picture(model, size, usd):
    for quality, price in zip(("low", "medium", "high"), usd, strict=True):
        found = estimate(TABLE[model], request(*size), quality)
        assert found.low - 0.0008 <= price <= found.high + 0.0008
        assert found.high <= price * 1.1 + 0.001
    unsaid = estimate(TABLE[model], request(*size))
    assert unsaid.low <= usd[0] + 0.0008
    assert unsaid.high >= usd[-1] - 0.0008


def test_images_inputs_and_previews_add_up():
    price = TABLE["gpt-image-2"]
    one, four = (estimate(price, request(images=images), "high") for images in (1, 4))
    assert four.high == pytest.approx(4 * one.high, rel=0.01)
    dot = Picture(8, 8, "RGB", bytes(192))
    edited = estimate(price, request(init=Init(dot)), "high")
    assert edited.high - one.high == pytest.approx(6600 * 8 / 1e6)
    assert estimate(price, request(preview_every=5), "high").high - one.high == pytest.approx(300 * 30 / 1e6)
    assert estimate(price, request(prompt="x" * 32_000), "high").high - one.high == pytest.approx(16_000 * 5 / 1e6, rel=0.01)


def test_what_the_upstream_tells_is_what_it_costs():
    usage = Usage(input_text_tokens=1000, input_image_tokens=500, output_tokens=7024)
    found = cost(TABLE["gpt-image-2"], usage, request())
    assert found.measured
    assert found.usd == pytest.approx(0.005 + 0.004 + 0.21072)
    silent = cost(TABLE["gpt-image-2"], Usage(), request(), "low")
    assert not silent.measured
    assert silent.usd == estimate(TABLE["gpt-image-2"], request(), "low").high
    by_second = Price(per_second=0.001, seconds=(2.0, 10.0))
    assert cost(by_second, Usage(gpu_seconds=4.0), request()).usd == 0.004
    assert estimate(by_second, request(images=2)) == Range(0.004, 0.02)


@pytest.mark.parametrize(("model", "usd"), [("ultra", 0.08), ("core", 0.03), ("sd3.5-large", 0.065), ("conservative", 0.25)])
def test_credits_are_cents(model, usd):
    assert estimate(TABLE[model], request(images=2)) == Range(2 * usd, 2 * usd)
    assert cost(TABLE[model], Usage(), request()).measured


def test_our_own_price_is_the_devices_time_or_the_models_own():
    money = LocalMoney(3.6, {"cuda:1": 7.2}, {"b": 0.0000004})
    assert local_cost(money, request(), 10.0) == pytest.approx(0.01)
    assert local_cost(money, request(), 10.0, "cuda:1") == pytest.approx(0.02)
    own = msgspec.structs.replace(request(), model="b")
    assert local_cost(money, own, 10.0) == pytest.approx(0.0000004 * 1.048576 * 40)
    assert local_cost(LocalMoney(), request(), 10.0) == 0.0


def test_pixel_steps_count_what_is_evaluated():
    assert pixel_steps(request(64, 64)) == 64 * 64 * 40
    assert pixel_steps(request(64, 64, images=3, sampling=Sampling("euler", 20, 1.0))) == 64 * 64 * 20 * 3
    half = Init(Picture(8, 8, "RGB", bytes(192)), strength=0.5)
    assert pixel_steps(request(64, 64, init=half)) == 64 * 64 * 20
    assert pixel_steps(request(64, 64, hires=Hires(128, 128, strength=0.5))) == 64 * 64 * 40 + 128 * 128 * 20


def catalog(text=MODELS):
    return parse(text, name="models.yaml", folder=Path("/etc/aquatint"))


def test_models_yaml_goes_before_the_table():
    prices = catalog().prices
    assert prices.as_of == "2026-11-22"
    assert prices.price("openai", "gpt-image-2.6-flare").tokens.image_out == 3
    assert prices.price("openai", "gpt-image-2").tokens.image_out == 30
    assert prices.price("openai", "unheard-of") is None
    assert prices.price("other", "unheard-of").per_second == 0.001
    assert prices.price("stability", "edit/inpaint").credits == 3
    assert prices.upstreams["openai"].monthly_budget_usd == 200
    assert prices.upstreams["openai"].model == "gpt-image-2.6-flare"
    assert (prices.local.gpu_hour_usd, dict(prices.local.devices)) == (3.6, {"cuda:1": 7.2})
    assert dict(prices.local.per_megapixel_step) == {"b": 0.0000004}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gpu_hour_usd: 3.6", "gpu_hour_usd: -1", "models.yaml:2: server.prices.gpu_hour_usd: must be 0 or more"),
        ("gpu_hour_usd: 3.6", "gpu_our: 1", "models.yaml:2: server.prices.gpu_our: there is no such setting"),
        ("0.0000004}", "-1}", "models.yaml:5: models.b.prices.per_megapixel_step: must be 0 or more"),
        ("budget_usd: 200", "budget_usd: much", "models.yaml:9: upstreams.openai.monthly_budget_usd: Expected"),
        ("budget_usd: 200", "budget_usd: .inf", "models.yaml:9: upstreams.openai.monthly_budget_usd: must be 0 or more"),
        (", image_tokens: grid", "", "models.yaml:11: upstreams.openai.prices.gpt-image-2.6-flare: tokens need image_tokens"),
        (", seconds: [2, 10]", "", "models.yaml:12: upstreams.other.prices.*: per_second needs seconds"),
        ("[2, 10]", "[10, 2]", "models.yaml:12: upstreams.other.prices.*.seconds: must be [FROM, TO]"),
        ("per_second: 0.001, seconds: [2, 10]", "", "models.yaml:12: upstreams.other.prices.*: say tokens, per_image"),
        ("per_second: 0.001, seconds: [2, 10]", "per_image: {}", "upstreams.other.prices.*.per_image: name at least one"),
        ("per_second: 0.001, seconds: [2, 10]", "per_image: {low: {big: 1}}", "per_image.low.big: must be a size"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(old, new, message):
    assert old in MODELS
    with pytest.raises(CatalogError) as caught:
        catalog(MODELS.replace(old, new, 1))
    assert message in str(caught.value)


def test_a_tenants_budget_and_limits_are_sections_of_its_policy():
    tenants = """
tenants:
  default: {budget: {monthly_usd: 5}, limits: {requests_per_minute: 10}}
  acme: {budget: {per_upstream: {openai: 2.5}, webhook: "https://acme.example/hook"}}
"""
    found = catalog(MODELS + tenants).policy("acme")
    assert (found.budget.monthly_usd, dict(found.budget.per_upstream), found.limits.requests_per_minute) == (
        5,
        {"openai": 2.5},
        10,
    )
    for wrong in ("{budget: {monthly_usd: -1}}", "{limits: {images_per_day: 0}}", "{budget: {webhook: ftp://x}}"):
        with pytest.raises(CatalogError):
            catalog(MODELS + f"\ntenants: {{acme: {wrong}}}\n")
