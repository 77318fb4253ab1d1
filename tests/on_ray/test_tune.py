"""Ray Tune runs a study's trials: each once, whatever dies, and the same as in one process."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from fertiray.errors import InputError
from fertiray.on_ray.submit import absolute_paths
from fertiray.tuning.cells import Between, Cell, Grid
from fertiray.tuning.grid import run_grid
from fertiray.tuning.searching import run_search
from fertiray.tuning.trials import Here, Wanted
from tests.on_ray.test_jobs_train import TINY, labelled
from tests.tuning import conftest as toy

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
QUICK = toy.QUICK

heads, paper = toy.heads, toy.paper


def on_cluster(wanted: Wanted = Wanted()):  # noqa: B008
    from fertiray.on_ray.tune import on_ray

    return lambda: on_ray(wanted)


def written(out: Path) -> dict[str, int]:
    """When each finished fold was written."""
    return {str(place): place.stat().st_mtime_ns for place in out.glob("cells/*/fold-*.json")}


def scores(values) -> dict[str, float]:
    return {
        f"{row['cell']}, fold {row['fold']}: {metric}": row[metric]
        for row in values["trials"]
        for metric in ("accuracy", "log_loss")
    }


@pytest.mark.usefixtures("ray_cluster")
def test_a_grid_is_the_same_as_in_one_process_and_runs_once(paper, heads, tmp_path):
    done: list[tuple[int, int]] = []
    options = {"settings": QUICK, "folds": 3, "held_out": heads}
    ours = run_grid(
        paper, "rates", heads, str(tmp_path / "ray"), on_cluster(), **options,
        progress=lambda *now: done.append(now),
    )  # fmt: skip
    assert done == [(n, 6) for n in range(1, 7)]
    assert (ours["ran"], ours["failed"]) == (6, 0)
    assert ours["trials_per_hour"] > 0
    here = run_grid(
        paper, "rates", heads, str(tmp_path / "here"), lambda: nullcontext(Here()), **options
    )
    assert scores(ours) == pytest.approx(scores(here), rel=1e-4)
    assert ours["cells"][0]["efficiency"]["kept_mb"] == here["cells"][0]["efficiency"]["kept_mb"]
    before = written(tmp_path / "ray")
    # Nothing to do: no cluster is asked for.
    again = run_grid(paper, "rates", heads, str(tmp_path / "ray"), None, **options)
    assert (again["ran"], again["kept"]) == (0, 6)
    assert written(tmp_path / "ray") == before


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_failing_trial_is_marked_after_two_retries_and_a_wrong_one_at_once(
    paper, heads, tmp_path, capfd
):
    values = run_grid(paper, "broken", heads, str(tmp_path), on_cluster(), settings=QUICK, folds=2)
    assert (values["ran"], values["failed"]) == (2, 6)
    errors = {row["cell"]: row["error"] for row in values["trials"]}
    assert errors["sound"] is None
    assert errors["diverges"].startswith("epoch 1: the loss is not a finite number")
    assert errors["wrong"].startswith("model 'basic_cnn': ")
    assert errors["crashes"].startswith("crashed 3 times: ValueError: Expected more than 1 value")
    said = capfd.readouterr().err
    assert said.count("a trial crashed and is tried again") == 4  # two folds, two retries


def kill_a_trial() -> None:
    """Ends a process that runs trials, of this process's own cluster, as the kernel would."""
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::ImplicitFu"):
            os.kill(process.pid, signal.SIGKILL)
            return


@pytest.mark.usefixtures("ray_cluster")
def test_a_lost_process_costs_nothing_but_time(paper, heads, tmp_path):
    kills: list[int] = []

    def progress(done: int, total: int) -> None:
        if done in (1, 2):
            kills.append(done)
            kill_a_trial()

    long = [*QUICK, "epochs=30"]
    values = run_grid(
        paper, "other", heads, str(tmp_path), on_cluster(), settings=long, folds=2,
        progress=progress,
    )  # fmt: skip
    assert kills == [1, 2]
    assert (values["ran"], values["failed"]) == (4, 0)
    assert not [*tmp_path.glob("cells/*/fold-*/member-1")]  # states of finished trials


def search(paper, heads, out, **options):
    from fertiray.on_ray.tune_search import SearchOnRay

    return run_search(
        paper, "toy", heads, str(out), SearchOnRay(options.pop("wanted", Wanted())),
        settings=[*QUICK, "epochs=6"], **options,
    )  # fmt: skip


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("algorithm", ["asha", pytest.param("tpe", marks=pytest.mark.slow)])
def test_a_search_stops_poor_trials_and_goes_on_later(paper, heads, tmp_path, algorithm):
    if algorithm == "tpe":
        pytest.importorskip("optuna")
    said: list[tuple] = []
    first = search(
        paper, heads, tmp_path, trials=5, algorithm=algorithm, report=lambda *now: said.append(now)
    )
    assert said == [(n, 5, None) for n in range(1, 6)]
    assert (first["ran"], first["kept"], first["failed"]) == (5, 0, 0)
    status = [row["status"] for row in first["trials"]]
    assert "finished" in status
    assert "stopped" in status
    assert all(row["epochs"] == 6 for row in first["trials"] if row["status"] == "finished")
    assert all(row["epochs"] < 6 for row in first["trials"] if row["status"] == "stopped")
    records = {place: place.read_bytes() for place in tmp_path.glob("toy/records/*.json")}
    assert len(records) == 5
    later = search(paper, heads, tmp_path, trials=7, algorithm=algorithm)
    assert (later["ran"], later["kept"]) == (2, 5)
    assert all(place.read_bytes() == text for place, text in records.items())
    assert later["best"]["value"] <= first["best"]["value"]
    assert not [place for place in (tmp_path / "toy" / "records").iterdir() if place.is_dir()]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_whose_trials_crash_comes_to_an_end(paper, heads, tmp_path):
    space = dataclasses.replace(
        paper.spaces["toy"], settings=toy.CRASH, domains={"lr": Between(1, 2)}
    )
    crashing = dataclasses.replace(paper, spaces={"toy": space})
    found = search(crashing, heads, tmp_path, trials=2, algorithm="asha")
    assert (found["failed"], found["best"]) == (2, None)
    assert {row["status"] for row in found["trials"]} == {"failed"}
    assert all("crashed 3 times: ValueError" in row["error"] for row in found["trials"])


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_without_optuna_says_what_to_install(paper, heads, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'fertiray\[search\]'"):
        search(paper, heads, tmp_path, trials=2, algorithm="tpe")


def test_how_trials_share_a_cluster(monkeypatch):
    from fertiray.on_ray import slots

    def of(has, trials=100, **wanted):
        monkeypatch.setattr(slots, "resources", lambda: has)
        monkeypatch.setattr(slots, "cpus_per_worker", lambda count: min(1.0, has["CPU"] / count))
        found = slots.Slots.of(Wanted(**wanted), trials)
        return found.concurrent, found.threads, found.device, found.resources.get("GPU")

    eight = {"CPU": 64.0, "GPU": 8.0}
    assert of({"CPU": 2.0}) == (2, 1, "cpu", None)
    assert of({"CPU": 16.0}, trials=4) == (4, 4, "cpu", None)
    assert of({"CPU": 16.0}, concurrent=2) == (2, 8, "cpu", None)
    assert of(eight) == (8, 8, "cuda", 1.0)
    assert of(eight, gpus=0.25) == (32, 2, "cuda", 0.25)
    assert of(eight, concurrent=16) == (16, 4, "cuda", 0.5)
    assert of(eight, gpus=2.0) == (4, 16, "cuda", 2.0)
    assert of(eight, gpus=0.0)[2] == "cpu"
    assert of(eight, workers=4)[:1] == (2,)
    assert of({"CPU": 64.0}, workers=4)[:1] == (16,)
    with pytest.raises(InputError, match=r"--gpus-per-trial 0\.5: the cluster has 0"):
        of({"CPU": 2.0}, gpus=0.5)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_trials_of_two_workers(paper, heads, tmp_path):
    """A TorchTrainer in each trial follows one process within rounding; a search stops some."""
    pair = dataclasses.replace(paper, grids={"pair": Grid("", (Cell("two", "basic_cnn"),))})
    ours, here = (
        run_grid(pair, "pair", heads, str(tmp_path / name), opened, settings=QUICK, folds=2)
        for name, opened in (
            ("two", on_cluster(Wanted(workers=2))),
            ("here", lambda: nullcontext(Here())),
        )
    )
    assert (ours["ran"], ours["failed"]) == (2, 0)
    assert scores(ours) == pytest.approx(scores(here), rel=5e-3)
    found = search(paper, heads, tmp_path, trials=4, algorithm="asha", wanted=Wanted(workers=2))
    assert (found["ran"], found["failed"]) == (4, 0)
    assert {row["status"] for row in found["trials"]} == {"finished", "stopped"}


def command(paper: str, data: str, out: Path, *more: str) -> list[str]:
    settings = [f"--set={setting}" for setting in ("epochs=1", "batch_size=8", *TINY[paper])]
    return [paper, "--data", data, "--out", str(out), "--folds", "2", *settings, *more]


@pytest.mark.slow
def test_a_killed_driver_repeats_no_finished_trial(heads, tmp_path):
    """kill -9 in the middle of a study; the same command finishes it."""
    arguments = [
        *("tune", "zona_vgg13", "--grid", "basic_lr", "--data", heads, "--out", str(tmp_path)),
        *("--folds", "3", "--json", "--concurrent", "1"),
        *(f"--set={setting}" for setting in ("epochs=60", "batch_size=8", "preprocessing.size=32")),
    ]
    call = [sys.executable, "-m", "fertiray", *arguments]
    log = (tmp_path / "log").open("wb")
    driver = subprocess.Popen(call, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(2400):
            assert driver.poll() is None, (tmp_path / "log").read_text()
            if len(written(tmp_path)) >= 2:
                break
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    time.sleep(5)  # what was running ends with its driver
    before = written(tmp_path)
    assert 2 <= len(before) < 12
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["kept"], values["ran"], values["failed"]) == (len(before), 12 - len(before), 0)
    assert before.items() < written(tmp_path).items()  # not one was written again
    assert len(values["trials"]) == 12
    assert values["best"]["config"] == str(tmp_path / "basic_lr" / "best.json")


GRIDS = {
    "embryo_msres": ("ablation", "stages"),
    "blastocyst_memebg": ("tasks",),
    "sperm_effnet_cbam": ("hushem",),
    "sperm_madrnet": ("modules", "passes"),
    "zona_vgg13": ("networks",),
}
# In place of what a single training has: cells have arguments of their own.
STUDY = {
    "embryo_msres": ["preprocessing.size=32", 'model_args={"width":0.25}'],
    "blastocyst_memebg": ["preprocessing.size=28"],
    "sperm_effnet_cbam": ["preprocessing.size=32", "freeze_epochs=0"],
    "sperm_madrnet": ["preprocessing.size=32"],
    "zona_vgg13": ["preprocessing.size=32"],
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("paper_name", GRIDS)
def test_every_papers_grids_as_jobs(head, paper_name, tmp_path):
    address, environment = head
    data, out = labelled(tmp_path / "data", paper_name), tmp_path / "out"
    for grid in GRIDS[paper_name]:
        submit = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--"]
        settings = ("epochs=1", "batch_size=8", *STUDY[paper_name])
        job = [
            *(sys.executable, "jobs/tune.py", paper_name, "--grid", grid, "--data", data),
            *("--out", str(out), "--folds", "2", "--from-scratch"),
            *(f"--set={setting}" for setting in settings),
            *(("--held-out", data) if paper_name == "zona_vgg13" else ()),
        ]
        done = subprocess.run(
            [*submit, *job], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        values = json.loads((out / grid / "study.json").read_text())
        assert values["failed"] == 0
        assert {row["status"] for row in values["trials"]} == {"finished"}
        assert all(len(cell["tasks"]) >= 1 for cell in values["cells"])
        assert Path(values["best"]["config"]).is_file()
        assert "| paper |" in values["table"]


def test_a_study_names_its_paths_for_a_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "zona_vgg13",
        "--grid",
        "lr",
        "--held-out",
        "h",
        "--config=c.json",
        "--out",
        "s3://b/c",
    ]
    assert absolute_paths(arguments, plain=False) == [
        *("zona_vgg13", "--grid", "lr", "--held-out", f"{tmp_path}/h"),
        *(f"--config={tmp_path}/c.json", "--out", "s3://b/c"),
    ]


def test_unusable_data_is_one_line_and_exit_code_2(tmp_path):
    call = ["tune", "zona_vgg13", "--grid", "lr", "--data", str(tmp_path / "nothing")]
    done = subprocess.run(
        [sys.executable, "-m", "fertiray", *call], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert f"fertiray: {tmp_path}/nothing: no such folder" in done.stderr
    assert done.stderr.count("\n") == 1
