"""Accepted means done: the server and its workers are killed again and again, and every job ends once, with one result."""

import json
import threading
from collections import Counter

import pytest

from tests.doubles.webhooks import ENV, FLAGS, Receiver, kill

KILLS = 20
JOBS = 100
MODELS = """
server: {default_model: m}
models: {m: {source: "fake:?tick=0.01&decode=0.005", family: fake, defaults: {width: 64, height: 64, steps: 10, sampler: euler}}}
"""


@pytest.mark.timeout(280)
def test_every_accepted_job_is_done_once_whoever_dies(launch, until, tmp_path):
    accepted, pace = [], threading.Event()
    with Receiver() as receiver:
        for life in range(KILLS + 1):
            server = launch(tmp_path / "server", *FLAGS, models=MODELS, env=ENV)
            for _ in range(JOBS // KILLS if life < KILLS else 0):
                answer = server.client.post("/api/jobs", json={"prompt": "p", "webhook": receiver.url, "seed": len(accepted)})
                assert answer.status_code == 202
                accepted.append(answer.json()["id"])
            if life < KILLS:
                pace.wait(0.02 * life)  # each life is cut off at another moment
                kill(server)
        assert len(set(accepted)) == JOBS

        def over():
            states = Counter(server.client.get(f"/api/jobs/{job_id}").json()["state"] for job_id in accepted)
            return states if not states["queued"] and not states["running"] else None

        assert until(over, 120, "the end of every job") == {"succeeded": JOBS}
        until(lambda: len(receiver.told) == JOBS, 60, "a webhook for every job")
        views = [server.client.get(f"/api/jobs/{job_id}").json() for job_id in accepted]
        assert all(len(view["images"]) == 1 for view in views), "one result each"
        assert len({view["images"][0]["url"] for view in views}) == JOBS
        assert [view["images"][0]["seed"] for view in views] == list(range(JOBS))
        assert {said["data"]["id"] for said in receiver.told.values()} == set(accepted)
        assert {said["type"] for said in receiver.told.values()} == {"job.succeeded"}
        assert max(view["attempts"] for view in views) > 1, "the kills hit something"
        assert server.stop() == 0


@pytest.mark.timeout(280)
def test_two_servers_on_one_postgresql_share_the_jobs_and_survive_each_other(launch, until, tmp_path, postgres_url):
    flags = (*FLAGS, "--database-url", postgres_url)
    folders, accepted = [tmp_path / name for name in ("one", "two")], []
    with Receiver() as receiver:
        servers = [launch(folder, *flags, models=MODELS, env=ENV) for folder in folders]
        for round_ in range(6):
            for index in range(10):
                asked = {"prompt": "p", "webhook": receiver.url, "seed": len(accepted)}
                accepted.append(servers[index % 2].client.post("/api/jobs", json=asked).json()["id"])
            victim = round_ % 2
            if round_ < 4:
                kill(servers[victim])
                servers[victim] = launch(folders[victim], *flags, models=MODELS, env=ENV)

        def over():
            states = Counter(servers[0].client.get(f"/api/jobs/{job_id}").json()["state"] for job_id in accepted)
            return states if not states["queued"] and not states["running"] else None

        assert until(over, 120, "the end of every job") == {"succeeded": len(accepted)}
        until(lambda: len(receiver.told) == len(accepted), 60, "a webhook for every job")
        views = [servers[1].client.get(f"/api/jobs/{job_id}").json() for job_id in accepted]
        assert len({view["images"][0]["url"].rpartition("/")[2] for view in views}) == len(accepted)
        assert [json.dumps(view["images"][0]["seed"]) for view in views] == [str(index) for index in range(len(accepted))]
