"""models.yaml is edited while it is in use, in every way editors and deployments have."""

import asyncio
import contextlib
import os

import pytest

from server.catalog.current import CurrentCatalog
from server.catalog.positions import CatalogError
from server.catalog.watching import changes, mark
from server.domain.clock import SystemClock
from server.telemetry.logs import silent

DEADLINE = 5.0


def text(*models, **changes):
    lines = [f"server: {{default_model: {models[0]}}}", "models:"]
    lines += [f'  {model}: {{source: "fake:", family: fake, description: "{changes.get(model, "")}"}}' for model in models]
    return "\n".join(lines) + "\n"


class Edited:
    """A watched file; `until` waits for what it should lead to."""

    def __init__(self, path):
        self.path = path
        self.reloads = []
        self.seen = []
        self.woken = asyncio.Event()
        self.current = CurrentCatalog(path, clock=SystemClock(), log=silent(), counted=self.note)

    def note(self, ok):
        self.reloads.append(ok)
        self.woken.set()

    def ids(self):
        return list(self.current.catalog.cards)

    async def until(self, condition):
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.woken.clear()
                await self.woken.wait()


@contextlib.asynccontextmanager
async def edited(path):
    found = Edited(path)
    with found.current.told(found.seen.append):
        async with found.current.watched():
            yield found


@pytest.fixture
def path(tmp_path):
    (tmp_path / "models.yaml").write_text(text("a"))
    return tmp_path / "models.yaml"


def replaced(path, content):
    fresh = path.with_name(".models.yaml.tmp")
    fresh.write_text(content)
    fresh.replace(path)


def recreated(path, content):
    path.unlink()
    path.write_text(content)


def in_place(path, content):
    path.write_text(content)


@pytest.mark.parametrize("edit", [in_place, replaced, recreated])
async def test_an_edit_is_in_force_however_it_is_made(path, edit):
    async with edited(path) as found:
        for round_, models in enumerate((("a", "b"), ("b",), ("c", "a", "b"))):
            edit(path, text(*models))
            await found.until(lambda models=models: found.ids() == list(models))
            assert len(found.seen) == round_ + 1
        assert found.current.status.error is None
        assert found.reloads == [True] * 3


async def test_an_edit_in_several_steps_counts_once_it_is_complete(path):
    async with edited(path) as found:
        whole = text("a", "b", "c")
        with path.open("w") as file:
            for character in whole:
                file.write(character)
                file.flush()
                await asyncio.sleep(0)
        await found.until(lambda: found.ids() == ["a", "b", "c"])
        assert found.seen[-1] is found.current.catalog
        assert found.current.status.error is None


async def test_a_bad_edit_is_refused_whole_and_a_good_one_heals_it(path):
    async with edited(path) as found:
        before = found.current.catalog
        path.write_text(text("a", "b").replace("family: fake", "family: fkae"))
        await found.until(lambda: found.current.status.error)
        assert f"{path}:3: models.a.family: Invalid enum value 'fkae'" in found.current.status.error
        assert found.current.catalog is before
        path.unlink()
        await found.until(lambda: "cannot be read" in (found.current.status.error or ""))
        assert found.seen == []
        path.write_text(text("b"))
        await found.until(lambda: found.ids() == ["b"])
        assert found.current.status.error is None
        assert found.reloads == [False, False, True]


@pytest.mark.parametrize("bad", ["", "\0", "- " * 20_000, "[" * 900, "a: &a [*a]", "models: {}\nserver: {default_model: a}\n"])
async def test_whatever_stands_there_the_server_goes_on(path, bad):
    async with edited(path) as found:
        path.write_text(bad)
        await found.until(lambda: found.current.status.error)
        assert found.ids() == ["a"]
        path.write_text(text("a", "b"))
        await found.until(lambda: found.ids() == ["a", "b"])


async def test_a_touched_file_changes_nothing(path):
    async with edited(path) as found:
        before = found.current.catalog
        os.utime(path)
        await found.until(lambda: found.reloads == [True])
        assert found.current.catalog is before
        assert found.seen == []


async def test_a_config_map_is_swapped_by_its_link(tmp_path):
    mount = tmp_path / "mount"
    for version, models in (("..1", ("a",)), ("..2", ("a", "b")), ("..3", ("c",))):
        (mount / version).mkdir(parents=True)
        (mount / version / "models.yaml").write_text(text(*models))
    (mount / "..data").symlink_to("..1")
    (mount / "models.yaml").symlink_to("..data/models.yaml")
    async with edited(mount / "models.yaml") as found:
        for version, models in (("..2", ["a", "b"]), ("..3", ["c"])):
            (mount / "..data_tmp").symlink_to(version)
            (mount / "..data_tmp").replace(mount / "..data")
            await found.until(lambda models=models: found.ids() == models)
        assert found.reloads == [True, True]


async def test_links_elsewhere_and_further_up_are_followed(tmp_path):
    for version, models in (("one", ("a",)), ("two", ("b",))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "real.yaml").write_text(text(*models))
        (tmp_path / version / "models.yaml").symlink_to(tmp_path / version / "real.yaml")
    (tmp_path / "conf").symlink_to("one")
    async with edited(tmp_path / "conf" / "models.yaml") as found:
        (tmp_path / "one" / "real.yaml").write_text(text("a", "x"))
        await found.until(lambda: found.ids() == ["a", "x"])
        (tmp_path / "conf.new").symlink_to("two")
        (tmp_path / "conf.new").replace(tmp_path / "conf")
        await found.until(lambda: found.ids() == ["b"])
        (tmp_path / "two" / "real.yaml").write_text(text("b", "y"))
        await found.until(lambda: found.ids() == ["b", "y"])


async def test_a_folder_that_goes_and_comes_back(tmp_path):
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "models.yaml").write_text(text("a"))
    async with edited(folder / "models.yaml") as found:
        folder.rename(tmp_path / "gone")
        await found.until(lambda: found.current.status.error)
        folder.mkdir()
        (folder / "models.yaml").write_text(text("b"))
        await found.until(lambda: found.ids() == ["b"])


async def test_what_changed_before_the_watching_began_is_noticed(path):
    seen = mark(path)
    path.write_text(text("a", "b"))
    async with asyncio.timeout(DEADLINE):
        async for _ in changes(path, seen):
            break


async def test_the_packaged_catalog_is_not_watched():
    current = CurrentCatalog(None, clock=SystemClock(), log=silent())
    async with current.watched():
        assert current.status.path is None
        assert current.catalog.card(None).id == "demo"


def test_a_first_catalog_that_is_wrong_is_no_start(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read"):
        CurrentCatalog(tmp_path / "none.yaml", clock=SystemClock(), log=silent())
