"""What the documentation says exists, exists; what exists, it says."""

import re
from pathlib import Path

import msgspec
import pytest

from pipelines.contract.catalog import Defaults, Limits, ModelCard, Schedule
from pipelines.contract.request import Refiner, SkipLayers
from pipelines.contract.samplers import SAMPLERS, SCHEDULERS
from server.api.openai.schemas import EditBody
from server.catalog.loading import parse
from server.cli.settings import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_setting_is_explained() -> None:
    page = text("docs/01-running.md")
    missing = [name for option in OPTIONS for name in (option.variable, option.flag) if name and f"`{name}`" not in page]
    assert missing == []


@pytest.mark.parametrize("struct", [ModelCard, Defaults, Limits, Schedule, SkipLayers, Refiner])
def test_every_key_of_models_yaml_is_explained(struct: type[msgspec.Struct]) -> None:
    page = text("docs/06-models.md")
    written = [name for name in struct.__struct_fields__ if name not in ("id", "embeddings")]  # the catalog fills these in
    missing = [name for name in written if f"{name}:" not in page]
    assert missing == []


def test_every_field_sampler_and_scheduler_of_the_api_is_explained() -> None:
    page = text("docs/02-openai-api.md")
    names = {name for name in EditBody.__struct_fields__ if name != "user"}  # accepted without effect
    names |= {spec.id for spec in SAMPLERS} | set(SCHEDULERS)
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", ["README.md", "docs/01-running.md", "docs/06-models.md"])
def test_the_example_of_models_yaml_loads(name: str) -> None:
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text(name), re.DOTALL) if "models:" in block]
    assert blocks
    for block in blocks:
        assert parse(block, name=name, folder=ROOT).card(None).id in {"sd15", "sdxl"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []
