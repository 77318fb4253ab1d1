"""The dashboards: Grafana's files are what the panels say, and the page needs neither of them."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import yaml

from fertiray import textfile
from fertiray.cli import main
from fertiray.dashboard import drawings, grafana, server
from fertiray.dashboard.drawings import Drawing, Line
from fertiray.dashboard.folder import DRAWN, Folder
from fertiray.dashboard.grafana import DASHBOARDS
from fertiray.dashboard.page import render
from fertiray.dashboard.prometheus import Prometheus, Window
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally
from fertiray.telemetry import METRICS
from fertiray.textfile import Textfile
from fertiray.training.logs import EpochLog

ROOT = Path(__file__).parents[1]
RULES = ROOT / "dashboards" / "alerts.yml"
PANELS = [panel for board in DASHBOARDS for panel in board.panels]
needs = partial(pytest.mark.skipif, reason="Prometheus is not installed")
needs_prometheus = needs(shutil.which("prometheus") is None)
needs_promtool = needs(shutil.which("promtool") is None)


def rules() -> list[dict]:
    return yaml.safe_load(RULES.read_text())["groups"][0]["rules"]


def expressions() -> list[str]:
    asked = [query.expr for panel in PANELS for query in panel.queries]
    return asked + [rule["expr"] for rule in rules()]


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.id)
def test_grafanas_files_are_the_panels(board):
    file = ROOT / "dashboards" / f"{board.id}.json"
    assert json.loads(file.read_text()) == grafana.as_json(board), (
        "write them anew: fertiray dashboard --grafana dashboards"
    )


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.id)
def test_grafanas_files_are_whole(board):
    made = grafana.as_json(board)
    (variable,) = made["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    for panel in made["panels"]:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${" + variable["name"] + "}" for source in sources)
        refs = [target["refId"] for target in panel["targets"]]
        assert refs == sorted(set(refs))
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    cells = [
        (x, y)
        for panel in made["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) < 24


def test_every_query_asks_for_metrics_and_labels_that_there_are():
    known = {f"fertiray_{metric.name}": metric for metric in METRICS.values()}
    for expr in expressions():
        names = re.findall(r"\bfertiray_\w+|(?<=\)\?)fertiray_\w+", expr)
        found = [known.get(re.sub("_(bucket|count|sum)$", "", n)) or known.get(n) for n in names]
        assert all(found), expr
        labels = {label for metric in found for label in metric.labels} | {"le"}
        if found:
            for by in re.findall(r"by \(([\w, ]+)\)", expr):
                assert set(by.split(", ")) <= labels, expr
        for name in re.findall(r"\b(fertiray:[\w:]+)", expr):
            assert name in {rule.get("record") for rule in rules()}, expr


def test_panels_are_named_once():
    names = [panel.id for panel in PANELS]
    assert len(names) == len(set(names))
    assert set(DRAWN) <= set(names)


@needs_promtool
def test_the_rules_are_rules():
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def labelled(name: str, **labels: str) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


# Series, sampled every minute, and the alert that they raise at the given minute. ``ray_`` or not.
RAISED = {
    # A job that stopped at minute 1 (progress stays 60 s since 1970), looked at 40 minutes later.
    "FertiRayJobStalled": (
        {labelled("ray_fertiray_job_progress_timestamp_seconds", kind="score"): "60x60"},
        "40m",
    ),
    "FertiRayManyRejects": (
        {
            labelled("fertiray_crops_scored_total", kind="score"): "0+90x60",
            labelled("fertiray_crops_rejected_total", kind="score", stage="decode"): "0+10x60",
        },
        "45m",
    ),
    "FertiRaySlowAnswers": (
        {
            labelled("ray_fertiray_request_seconds_bucket", route="/v1/score", le="2.5"): "0+0x60",
            labelled("ray_fertiray_request_seconds_bucket", route="/v1/score", le="5.0"): "0+9x60",
            labelled("ray_fertiray_request_seconds_bucket", route="/v1/score", le="+Inf"): "0+9x60",
        },
        "30m",
    ),
    "FertiRayFailingAnswers": (
        {
            labelled("fertiray_request_seconds_count", route="/", status="2xx"): "0+90x60",
            labelled("fertiray_request_seconds_count", route="/", status="5xx"): "0+9x60",
        },
        "30m",
    ),
    "FertiRayJobsFail": (
        {labelled("fertiray_jobs_ended_total", kind="train", outcome="failed"): "0x5 1x60"},
        "30m",
    ),
    "FertiRayDrift": ({labelled("ray_fertiray_score_drift_ratio", model="zona"): "0.2x1"}, "60m"),
    "FertiRayUnlikeCrops": (
        {
            labelled("fertiray_crops_unlike_total", model="zona"): "30x60",
            labelled("fertiray_crops_examined_total", model="zona"): "100x60",
        },
        "10m",
    ),
}


@needs_promtool
def test_every_alert_is_raised_when_it_should_be_and_only_then(tmp_path):
    tests = []
    for name, (series, when) in RAISED.items():
        found = {rule["alert"]: rule for rule in rules() if "alert" in rule}
        assert set(found) == set(RAISED)
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                        "eval_time": when,
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    },
                    {"expr": f'ALERTS{{alertname!="{name}"}}', "eval_time": when},
                ],
            }
        )
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafanas_provisioning():
    (source,) = yaml.safe_load(
        (ROOT / "dashboards/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "$PROMETHEUS_URL")
    (provider,) = yaml.safe_load(
        (ROOT / "dashboards/provisioning/dashboards/fertiray.yml").read_text()
    )["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/etc/fertiray/dashboards")


@pytest.mark.parametrize(
    ("top", "expected"),
    [(1.08, [0, 0.5, 1]), (10, [0, 2, 4, 6, 8, 10]), (0.03, [0, 0.01, 0.02, 0.03])],
)
def test_ticks_are_round(top, expected):
    assert drawings.ticks(top) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.123, "percentunit", "12.3%"),
        (0.0042, "s", "4.2 ms"),
        (90, "s", "1.5 min"),
        (0, "s", "0 s"),
        (2376, "short", "2376"),
        (1234567, "short", "1.235M"),
        (41.27, "suffix: crops/s", "41.27 crops/s"),
        (3, "reqps", "3 /s"),
    ],
)
def test_values_as_a_person_reads_them(value, unit, expected):
    assert drawings.text(value, unit) == expected


def test_buckets_are_counts():
    bars = drawings.counts_by_bound([("0.1", 5), ("+Inf", 9), ("0.01", 2)])
    assert bars == (("≤ 1%", 2), ("≤ 10%", 3), ("more", 4))
    assert drawings.counts_by_bound([("1.0", 5), ("+Inf", 5)]) == (("≤ 100%", 5),)


def test_a_chart_lies_within_its_frame():
    lines = (Line("a", (0, 50, 100), (0, 3, 1)), Line("b", (20,), (2,)))
    made = drawings.chart(Drawing(lines=lines), "short")
    for path in made.paths:
        for x, y in re.findall(r"([\d.]+) ([\d.]+)", path["d"]):
            assert drawings.LEFT <= float(x) <= drawings.WIDTH - drawings.RIGHT
            assert drawings.TOP <= float(y) <= drawings.HEIGHT - drawings.BOTTOM
    assert [path["dot"] for path in made.paths] == [False, True]
    assert made.paths[0]["last"] == "1"
    flat = drawings.chart(Drawing(lines=(Line("zero", (0, 1), (0, 0)),)), "s")
    assert flat.paths[0]["last"] == "0 s"


@pytest.fixture(scope="module")
def run(zona_checkpoint, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("dashboard")
    synth_crops(folder / "data", patients=3, crops=60, seed=8)
    for path in sorted((folder / "data").rglob("*.png"))[::30]:
        path.write_bytes(path.read_bytes()[:100])
    ingest(str(folder / "data"), str(folder / "store"))
    job = ScoringJob(str(folder / "store"), (zona_checkpoint,), str(folder / "run"))
    score(job, score_locally, workers=1)
    return str(folder / "run")


def test_a_run_folder_draws_the_same_panels(run):
    folder = Folder(run)
    drawn = {panel.id: folder.draw(panel.id) for panel in PANELS}
    assert drawn["scored"].number == 174
    assert drawn["reject_share"].number == pytest.approx(6 / 180)
    assert drawn["rejects"].bars == (("decode", 6),)
    assert drawn["waiting"].lines[0].y[-1] == 0
    patients = pl.read_parquet(f"{run}/patients.parquet")
    assert drawn["patients"].number == 3
    assert sum(n for _, n in drawn["verdicts"].bars) == 3
    assert sum(n for _, n in drawn["fractions"].bars) == 3
    assert drawn["unlike"].number == pytest.approx(patients["n_unlike"].sum() / 174)
    assert {line.name for line in drawn["stages"].lines} == {"read", "decode", "network", "write"}
    # The crops a second, over the time that they took, are the crops.
    (rate,) = drawn["throughput"].lines
    step = rate.x[1] - rate.x[0]
    assert sum(rate.y) * step == pytest.approx(174, rel=1e-4)
    assert drawn["loss"] is None
    assert drawn["answers"] is None


def test_the_page_of_a_run(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", run, "--out", str(out), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(out)}
    page = out.read_text()
    assert ">174<" in page
    assert page.count("<svg") >= 4
    assert "script" not in page
    assert "http-equiv" not in page
    patients = pl.read_parquet(f"{run}/patients.parquet")["patient_id"]
    assert not any(patient in page for patient in patients)


def test_the_page_of_a_checkpoint(tmp_path):
    log = EpochLog(3, str(tmp_path / "tensorboard"))
    for epoch, loss in ((1, 0.9), (2, 0.5), (2, 0.6), (3, 0.4)):  # the second one was done twice
        log({"epoch": epoch, "training_loss": loss, "seconds": 1.0})
    (line,) = Folder(str(tmp_path)).draw("loss").lines
    assert (line.x, line.y) == ((1, 2, 3), (0.9, 0.6, 0.4))
    assert "Loss" in render(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folder": "nowhere"}, "neither a run folder nor a trained checkpoint"),
        ({}, "name a run folder, or --prometheus URL"),
        ({"folder": "a", "prometheus": "http://b"}, "name a run folder, or --prometheus URL"),
        ({"prometheus": "localhost:9090"}, "give an address such as"),
        ({"prometheus": "http://127.0.0.1:9"}, "no Prometheus answers there"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        render(**arguments)
    assert "\n" not in str(caught.value)


@contextmanager
def served(render):
    """The address of the page's server, while it runs."""
    ready = threading.Event()
    where = []

    def started(address: str) -> None:
        where.append(address)
        ready.set()

    threading.Thread(target=server.serve, args=(render, 0, started), daemon=True).start()
    assert ready.wait(10)
    yield where[0]


def get(address: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(address, headers={"host": host} if host else {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_page_is_served_to_this_machine_only(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FERTIRAY_METRICS", str(tmp_path))
    with served(lambda: render(run, live=True)) as address:
        assert address.startswith("http://127.0.0.1:")
        status, page = get(address)
        assert status == 200
        assert "http-equiv" in page
        assert get(address, host="evil.example")[0] == 403  # as after DNS rebinding
        assert get(f"{address}elsewhere")[0] == 404
        assert get(f"{address}metrics") == (200, "")
        sink = Textfile(tmp_path)
        sink.count(METRICS["crops_scored_total"], 5, {"kind": "score"})
        sink.write()
        assert 'fertiray_crops_scored_total{kind="score"} 5.0' in get(f"{address}metrics")[1]

    def fails():
        raise InputError("Prometheus is gone")

    with served(fails) as address:
        assert get(address) == (503, "Prometheus is gone")


def test_a_port_that_is_taken_is_the_users_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot listen there"):
            server.serve(str, taken.getsockname()[1], print)


@needs_prometheus
def test_a_job_outside_ray_in_a_real_prometheus(run, zona_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("FERTIRAY_METRICS", str(tmp_path / "metrics"))
    with textfile.exported():
        job = ScoringJob(f"{Path(run).parent}/store", (zona_checkpoint,), str(tmp_path / "run"))
        score(job, score_locally, workers=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with served(lambda: "") as address:
        target = {"targets": [address.removeprefix("http://").rstrip("/")]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "finished", "static_configs": [target]}],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml"]
        places = [f"--storage.tsdb.path={tmp_path}/db", f"--web.listen-address=127.0.0.1:{port}"]
        log = (tmp_path / "log").open("wb")
        process = subprocess.Popen([*command, *places], stdout=log, stderr=log)
        try:
            source = Prometheus(f"http://127.0.0.1:{port}")
            panels = {panel.id: panel for panel in PANELS}
            for _ in range(60):
                time.sleep(0.5)
                try:
                    drawn = source.draw(panels["scored"], Window.last(5))
                except InputError:  # it does not listen yet
                    continue
                if drawn is not None:
                    break
            assert drawn.number == 174
            window = Window.last(5)
            assert source.draw(panels["rejects"], window).bars == (("decode", 6),)
            assert source.draw(panels["patients"], window).number == 3
            assert dict(source.draw(panels["jobs"], window).bars) == {"score done": 1}
            page = render(prometheus=source.url, minutes=5)
            assert ">174<" in page
            assert "the last 5 minutes" in page
            with pytest.raises(InputError, match="Bad Request"):
                source.get("query", query="sum(")
        finally:
            process.terminate()
            process.wait(30)
            log.close()
