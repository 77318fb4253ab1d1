"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fertiray import telemetry

# The same examples each time: a suite must not fail by chance on one machine and not on the next.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def no_metrics() -> Iterator[None]:
    """Metrics go nowhere unless a test says so, whatever the tests before it left attached."""
    with telemetry.attached(None):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real image sets; tests that need it are skipped where it is not set."""
    folder = os.environ.get("FERTIRAY_DATA")
    if not folder:
        pytest.skip("FERTIRAY_DATA is not set: no real images to test on")
    return Path(folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server of our own for the session; every AWS client finds it by the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_PROFILE", raising=False)
        yield endpoint
    server.stop()


@pytest.fixture
def s3(s3_server: str) -> str:
    """The URI of a fresh bucket."""
    import s3fs

    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for the whole session, with room for three small workers."""
    import ray

    from fertiray.on_ray.cluster import cluster

    # Quiet: a raylet that warns of a disk nearly full would speak in the middle of any test.
    with cluster(quiet=True):
        yield
    assert not ray.is_initialized()


@pytest.fixture(scope="session")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of 3 patients with 400 crops each, six corrupt, in 28 shards, some of two patients.

    Half the heads of the first patient are bound, 1 in 20 of the second's, 2 in 5 of the third's.
    """
    import itertools

    import pyarrow as pa
    import pyarrow.parquet as pq

    from fertiray.data.crops import SCHEMA, iter_batches, row_groups
    from fertiray.data.ingest import ingest
    from fertiray.data.synthetic import synth_crops

    folder = tmp_path_factory.mktemp("cohort") / "data"
    synth_crops(folder, patients=3, crops=400, seed=5, fractions=(0.5, 0.05, 0.4))
    for path in sorted(folder.rglob("*.png"))[::200]:
        path.write_bytes(b"junk")
    whole, small = (tmp_path_factory.mktemp("store") / name for name in ("whole", "small"))
    ingest(str(folder), str(whole))
    batches = (iter_batches(str(whole), group) for group in row_groups(str(whole)))
    table = pa.Table.from_batches(itertools.chain.from_iterable(batches), SCHEMA)
    small.mkdir()
    pq.write_table(table, small / "part-00000.parquet", row_group_size=43)
    return str(small)


@pytest.fixture(scope="session")
def zona_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The paper's small CNN, trained for a moment on a synthetic cohort."""
    from fertiray import config
    from fertiray.data.synthetic import synth_crops
    from fertiray.papers import PAPERS
    from fertiray.training.train import train

    data = tmp_path_factory.mktemp("labelled") / "data"
    synth_crops(data, patients=6, crops=60, seed=11, fractions=0.5)
    paper = PAPERS["zona_vgg13"]
    quick = ["epochs=3", "batch_size=16", "preprocessing.size=64"]
    out = str(tmp_path_factory.mktemp("checkpoint") / "zona")
    train(paper, config.override(paper.config("basic_cnn"), quick), str(data), out)
    return out
