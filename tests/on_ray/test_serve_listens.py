"""The service as ``fertiray serve`` has it on one machine: the door listens itself."""

import os
import threading

import httpx2
import pytest

from fertiray.bench.chaos.service import free_port
from fertiray.client import Client
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.scoring.engine import EAGER
from fertiray.scoring.scorer import Scorer
from fertiray.serving import tokens
from fertiray.serving.address import Address
from fertiray.serving.interactive import rows
from fertiray.serving.listener import Listener
from fertiray.serving.settings import Settings

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("scorers", [0, 1])
@pytest.mark.usefixtures("ray_cluster")
def test_scores_jobs_and_a_door_that_comes_back(scorers, zona_checkpoint, tmp_path):
    import psutil
    from ray import serve

    from fertiray.on_ray.serve import APP, serving

    synth_crops(tmp_path / "data", patients=2, crops=16, seed=5)
    pictures = sorted((tmp_path / "data").rglob("*.png"))[:3]
    text, _ = tokens.add(tmp_path / "tokens.json", "clinic-a")
    settings = Settings(
        str(tmp_path / "state"),
        str(tmp_path / "tokens.json"),
        (zona_checkpoint,),
        device="cpu",
        engine=EAGER,
        scorers=scorers,
    )
    address = Address(port=free_port())
    with serving(settings, address):
        deployments = serve.status().applications[APP].deployments
        assert sorted(deployments) == sorted(
            ["Door", "Jobs", "Shards", *(["Scoring"] if scorers else [])]
        )
        assert serve.status().proxies == {}
        client = Client(address.url, text)
        found = client.score(pictures)
        expected = rows(Scorer([zona_checkpoint]), [file.read_bytes() for file in pictures])
        for own, other in zip(found, expected, strict=True):
            assert own["label"] == other["label"]
            assert own["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
        assert httpx2.get(f"{address.url}/v1/models").status_code == 401
        ended = client.wait(client.submit(tmp_path / "data")["id"], every=0.2)
        assert (ended["state"], ended["counts"]["rows_in"]) == ("done", 32)

        replicas = {
            name.rpartition(":")[2].partition(".")[0]: process
            for process in psutil.Process().children(recursive=True)
            if (name := process.cmdline()[0]).startswith("ray::ServeReplica:fertiray:")
        }
        assert sorted(replicas) == sorted(deployments)
        for name, process in replicas.items():  # jobs never take the processor from requests
            policies = {os.sched_getscheduler(thread.id) for thread in process.threads()}
            assert policies == {os.SCHED_IDLE if name in ("Jobs", "Shards") else os.SCHED_OTHER}
        if scorers == 0:
            replicas["Door"].kill()
            assert client.score(pictures) == found  # the client waits for the next one
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{address.url}/healthz")


def test_who_listens_waits_for_the_one_before(tmp_path):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    address = Address(port=free_port())
    first = Listener(app, address)
    with pytest.raises(InputError, match=r"in use.*choose another"):
        Listener(app, address)
    going = threading.Timer(1, first.close)
    going.start()
    second = Listener(app, address, patience=30)
    going.join()
    assert not first.alive
    assert httpx2.get(address.url).status_code == 204
    second.close()
    assert not second.alive
