"""Nothing that is loaded is unpickled: a pickle can run any program when it is read."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fertiray
from fertiray import checkpoint
from fertiray.cli import main
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops

READERS = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"),
    *("torch.load", "torch.jit.load", "torch.save", "numpy.load", "np.load", "pd.read_pickle"),
}

# Run in a process of its own, whose every unpickling is heard: Python's audit event for a class
# that a pickle names, and every call of the module's own functions.
LOADS = """
import sys

heard = []
sys.addaudithook(lambda event, _: heard.append(event) if event.startswith("pickle.") else None)

import pickle

def told(name, real):
    def call(*arguments, **options):
        heard.append(name)
        return real(*arguments, **options)
    return call

# Classes derived from Unpickler call it by its class; the audit event tells of those.
pickle.load, pickle.loads = told("pickle.load", pickle.load), told("pickle.loads", pickle.loads)

import dataclasses
import json
from contextlib import nullcontext

from fertiray.cli import main
from fertiray.data import crops, manifest
from fertiray.data.labelled import load_labelled
from fertiray.data.split_files import load
from fertiray.papers import PAPERS
from fertiray.scoring.scorer import Scorer
from fertiray.training.train import train
from fertiray.training.worker import LocalWorker
from fertiray.tuning.cells import Cell, Grid
from fertiray.tuning.grid import run_grid
from fertiray.tuning.trials import Here
from fertiray import checkpoint, config

data, ckpt, store, work = sys.argv[1:]
quick = ["epochs=2", "batch_size=8", "preprocessing.size=16"]
paper = PAPERS["zona_vgg13"]
recipe = config.override(paper.config("basic_cnn"), quick)
grid = Grid("rates", (Cell("slow", "basic_cnn", ("lr=0.001",)),))
paper = dataclasses.replace(paper, grids={"rates": grid})
steps = {}


def step(name):
    steps[name] = heard[:]
    heard.clear()


def command(*arguments):
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code == 0, arguments


class PowerCutError(Exception):
    pass


def cut(metrics):
    raise PowerCutError


step("imports")
model, meta = checkpoint.load(ckpt)
predictor, _ = checkpoint.load_predictor(ckpt)
Scorer.from_checkpoint(ckpt)
step("checkpoint and predictor")
assert list(crops.iter_rows(store)) and list(crops.read_rejects(store)) is not None
assert manifest.read(store)
step("crop store")
try:
    train(paper, recipe, data, f"{work}/cut", worker=LocalWorker("cpu", f"{work}/cut", cut))
except PowerCutError:
    pass
resumed = train(paper, recipe, data, f"{work}/cut", worker=LocalWorker("cpu", f"{work}/cut"))
assert len(resumed["history"]) == 2
step("state of a training")
labelled = load_labelled(data, meta.preprocessing, meta.classes)
load(f"{work}/cut/split.json", labelled, ("training", "validation", "test"))
step("labelled images and their split")
initial = config.override(recipe, [f"initial={work}/cut", f"teacher={work}/cut", "loss.distil=0.5"])
train(paper, initial, data, f"{work}/next", worker=LocalWorker())
step("initial weights and teacher")
for _ in range(2):
    found = run_grid(
        paper, "rates", data, f"{work}/tune", lambda: nullcontext(Here()), settings=quick, folds=2
    )
assert (found["ran"], found["kept"]) == (0, 2)
step("tune, resumed")
score = ["score", store, "--checkpoint", ckpt, "--out", f"{work}/run", "--local", "--workers", "1"]
command(*score)
command(*score)
command("report", f"{work}/run")
step("score, resumed, and report")
command("evaluate", ckpt, "--data", data)
step("evaluate")
print(json.dumps(steps))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    synth_crops(folder, patients=6, crops=10, seed=11, fractions=0.5, workers=1)
    return folder


def test_no_module_can_unpickle():
    """By their text: no import of a pickler, no call of a library's own."""
    root = Path(fertiray.__file__).parent
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            for name in names:
                assert name not in READERS, f"{file.relative_to(root)}:{node.lineno}: {name}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False"


def test_no_load_unpickles(data, zona_checkpoint, tmp_path):
    store = str(tmp_path / "store")
    ingest(str(data), store)
    arguments = [str(data), zona_checkpoint, store, str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", LOADS, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout.splitlines()[-1])
    assert len(steps) == 9
    assert steps == {name: [] for name in steps}


def test_the_hook_hears_a_pickle():
    """The test above would be worth nothing if it heard nothing."""
    head = LOADS.partition("import dataclasses")[0]
    code = "import io, collections\nheard.clear()\n"
    named = pickle.dumps(__import__("collections").OrderedDict(a=1))
    for reader in (f"pickle.loads({named!r})", f"pickle.Unpickler(io.BytesIO({named!r})).load()"):
        done = subprocess.run(
            [sys.executable, "-c", f"{head}{code}{reader}\nprint(heard)"],
            capture_output=True,
            text=True,
        )
        assert "pickle.find_class" in done.stdout, done.stderr


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.write_text, (self.place, "run"))


FILES = (
    *("weights.safetensors", "ood.safetensors", "meta.json"),
    *("split.json", "training.safetensors"),
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_in_place_of_a_file_is_refused(
    name, kind, data, zona_checkpoint, tmp_path, monkeypatch, capfd
):
    """Named in the description by its right digest, as somebody who means harm would."""
    import torch

    marker, folder = tmp_path / "marker", tmp_path / "ckpt"
    shutil.copytree(zona_checkpoint, folder)
    if kind == "pickle":
        (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    else:
        torch.save({"x": Evil(marker)}, folder / name)
    meta = json.loads((Path(zona_checkpoint) / "meta.json").read_text())
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    key = {"weights.safetensors": "weights_sha256", "ood.safetensors": "ood_sha256"}.get(name)
    if key:
        (folder / "meta.json").write_text(json.dumps({**meta, key: digest}))
    train = ["train", "zona_vgg13", "--model", "basic_cnn", "--data", str(data)]
    command = {
        "split.json": ["evaluate", str(folder), "--data", str(data)],
        "training.safetensors": [*train, "--out", str(folder)],
    }.get(name, ["export", str(folder), "--out", str(tmp_path / "x.pt2")])
    if name == "ood.safetensors":
        command = ["evaluate", str(folder), "--data", str(data)]
    with pytest.raises(SystemExit) as ended:
        main(command)
    said = capfd.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert name in said[-1] or "meta.json" in said[-1]
    assert not marker.exists()


def test_a_pickle_in_place_of_pretrained_weights_is_refused(tmp_path, monkeypatch):
    import torch

    from fertiray.errors import InputError
    from fertiray.models.weights import backbone

    torch.save({"x": Evil(tmp_path / "marker")}, tmp_path / "resnet34.safetensors")
    monkeypatch.setenv("FERTIRAY_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"resnet34\.safetensors"):
        backbone("resnet34", 2, pretrained=True)
    assert not (tmp_path / "marker").exists()
    assert checkpoint.WEIGHTS.endswith(".safetensors")
