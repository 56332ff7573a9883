"""Whoever is cut off while a batch comes in leaves nothing of it."""

import asyncio
import base64
import json

import httpx
import msgspec
import pytest
from sqlalchemy import func, select

from server.app.application import application
from server.app.parts import assemble
from server.db.tables import BATCH_INPUTS, BATCH_LINES, BATCHES
from server.settings import Settings
from server.telemetry.logs import silent
from tests.server.test_idempotency import MODELS, png


class Gated:
    """A repository in which one step is done, and then does not return."""

    def __init__(self, batches, step):
        self._batches, self._step = batches, step
        self.entered, self.undoing, self.go_on, self.undone = (asyncio.Event() for _ in range(4))

    def __getattr__(self, name):
        done = getattr(self._batches, name)
        if name != self._step:
            return done

        async def held(*arguments):
            await done(*arguments)
            self.entered.set()
            await asyncio.Event().wait()

        return held

    async def abandon(self, batch):
        self.undoing.set()
        await self.go_on.wait()
        await self._batches.abandon(batch)
        self.undone.set()


def two_lines():
    image = "data:image/png;base64," + base64.b64encode(png()).decode()
    bodies = [{"prompt": "p", "image": image}, {"prompt": "q"}]
    return "\n".join(json.dumps({"custom_id": str(index), "body": body}) for index, body in enumerate(bodies))


@pytest.mark.parametrize("step", ["begin", "receive"])
async def test_an_upload_that_is_cancelled_leaves_nothing(tmp_path, step):
    (tmp_path / "models.yaml").write_text(MODELS)
    settings = Settings(home=tmp_path, models=tmp_path / "models.yaml", devices=("fake",))
    parts = assemble(settings, silent())
    gated = Gated(parts.batches, step)
    app = application(msgspec.structs.replace(parts, batches=gated))
    transport = httpx.ASGITransport(app)
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
        headers = {"content-type": "application/x-ndjson"}
        sending = asyncio.create_task(client.post("/api/batches", content=two_lines(), headers=headers))
        await asyncio.wait_for(gated.entered.wait(), 60)
        sending.cancel()
        await asyncio.wait_for(gated.undoing.wait(), 60)
        sending.cancel()  # once more, while it is being undone
        with pytest.raises(asyncio.CancelledError):
            await sending
        gated.go_on.set()
        await asyncio.wait_for(gated.undone.wait(), 60)
        async with parts.database.reading() as connection:
            for table in (BATCHES, BATCH_LINES, BATCH_INPUTS):
                assert (await connection.execute(select(func.count()).select_from(table))).scalar_one() == 0
