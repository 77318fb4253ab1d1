"""Metrics: named as Prometheus wants, bounded, and right however many processes write them."""

import json
import re
import shutil
import subprocess
import threading

import numpy as np
import polars as pl
import pytest

from fertiray import telemetry, textfile, work
from fertiray.cli import main
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.evaluation.drift import BINS, drift, score_counts
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally
from fertiray.telemetry import METRICS
from fertiray.textfile import Textfile

METRIC = list(METRICS.values())


@pytest.fixture
def sink(tmp_path, monkeypatch):
    """A text file that this process writes to, and forgets afterwards."""
    monkeypatch.setattr(telemetry._state, "seen", {})  # labels that other tests have used
    made = Textfile(tmp_path)
    with telemetry.attached(made):
        yield made


def samples(sink: Textfile) -> dict:
    """Values by name and labels, as on disk."""
    sink.write()
    return {(name, *sorted(dict(labels).items())): v for (name, labels), v in read(sink)}


def read(sink: Textfile) -> list:
    return [*textfile.read(sink.file)]


@pytest.mark.parametrize("metric", METRIC, ids=lambda metric: metric.name)
def test_names_units_and_labels_follow_prometheus(metric):
    # prometheus.io/docs/practices/naming: base units as suffix, counters end with _total, no
    # label in the name, snake case.
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert not metric.name.startswith("fertiray")
    if metric.unit in ("seconds", "ratio"):
        assert metric.name.endswith("_" + metric.unit)
    assert metric.help.endswith(".")
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert [*metric.buckets] == sorted(set(metric.buckets))
    assert all(re.fullmatch("[a-z]+", label) and label != "le" for label in metric.labels)
    # Series of one process: bounded, and few.
    sizes = [len(v) if isinstance(v, tuple) else v for v in metric.labels.values()]
    assert np.prod([size + 1 for size in sizes], initial=1) <= 200
    assert not {"patient", "patient_id", "crop_id", "slide_id", "clinic", "job"} & {*metric.labels}


def test_without_a_sink_nothing_happens(tmp_path):
    assert not telemetry.is_attached()
    telemetry.count("crops_scored_total", kind="no such kind")
    telemetry.gauge("no such gauge", 1)
    with work.job("score"):
        work.progress("score")
    assert not list(tmp_path.iterdir())


def test_counters_gauges_and_histograms(sink):
    telemetry.count("crops_scored_total", 3, kind="score")
    telemetry.count("crops_scored_total", 4, kind="score")
    telemetry.gauge("queue_crops", 9, kind="score")
    telemetry.gauge("queue_crops", 2, kind="score")
    for seconds in (0.005, 0.2, 70):
        telemetry.observe("batch_seconds", seconds)
    found = samples(sink)
    assert found["crops_scored_total", ("kind", "score")] == 7
    assert found["queue_crops", ("kind", "score")] == 2
    assert found["batch_seconds_count",] == 3
    assert found["batch_seconds_sum",] == pytest.approx(70.205)
    below = {key[1][1]: value for key, value in found.items() if key[0] == "batch_seconds_bucket"}
    assert below["0.005"] == 1  # a bound belongs to its bucket
    assert below["0.1"] == 1
    assert below["0.25"] == below["60.0"] == 2
    assert below["+Inf"] == 3


def test_labels_are_bounded(sink):
    telemetry.count("crops_rejected_total", kind="score", stage="P0001 could not be decoded")
    for number in range(100):
        telemetry.count("crops_examined_total", model=f"model {number}")
    found = samples(sink)
    assert found["crops_rejected_total", ("kind", "score"), ("stage", "other")] == 1
    models = {key[1][1] for key in found if key[0] == "crops_examined_total"}
    assert len(models) == telemetry.MODELS + 1
    assert found["crops_examined_total", ("model", "other")] == 100 - telemetry.MODELS
    with pytest.raises(ValueError, match="has the labels"):
        telemetry.count("crops_scored_total", 1)


def test_counters_go_on_over_processes_and_threads(tmp_path):
    first, second = Textfile(tmp_path), Textfile(tmp_path)
    metric = METRICS["crops_scored_total"]

    def add(sink):
        for _ in range(50):
            sink.count(metric, 1, {"kind": "score"})
            sink.write()

    threads = [threading.Thread(target=add, args=(sink,)) for sink in (first, second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(first) == [(("crops_scored_total", (("kind", "score"),)), 150)]
    assert not list(tmp_path.glob("*.tmp"))


def test_the_file_is_what_prometheus_reads(sink):
    for metric in METRIC:
        labels = {k: v[0] if isinstance(v, tuple) else 'a "b"\\c' for k, v in metric.labels.items()}
        tell = {"counter": sink.count, "gauge": sink.gauge, "histogram": sink.observe}
        tell[metric.kind](metric, 0.25, labels)
    sink.write()
    text = sink.file.read_text()
    for metric in METRIC:
        assert f"# HELP fertiray_{metric.name} {metric.help}" in text
        assert f"# TYPE fertiray_{metric.name} {metric.kind}" in text
    if shutil.which("promtool"):
        check = ["promtool", "check", "metrics"]
        done = subprocess.run(check, input=text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_foreign_file_is_the_users_error(tmp_path):
    (tmp_path / textfile.FILE).write_text("not { metrics")
    with pytest.raises(InputError, match="no metrics file"):
        Textfile(tmp_path).write()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (InputError("x"), "refused"),
        (OSError("x"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_jobs_outcome(sink, error, outcome):
    try:
        with work.job("train"):
            assert samples(sink)["job_started_timestamp_seconds", ("kind", "train")] > 1.7e9
            work.progress("train")
            work.progress("score")  # not a job of this process
            if error is not None:
                raise error
    except type(error or InputError):
        pass
    found = samples(sink)
    assert found["jobs_ended_total", ("kind", "train"), ("outcome", outcome)] == 1
    assert found["job_started_timestamp_seconds", ("kind", "train")] == 0
    assert found["job_progress_timestamp_seconds", ("kind", "train")] == 0
    assert ("job_progress_timestamp_seconds", ("kind", "score")) not in found


# Drift: two classes whose scores the network tells apart.
POSITIVE, OTHER = [1, 1, 1, 2, 3, 5, 8, 15, 30, 60], [60, 30, 15, 8, 5, 3, 2, 1, 1, 1]


def mixture(share: float, crops: int) -> np.ndarray:
    one, two = (np.array(counts) / np.sum(counts) for counts in (POSITIVE, OTHER))
    return np.random.default_rng(3).multinomial(crops, share * one + (1 - share) * two)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_another_share_of_positives_is_no_drift(share):
    found = drift(mixture(share, 5000), POSITIVE, OTHER)
    assert found.excess < 0.01
    assert found.share == pytest.approx(share, abs=0.03)


def test_scores_that_no_mixture_gives_are_drift():
    flat = np.full(BINS, 500)
    one, two = (np.array(counts) / np.sum(counts) for counts in (POSITIVE, OTHER))
    # By hand: of two mirror images, half and half is as near to a symmetric one as any mixture.
    expected = 0.5 * np.abs(0.1 - (one + two) / 2).sum()
    found = drift(flat, POSITIVE, OTHER)
    assert found.distance == pytest.approx(expected)
    assert found.excess == pytest.approx(expected - found.chance)
    assert found.excess > 0.1
    # Twelve validation images cannot tell.
    assert drift(flat, [0, 0, 0, 0, 0, 0, 1, 0, 2, 3], [3, 2, 0, 1, *[0] * 6]).excess < 0.15


def test_one_crop_tells_next_to_nothing():
    for single in np.eye(BINS, dtype=int):
        assert drift(single, POSITIVE, OTHER).excess < 0.05


def test_score_counts():
    assert score_counts([0, 0.05, 0.1, 0.999, 1.0, np.nan]).tolist() == [2, 1, *[0] * 7, 2]
    assert score_counts([]).tolist() == [0] * BINS


@pytest.fixture(scope="module")
def scored(zona_checkpoint, tmp_path_factory):
    """A run folder of three patients, and what it told."""
    folder = tmp_path_factory.mktemp("scored")
    synth_crops(folder / "data", patients=3, crops=100, seed=8)
    for path in sorted((folder / "data").rglob("*.png"))[::30]:
        path.write_bytes(path.read_bytes()[:100])
    ingest(str(folder / "data"), str(folder / "store"))
    sink = Textfile(folder / "metrics")
    with telemetry.attached(sink):
        job = ScoringJob(str(folder / "store"), (zona_checkpoint,), str(folder / "run"))
        values = score(job, score_locally, workers=1)
    return folder / "run", values, samples(sink)


def test_a_run_tells_what_it_did(scored):
    run, values, found = scored
    kind = ("kind", "score")
    assert found["crops_scored_total", kind] == values["scored"] == 290
    assert found["crops_rejected_total", kind, ("stage", "decode")] == values["rejected"] == 10
    assert found["queue_crops", kind] == 0
    assert found["jobs_ended_total", kind, ("outcome", "done")] == 1
    stages = {dict(key[1:])["stage"] for key in found if key[0] == "stage_seconds_count"}
    assert stages == {"read", "decode", "network", "write"}
    assert found["batch_seconds_count",] == 2  # 256 crops, and 44
    patients = pl.read_parquet(run / "patients.parquet")
    assert found["patient_positive_ratio_count", ("model", "zona")] == 3
    total = found["patient_positive_ratio_sum", ("model", "zona")]
    assert total == pytest.approx(patients["fraction"].sum())
    assert found["crops_unlike_total", ("model", "zona")] == patients["n_unlike"].sum()
    verdicts = sum(value for key, value in found.items() if key[0] == "patients_total")
    assert verdicts == 3


def test_a_runs_own_tables(scored):
    run, _, found = scored
    shards = pl.read_parquet(run / "shards.parquet")
    assert shards.select("scored", "rejected", "batches").rows() == [(290, 10, 2)]
    taken = shards.select("read_s", "decode_s", "network_s", "write_s").row(0)
    assert all(seconds > 0 for seconds in taken)
    assert sum(taken) <= shards["seconds"][0]
    quality = pl.read_parquet(run / "quality.parquet")
    assert quality["crops"].sum() == 290
    assert quality["share"].sum() == pytest.approx(1)
    assert quality["expected_share"].sum() == pytest.approx(1)
    drifts = json.loads((run / "run.json").read_text())["drift"]
    assert drifts["zona"]["excess"] == pytest.approx(
        found["score_drift_ratio", ("model", "zona")], abs=1e-4
    )


def test_no_metric_and_no_log_names_a_patient(scored):
    run, _, found = scored
    patients = set(pl.read_parquet(run / "patients.parquet")["patient_id"])
    values = {value for key in found for _, value in key[1:]}
    assert values.isdisjoint(patients)
    for table in ("shards.parquet", "quality.parquet"):
        text = pl.read_parquet(run / table).write_csv()
        assert not any(patient in text for patient in patients)


def test_a_command_writes_its_metrics_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("FERTIRAY_METRICS", str(tmp_path / "metrics"))
    with pytest.raises(SystemExit) as ended:
        main(["score", "nowhere", "--checkpoint", "c", "--out", str(tmp_path / "r"), "--local"])
    assert ended.value.code == 2
    assert (tmp_path / "metrics" / textfile.FILE).exists()
    assert not telemetry.is_attached()
