"""Roads as models.yaml has them at the moment; models that retire; what was sent is remembered."""

import openai

from server.db.database import Database
from server.db.migrating import migrate
from server.db.upstream_requests import KEEP_SECONDS, SqlUpstreamRequests
from server.domain.clock import SetClock

MODELS = """
server: {{default_model: quick}}
models:
  quick: {{source: "fake:", family: fake, defaults: {{width: 64, height: 64}}}}
upstreams:
  openai: {{base_url: "{url}/v1", model: {model}, successor: gpt-image-2}}
"""


def test_edits_of_the_file_and_retiring_models(doubles, serve, until):
    double = doubles("openai")
    listed = [
        {"id": "gpt-image-1.5", "shutdown_date": "2199-12-01"},
        {"id": "gpt-image-2"},
        {"id": "dall-e-3", "shutdown_date": "2026-01-01"},
    ]
    double.tell("models", models=listed)
    server = serve(models=MODELS.format(url=double.url, model="dall-e-3"), env={"OPENAI_API_KEY": "sk-1"}).until_ready(60)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)

    def health():
        found = server.ready()["upstreams"]
        return found[0] if found and found[0]["checked"] else None

    told = until(health, 60, "the list of models")
    assert (told["model"], told["ending"][0]["model"]) == ("gpt-image-2", "dall-e-3")
    assert told["ending"][0]["days_left"] <= 0
    assert "upstream model comes to its end" in server.log.read_text()
    assert server.metric('aquatint_upstream_model_days_left{model="dall-e-3",road="openai"}') <= 0
    # What the successor does counts, asked for by name and where the choice is the server's: its predecessor made one at a time.
    assert len(client.images.generate(prompt="x", model="openai", n=2).data) == 2
    chosen = server.client.post("/api/route", json={"prompt": "a sign that says OPEN", "model": "auto", "count": 2}).json()
    assert (chosen["route"], chosen["roads"][1]["lacking"]) == ("openai", []), chosen
    file = server.log.parent / "models.yaml"
    file.write_text(MODELS.format(url=double.url, model="gpt-image-1.5"))
    until(lambda: (health() or {}).get("model") == "gpt-image-1.5", 60, "the edit")
    assert health()["ending"] == []
    client.images.generate(prompt="x", model="openai")
    assert [each["model"] for each in double.ledger["requests"]] == ["gpt-image-2", "gpt-image-1.5"]
    # The key alone would open it again.
    file.write_text(
        MODELS.format(url=double.url, model="gpt-image-2").replace(
            "  openai: {", "  openai: {enabled: false}\n  other: {kind: openai, "
        )
    )
    until(lambda: [each["name"] for each in server.ready()["upstreams"]] == ["other"], 60, "the removal")


async def test_what_was_sent_is_remembered(tmp_path, postgres_url):
    for address in (f"sqlite+aiosqlite:///{tmp_path}/a.db", postgres_url.replace("postgresql://", "postgresql+asyncpg://")):
        database, clock = Database(address), SetClock()
        await migrate(database)
        records = SqlUpstreamRequests(database, clock)
        assert [await records.begin("r", "up"), await records.begin("r", "up"), await records.begin("r", "other")] == [
            True,
            False,
            True,
        ]
        await records.withdraw("r", "up")
        assert await records.begin("r", "up")
        clock.advance(KEEP_SECONDS + 1)
        assert await records.begin("r", "up"), "it is forgotten in the end"
        await database.close()
