"""A real Prometheus watches a real cluster: every panel and every alert's query has its numbers."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from fertiray.bench.chaos.service import free_port
from fertiray.dashboard.grafana import DASHBOARDS
from fertiray.dashboard.panels import Query
from fertiray.dashboard.prometheus import Prometheus, Window
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
HEAD_ENVIRONMENT = {"RAY_metrics_report_interval_ms": "1000"}

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="Prometheus is not installed: apt-get install prometheus",
    ),
]

PANELS = [panel for board in DASHBOARDS for panel in board.panels]


@pytest.fixture(scope="module")
def prometheus(head, tmp_path_factory) -> Iterator[Prometheus]:
    """Scrapes the nodes that the head's dashboard names, once a second, with the rules."""
    address, environment = head
    folder = tmp_path_factory.mktemp("prometheus")
    discovery = {
        "url": f"{address}/api/prometheus/sd",
        "authorization": {
            "type": "Bearer",
            "credentials_file": environment["RAY_AUTH_TOKEN_PATH"],
        },
        "refresh_interval": "1s",
    }
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "dashboards" / "alerts.yml")],
        "scrape_configs": [{"job_name": "ray", "http_sd_configs": [discovery]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_port()
    command = [
        *("prometheus", f"--config.file={folder}/prometheus.yml"),
        *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            source = Prometheus(f"http://127.0.0.1:{port}")
            wait_for(lambda: values(source, 'count(up{job="ray"} == 1)') or None, process)
            yield source
        finally:
            process.terminate()
            process.wait(30)


def wait_for(found, process) -> None:
    for _ in range(120):
        assert process.poll() is None, "Prometheus ended"
        try:
            if found() is not None:
                return
        except ValueError:  # it does not listen yet
            pass
        time.sleep(0.5)
    raise AssertionError("Prometheus does not see the cluster")


def values(source: Prometheus, expr: str) -> dict[str, float]:
    now = time.time()
    return dict(source.values(Query(expr, ""), Window(now - 60, now, 10)))


@pytest.fixture(scope="module")
def worked(head, prometheus, zona_checkpoint, tmp_path_factory) -> tuple[Path, Window]:
    """A folder in which a job on the cluster did a little of everything, and when."""
    address, environment = head
    folder = tmp_path_factory.mktemp("traffic")
    synth_crops(folder / "labelled", patients=6, crops=20, seed=4, fractions=0.5)
    synth_crops(folder / "cohort", patients=3, crops=500, seed=5)
    for path in sorted((folder / "cohort").rglob("*.png"))[::50]:
        path.write_bytes(path.read_bytes()[:100])
    ingest(str(folder / "cohort"), str(folder / "store"))
    for part in (folder / "store").glob(
        "part-*.parquet"
    ):  # many shards: counts that are seen to grow
        pq.write_table(pq.read_table(part), part, row_group_size=100)
    began = time.time()
    command = [RAY, "job", "submit", "--address", address, "--", sys.executable]
    done = subprocess.run(
        [*command, ROOT / "tests/on_ray/traffic.py", folder, zona_checkpoint, str(free_port())],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    time.sleep(5)  # a report, a scrape and an evaluation of the rules
    return folder, Window(began, time.time(), rate_s=5)


@pytest.mark.parametrize("panel", [panel for panel in PANELS if not panel.gpu], ids=lambda p: p.id)
def test_every_query_of_every_panel_has_numbers(panel, prometheus, worked):
    _, window = worked
    ask = prometheus.lines if panel.shape == "lines" else prometheus.values
    for query in panel.queries:
        assert [*ask(query, window)], query.expr
    assert prometheus.draw(panel, window) is not None


def test_every_alerts_query_has_numbers(prometheus, worked):
    _, window = worked
    rules = yaml.safe_load((ROOT / "dashboards/alerts.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        if "record" in rule:
            assert [*prometheus.lines(Query(rule["record"], ""), window)], rule["record"]
        else:  # compares what is recorded
            assert rule["expr"].split("{")[0].split(" ")[0] in {r.get("record") for r in rules}


def test_panels_hold_the_numbers_of_the_run(prometheus, worked):
    folder, window = worked
    drawn = {panel.id: prometheus.draw(panel, window) for panel in PANELS}
    counts = json.loads((folder / "run/run.json").read_text())["counts"]
    assert counts == {"rows_in": 1500, "scored": 1470, "rejected": 30}
    assert drawn["scored"].number == 1470
    assert drawn["rejects"].bars == (("decode", 30.0),)
    assert drawn["reject_share"].number == pytest.approx(30 / 1500)

    patients = pl.read_parquet(folder / "run/patients.parquet")
    assert drawn["patients"].number == 3
    assert sum(n for _, n in drawn["fractions"].bars) == 3
    undecided = (patients["verdict"] == "indeterminate").mean()
    assert drawn["indeterminate"].number == pytest.approx(undecided)
    unlike = patients["n_unlike"].sum() / patients["n_scored"].sum()
    assert drawn["unlike"].number == pytest.approx(unlike)

    jobs = dict(drawn["jobs"].bars)
    assert jobs == {"score done": 1, "train done": 1, "tune done": 1}
    assert dict(drawn["trials_ended"].bars) == {"done": 2}
    assert max(drawn["epoch"].lines[0].y) == 2
    routes = {line.name for line in drawn["answers"].lines}
    assert {"/v1/score", "/v1/jobs/{job_id}"} <= routes


def test_no_series_names_a_patient(prometheus, worked):
    folder, _ = worked
    patients = pl.read_parquet(folder / "run/patients.parquet")["patient_id"].to_list()
    series = prometheus.get("series", **{"match[]": '{__name__=~"(ray_)?fertiray_.*"}'})
    assert series
    labels = {value for own in series for key, value in own.items() if key != "__name__"}
    assert labels.isdisjoint(patients)
