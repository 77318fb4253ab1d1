"""Ray Train trains what one process trains, survives its workers and refuses in one line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from fertiray import checkpoint, config, storage
from fertiray.errors import InputError
from fertiray.models.predict import Predictor
from fertiray.papers import PAPERS
from fertiray.training.train import load, train

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

# Small plain steps: AdamW divides rounding errors by rounding errors, and even so one process with
# two threads is 0.1% from itself with one thread after 18 of them.
STEPS = ["batch_size=8", "optimizer=sgd", "lr=1e-4", "schedule=constant", "preprocessing.size=32"]
MSRES = [*STEPS, 'model_args={"width":0.25}', "epochs=6", "validation=0.2", "test=0.2"]
HEAD_ONLY = [
    *STEPS,
    *('model_args={"pretrained":false}', "epochs=2", "freeze_epochs=2", "ema=0", "head_lr=null"),
    *("augmentation.mixup=0", "freeze_batchnorm=false"),
]


def settings(paper, model, assignments):
    return config.override(PAPERS[paper].config(model), assignments)


def draw(folder: Path, classes: tuple[str, ...], count: int) -> str:
    """Blotches, the brighter the higher the class; no two alike."""
    rng = np.random.default_rng(7)
    for number in range(count):
        place = number % len(classes)
        image = cv2.resize(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8), (48, 48))
        image = (image * (0.3 + 0.7 * place / len(classes))).astype(np.uint8)
        file = folder / classes[place] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), image)
    return str(folder)


@pytest.fixture(scope="module")
def embryos(tmp_path_factory) -> str:
    return draw(tmp_path_factory.mktemp("embryos"), ("poor", "good"), 36)


@pytest.fixture(scope="module")
def msres():
    return settings("embryo_msres", None, MSRES)


@pytest.fixture(scope="module")
def two(embryos, msres, tmp_path_factory):
    """An undisturbed training of two workers."""
    from fertiray.on_ray.train import train_on_ray

    lines = []
    out = str(tmp_path_factory.mktemp("two") / "msres")
    values = train_on_ray("embryo_msres", msres, embryos, out, workers=2, on_epoch=lines.append)
    return values, lines


def assert_follows(two, one):
    assert len(two["history"]) == len(one["history"])
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=5e-3)


def test_two_workers_follow_one_and_score_the_same(two, embryos, msres, tmp_path):
    values, lines = two
    one = train(PAPERS["embryo_msres"], msres, embryos, str(tmp_path / "msres"))
    assert_follows(values, one)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["training_loss"] for line in lines] == [
        line["training_loss"] for line in values["history"]
    ]
    assert values["n"] == one["n"]
    folder = Path(values["checkpoint"])
    assert json.loads((folder / "meta.json").read_text())["provenance"]["workers"] == 2
    assert not (folder / ".ray").exists()  # the state of a finished training
    crops = load(PAPERS["embryo_msres"], msres, embryos)
    found = []
    for place in (values["checkpoint"], one["checkpoint"]):
        network, meta = checkpoint.load(place)
        found.append(Predictor(network, meta.preprocessing, "cpu")(crops.images))
    np.testing.assert_allclose(found[0], found[1], atol=5e-3)


def test_a_head_on_frozen_layers(tmp_path):
    from fertiray.on_ray.train import train_on_ray

    heads = draw(tmp_path / "heads", ("Normal", "Tapered", "Pyriform", "Amorphous"), 40)
    recipe = settings("sperm_effnet_cbam", "efficientnet_lite0", HEAD_ONLY)
    arguments = (recipe, heads)
    one = train(PAPERS["sperm_effnet_cbam"], *arguments, str(tmp_path / "one"))
    both = train_on_ray("sperm_effnet_cbam", *arguments, str(tmp_path / "two"), workers=2)
    assert_follows(both, one)


def kill_a_worker() -> None:
    """Ends one training worker of this process's own cluster, as the kernel would."""
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::RayTrainWo"):
            os.kill(process.pid, signal.SIGKILL)
            return
    raise AssertionError("no training worker")


def test_lost_workers_are_replaced_and_the_same_command_goes_on(two, embryos, msres, tmp_path):
    from ray.train import TrainingFailedError

    from fertiray.on_ray.train import train_on_ray

    out = str(tmp_path / "msres")
    lines: list[int] = []

    def follow(line) -> None:
        lines.append(int(line["epoch"]))
        if lines in ([1, 2], [1, 2, 3, 4]) or lines[2:] in ([2, 3, 4], [3, 4, 5]):
            kill_a_worker()

    arguments = ("embryo_msres", msres, embryos, out)
    with pytest.raises(TrainingFailedError):
        train_on_ray(*arguments, workers=2, max_failures=1, on_epoch=follow)
    assert lines[:2] == [1, 2]
    assert 3 <= lines[-1] < 6
    assert not (Path(out) / "meta.json").exists()

    later: list[int] = []
    values = train_on_ray(*arguments, workers=2, on_epoch=lambda line: later.append(line["epoch"]))
    assert later[0] > 2
    assert later[-1] == 6
    assert values["history"] == two[0]["history"]  # bit for bit


@pytest.mark.parametrize(
    ("paper", "changes", "data", "message"),
    [
        ("embryo", [], None, "paper 'embryo' is unknown"),
        ("embryo_msres", [], "nowhere", "nowhere"),
        ("embryo_msres", ["model=nothing"], None, "nothing"),
        ("embryo_msres", ["batch_size=1"], None, "batch_size 1 is smaller than 2 workers"),
        ("embryo_msres", ["loss.class_weights=[1,2,3]"], None, "loss.class_weights has 3 numbers"),
        ("embryo_msres", ["initial=nowhere"], None, "nowhere"),
    ],
)
def test_refused_before_a_worker_starts(
    paper, changes, data, message, embryos, tmp_path, monkeypatch
):
    from fertiray.on_ray import train as module

    def started(*arguments, **options):
        raise AssertionError("a trainer was made")

    monkeypatch.setattr(module, "make_trainer", started)
    recipe = settings("embryo_msres", None, [*MSRES, *changes])
    place = embryos if data is None else str(tmp_path / data)
    with pytest.raises(InputError, match=message) as caught:
        module.train_on_ray(paper, recipe, place, str(tmp_path / "out"), workers=2)
    assert "\n" not in str(caught.value)


def test_what_only_the_workers_find_comes_back_as_one_line(embryos, tmp_path):
    from fertiray.on_ray.train import train_on_ray

    recipe = settings("embryo_msres", None, [*MSRES, "lr=1e30"])
    with pytest.raises(InputError, match="the loss is not a finite number: lower lr") as caught:
        train_on_ray("embryo_msres", recipe, embryos, str(tmp_path / "out"), workers=2)
    assert "\n" not in str(caught.value)


def test_more_workers_than_gpus_are_refused(embryos, msres, tmp_path):
    from fertiray.on_ray.train import train_on_ray

    with pytest.raises(InputError, match="each takes a GPU and the cluster has 0"):
        train_on_ray(
            "embryo_msres", msres, embryos, str(tmp_path / "out"), workers=2, device="cuda"
        )


ON_S3 = """
import json, sys
from fertiray import config
from fertiray.on_ray.train import train_on_ray
from fertiray.papers import PAPERS

data, out, *assignments = sys.argv[1:]
if __name__ == "__main__":
    recipe = config.override(PAPERS["embryo_msres"].config(), assignments)
    values = train_on_ray("embryo_msres", recipe, data, out, workers=2)
    print(json.dumps(values))
"""


def test_data_state_and_checkpoint_on_s3(two, embryos, s3, tmp_path):
    import s3fs

    s3fs.S3FileSystem().put(embryos, f"{s3}/data", recursive=True)
    script = tmp_path / "on_s3.py"
    script.write_text(ON_S3)
    # A cluster of its own: workers of the suite's do not know this server.
    done = subprocess.run(
        [sys.executable, str(script), f"{s3}/data", f"{s3}/msres", *MSRES, "epochs=2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["checkpoint"] == f"{s3}/msres"
    assert values["history"] == two[0]["history"][:2]
    assert not storage.exists(f"{s3}/msres/.ray")
    assert storage.exists(f"{s3}/msres/split.json")
    network, _ = checkpoint.load(f"{s3}/msres")
    ours, _ = checkpoint.load(two[0]["checkpoint"])
    assert [*network.state_dict()] == [*ours.state_dict()]
