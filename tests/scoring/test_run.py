"""Bulk scoring: the books balance, runs resume, and another configuration is refused."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from fertiray import checkpoint
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.errors import CountsError, InputError
from fertiray.scoring import engine
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally

PATIENTS, CROPS, CORRUPT = 3, 800, 12


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """2,400 crops of three patients, twelve of them corrupt in different ways."""
    folder = tmp_path_factory.mktemp("cohort") / "data"
    synth_crops(folder, patients=PATIENTS, crops=CROPS, seed=5)
    victims = sorted(folder.rglob("*.png"))[:: PATIENTS * CROPS // CORRUPT][:CORRUPT]
    for number, path in enumerate(victims):
        data = path.read_bytes()
        path.write_bytes([b"", data[: len(data) // 2], b"junk" + data[4:]][number % 3])
    store = str(tmp_path_factory.mktemp("store") / "store")
    counts = ingest(str(folder), store)
    assert (counts["crops"], counts["rejected"]) == (PATIENTS * CROPS, CORRUPT)
    return store


@pytest.fixture(scope="module")
def whole(store, zona_checkpoint, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("run") / "whole"
    job = ScoringJob(store, (zona_checkpoint,), str(out), engine="eager")
    return out, score(job, score_locally, workers=2)


def rows(out: Path, part: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(f) for f in sorted((out / part).glob("*.parquet"))).sort(
        "crop_id"
    )


def test_rows_in_are_scored_plus_rejected(whole):
    out, result = whole
    assert result["rows_in"] == PATIENTS * CROPS
    assert (result["scored"], result["rejected"]) == (PATIENTS * CROPS - CORRUPT, CORRUPT)
    assert result["patients"] == PATIENTS
    scores, rejects = rows(out, "scores"), rows(out, "rejects")
    ids = pl.concat([scores["crop_id"], rejects["crop_id"]])
    assert ids.n_unique() == len(ids) == PATIENTS * CROPS
    assert scores.columns == [
        *("crop_id", "patient_id", "slide_id", "model", "label"),
        *("p_unbound", "p_bound", "ood", "spread"),
    ]
    assert set(rejects["stage"]) == {"decode"}
    assert rejects["error"].str.len_chars().min() > 10


def test_patient_table_follows_the_scores(whole):
    out, _ = whole
    scores = rows(out, "scores")
    patients = pl.read_parquet(out / "patients.parquet")
    for row in patients.iter_rows(named=True):
        own = scores.filter(pl.col("patient_id") == row["patient_id"])
        assert row["n_scored"] == len(own)
        assert row["n_positive"] == (own["label"] == "bound").sum() == (own["p_bound"] >= 0.5).sum()
        assert row["fraction"] == pytest.approx(row["n_positive"] / row["n_scored"])
    assert patients["n_rejected"].sum() == CORRUPT


def test_the_run_folder_is_complete(whole):
    out, result = whole
    record = json.loads((out / "run.json").read_text())
    assert record["counts"] == {key: result[key] for key in ("rows_in", "scored", "rejected")}
    assert record["models"][0]["operating"]["n_positive"] > 0
    assert record["versions"]["torch"]
    page = (out / "report.html").read_text()
    assert all(patient in page for patient in ("P001", "P002", "P003"))
    assert (out / "patients.csv").exists()


def test_worker_count_does_not_matter(whole, store, zona_checkpoint, tmp_path):
    job = ScoringJob(store, (zona_checkpoint,), str(tmp_path / "one"), engine="eager")
    score(job, score_locally, workers=1)
    for part in ("scores", "rejects"):
        assert rows(tmp_path / "one", part).equals(rows(whole[0], part))


def test_an_interrupted_run_goes_on_and_equals_an_undisturbed_one(
    whole, store, zona_checkpoint, tmp_path
):
    out = tmp_path / "cut"
    job = ScoringJob(store, (zona_checkpoint,), str(out), engine="eager")

    class PowerCutError(RuntimeError):
        pass

    def cut_after_two(job, groups, workers, report):
        done = 0

        def count(result):
            nonlocal done
            report(result)
            done += 1
            if done == 2:
                raise PowerCutError

        score_locally(job, groups, workers, count)

    with pytest.raises(PowerCutError):
        score(job, cut_after_two, workers=1)
    kept = {f.name: f.stat().st_mtime_ns for f in (out / "scores").glob("*.parquet")}
    assert 2 <= len(kept) <= 3
    assert not (out / "report.html").exists()
    result = score(job, score_locally, workers=2)
    assert result["resumed"] > 0
    assert all((out / "scores" / n).stat().st_mtime_ns == t for n, t in kept.items())
    for part in ("scores", "rejects"):
        assert rows(out, part).equals(rows(whole[0], part))


def test_another_configuration_is_refused_and_a_fresh_start_is_possible(
    whole, store, zona_checkpoint, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    other = tmp_path / "other"
    model, meta = checkpoint.load(str(zona_checkpoint))
    operating = dataclasses.replace(meta.operating, threshold=0.9)
    changed = dataclasses.replace(meta, name="zona", operating=operating)
    checkpoint.save(str(other), model, changed)
    job = ScoringJob(store, (str(other),), str(out))
    with pytest.raises(InputError, match="holds a run with another models"):
        score(job, score_locally, workers=1)
    result = score(job, score_locally, workers=2, resume=False)
    assert result["rows_in"] == PATIENTS * CROPS
    assert (rows(out, "scores")["label"] == "bound").sum() < (
        rows(whole[0], "scores")["label"] == "bound"
    ).sum()


def test_lost_rows_are_noticed(whole, store, zona_checkpoint, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    victim = sorted((out / "scores").glob("*.parquet"))[1]
    pl.read_parquet(victim).head(-1).write_parquet(victim)
    job = ScoringJob(store, (zona_checkpoint,), str(out), engine="eager")
    with pytest.raises(CountsError, match=victim.stem):
        score(job, score_locally, workers=1)
    command = [
        "score",
        store,
        "--checkpoint",
        zona_checkpoint,
        "--out",
        str(out),
        "--local",
        "--engine",
        "eager",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "fertiray", *command], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert victim.stem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("damage", ["cut", "a bit turned"])
@pytest.mark.parametrize("part", ["scores", "rejects"])
def test_a_damaged_part_is_named_and_made_again(
    whole, store, zona_checkpoint, tmp_path, part, damage
):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    victim = max((out / part).glob("*.parquet"), key=lambda file: file.stat().st_size)
    chunk = pq.read_metadata(victim).row_group(0).column(1)  # patient_id
    data = bytearray(victim.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start + chunk.total_compressed_size - 3] ^= 1
    victim.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    job = ScoringJob(store, (zona_checkpoint,), str(out), engine="eager")
    with pytest.raises(InputError, match=f"{part}/{victim.name}: cannot be read as Parquet"):
        score(job, score_locally, workers=1)
    victim.unlink()
    score(job, score_locally, workers=1)
    for name in ("scores", "rejects"):
        assert rows(out, name).equals(rows(whole[0], name))


def test_two_checkpoints_in_one_pass_score_as_each_alone(whole, store, zona_checkpoint, tmp_path):
    model, meta = checkpoint.load(zona_checkpoint)
    settings = dataclasses.replace(meta.preprocessing, window=0.5)
    second = dataclasses.replace(meta, name="second", preprocessing=settings)
    checkpoint.save(str(tmp_path / "second"), model, second)
    both = (zona_checkpoint, str(tmp_path / "second"))
    result = score(
        ScoringJob(store, both, str(tmp_path / "both"), engine="eager"), score_locally, workers=2
    )
    assert result["rows_in"] == result["scored"] + result["rejected"] == PATIENTS * CROPS
    together = rows(tmp_path / "both", "scores")
    first = rows(whole[0], "scores")
    assert together.filter(pl.col("model") == meta.name).equals(first)
    score(
        ScoringJob(store, both[1:], str(tmp_path / "alone"), engine="eager"),
        score_locally,
        workers=2,
    )
    alone = rows(tmp_path / "alone", "scores")
    assert together.filter(pl.col("model") == "second").equals(alone)
    assert not alone["p_bound"].equals(first["p_bound"])
    patients = pl.read_parquet(tmp_path / "both" / "patients.parquet")
    assert len(patients) == 2 * PATIENTS


def test_s3_in_and_out_gives_the_same_rows(whole, store, zona_checkpoint, s3):
    import s3fs

    fs = s3fs.S3FileSystem()
    bucket = s3.removeprefix("s3://")
    fs.put(store, f"{bucket}/store", recursive=True)
    fs.put(zona_checkpoint, f"{bucket}/zona", recursive=True)
    job = ScoringJob(f"{s3}/store", (f"{s3}/zona",), f"{s3}/run", engine="eager")
    result = score(job, score_locally, workers=2)
    assert result["scored"] == PATIENTS * CROPS - CORRUPT
    found = pl.concat(
        pl.read_parquet(fs.cat_file(f)) for f in sorted(fs.ls(f"{bucket}/run/scores"))
    ).sort("crop_id")
    assert found.equals(rows(whole[0], "scores"))
    assert b"P001" in fs.cat_file(f"{bucket}/run/report.html")


def test_the_engine_is_settled_once_a_run(store, zona_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "candidates", lambda device: [])
    out = tmp_path / "auto"
    job = ScoringJob(store, (zona_checkpoint,), str(out))
    score(job, score_locally, workers=2)
    record = json.loads((out / "run.json").read_text())
    assert record["engine"] == "eager"
    assert record["engines"][0]["tried"][0]["crops_per_s"] > 0
    # Going on with half of it, the plan decides, whatever would be measured now.
    victim = min((out / "scores").iterdir())
    victim.unlink()

    def never(*arguments):
        raise AssertionError("measured again")

    again = score(job, score_locally, workers=2, choose=never)
    assert again["resumed"] < again["rows_in"]
    assert json.loads((out / "run.json").read_text())["engines"] == record["engines"]
