"""Ray Data scores what one process scores, and an error of the user's stays the user's."""

import threading

import polars as pl
import pytest

from fertiray.data.crops import row_groups
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.on_ray.score import score_on_ray
from fertiray.scoring.adaptive import Adaptive
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cohort") / "data"
    synth_crops(folder, patients=3, crops=700, seed=21)
    for path in sorted(folder.rglob("*.png"))[::300]:
        path.write_bytes(path.read_bytes()[:100])
    store = str(tmp_path_factory.mktemp("store") / "store")
    ingest(str(folder), store)
    return store


def rows(out, part) -> pl.DataFrame:
    files = sorted((out / part).glob("*.parquet"))
    return pl.concat(pl.read_parquet(file) for file in files).sort("crop_id")


@pytest.mark.usefixtures("ray_cluster")
def test_one_and_three_actors_and_one_process_give_identical_rows(store, zona_checkpoint, tmp_path):
    results = {}
    for name, runner, workers in (
        ("local", score_locally, 2),
        ("one", score_on_ray, 1),
        ("three", score_on_ray, 3),
    ):
        job = ScoringJob(store, (zona_checkpoint,), str(tmp_path / name), engine="eager")
        results[name] = score(job, runner, workers=workers)
    assert {(r["rows_in"], r["scored"], r["rejected"]) for r in results.values()} == {
        (2100, 2093, 7)
    }
    for part in ("scores", "rejects"):
        local = rows(tmp_path / "local", part)
        assert rows(tmp_path / "one", part).equals(local)
        assert rows(tmp_path / "three", part).equals(local)


@pytest.mark.usefixtures("ray_cluster")
def test_adaptive_scoring_takes_the_same_shards_on_ray(many_shards, zona_checkpoint, tmp_path):
    settings = {"adaptive": Adaptive(0.05, 0.05), "verdict_on": "fraction"}
    results = {}
    for name, runner, workers in (("local", score_locally, 1), ("ray", score_on_ray, 2)):
        job = ScoringJob(many_shards, (zona_checkpoint,), str(tmp_path / name), engine="eager")
        results[name] = score(job, runner, workers=workers, **settings)
    counts = [
        tuple(found[key] for key in ("rows_in", "scored", "rejected", "skipped"))
        for found in results.values()
    ]
    assert counts[0] == counts[1]
    assert counts[0][3] > 400  # so that there is something to agree on
    for part in ("scores", "rejects"):
        assert rows(tmp_path / "ray", part).equals(rows(tmp_path / "local", part))
    local, ray = (pl.read_parquet(tmp_path / name / "patients.parquet") for name in results)
    assert ray.equals(local)


@pytest.mark.usefixtures("ray_cluster")
def test_an_unusable_store_is_the_users_error_not_a_stack(store, zona_checkpoint, tmp_path):
    import shutil
    from pathlib import Path

    broken = tmp_path / "store"
    shutil.copytree(store, broken)
    job = ScoringJob(str(broken), (zona_checkpoint,), str(tmp_path / "run"), engine="eager")

    def vanish_then_score(job, groups, workers, report):
        Path(broken, groups[0].file).unlink()
        score_on_ray(job, groups, workers, report)

    with pytest.raises(InputError, match=r"part-00000.parquet: no such file") as caught:
        score(job, vanish_then_score, workers=1)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("ray_cluster")
def test_an_interruption_ends_the_stream_before_ray_is_left(many_shards, zona_checkpoint, tmp_path):
    """Ray Data's thread would go on asking a Ray that is gone; the error keeps its frames alive."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    job = ScoringJob(many_shards, (zona_checkpoint,), str(tmp_path / "run"), engine="eager")
    with pytest.raises(KeyboardInterrupt) as held:
        score_on_ray(job, row_groups(many_shards), 1, interrupted)
    left = [own.name for own in threading.enumerate() if "StreamingExecutor" in type(own).__name__]
    assert (left, held.type) == ([], KeyboardInterrupt)
