"""Settings, checkpoints and tables that nobody has vouched for: exit 2 and one line, no more."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fertiray.cli import main
from fertiray.data.ingest import ingest
from fertiray.training.state import pack

QUICK = ["--set", "epochs=1", "--set", "batch_size=8", "--set", "preprocessing.size=32"]
PROGRESS = re.compile(r"(scoring|ingesting|segmenting|drawing|tuning|epoch)\b.*")
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twenty patients with a dark disc each, small or large."""
    folder = tmp_path_factory.mktemp("data") / "set"
    rng = np.random.default_rng(0)
    rows = ["image,label,patient_id"]
    for number in range(40):
        image = rng.integers(180, 220, (32, 32, 3)).astype(np.uint8)
        cv2.circle(image, (16, 16), 5 + 5 * (number % 2), (60, 60, 60), -1)
        place = folder / f"P{number // 2:02}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), image)
        label = ("unbound", "bound")[number % 2]
        rows.append(f"{place.relative_to(folder)},{label},P{number // 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory) -> Path:
    """A folder with a checkpoint, a store and a run."""
    folder = tmp_path_factory.mktemp("made")
    train = ["train", "zona_vgg13", "--model", "basic_cnn", "--data", str(data)]
    for command in (
        [*train, "--out", str(folder / "ckpt"), *QUICK],
        ["ingest", str(data), "--out", str(folder / "store")],
        [
            *("score", str(folder / "store"), "--checkpoint", str(folder / "ckpt")),
            *("--out", str(folder / "run"), "--local"),
        ],
    ):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0
    return folder


Refused = Callable[..., str]


@pytest.fixture
def refused(capfd, monkeypatch) -> Refused:
    """Runs a command that must end with code 2 and one line; returns the line."""

    monkeypatch.setattr("sys.argv", ["fertiray"])

    def run(*arguments: str | Path) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        lines = [line for line in said.err.splitlines() if not PROGRESS.match(line)]
        assert len(lines) == 1, said.err
        assert "fertiray" in lines[0], said.err
        assert ended.value.code == 2
        assert said.out == ""
        return lines[0]

    return run


SETTINGS = [
    *("epocs=3", "loss.gama=1", "lr.x=1", "model_args=3", "epochs", "=3", ".=1", "loss=focal"),
    *("epochs=many", "epochs=1.5", "epochs=null", "epochs=[1]", "lr=fast", "lr={}"),
    *("amp=true", "model=3", "model=resnet9000", "frozen=layer1", "keep=best", "precision=fp8"),
    *("epochs=0", "epochs=-1", "batch_size=0", "lr=0", "lr=-1", "seed=-1", "patience=0"),
    *("weight_decay=-1", "clip=0", "clip=-1", "augmentation.noise=-1", "augmentation.mixup=-1"),
    *("augmentation.rotation=-5", "augmentation.gamma=[2,1]", "augmentation.blur=2"),
    *("preprocessing.size=0", "preprocessing.size=-32", "preprocessing.size=1000000"),
    *("preprocessing.window=0", "preprocessing.window=2", "preprocessing.std=[0]"),
    *("preprocessing.mean=[]", "preprocessing.colour=cmyk", "validation=0", "validation=1"),
    *("test=0.9", "threshold=2", "ema=1", "accumulate=99", "freeze_epochs=7", "loss.margin=-1"),
    *("lr=NaN", "lr=Infinity", "lr=nan", "lr=inf", "lr=1e999", "weight_decay=NaN", "clip=inf"),
    *("head_lr=nan", "loss.gamma=nan", "loss.temperature=nan", "loss.harc_weight=Infinity"),
    *("loss.class_weights=[NaN,1]", "loss.class_weights=[1,2,3]", "loss.class_weights=[-1,1]"),
    *("preprocessing.mean=[NaN]", "preprocessing.std=[nan]", "preprocessing.std=[Infinity]"),
    *("augmentation.rotation=NaN", "augmentation.gamma=[NaN,1]", "threshold=nan", "ema=NaN"),
    *("task=../x", "initial=../../etc", "initial=/etc/passwd", "teacher=/dev/null", "model=../x"),
    *('initial="a\\u0000b"', 'model_args={"pretrained":[]}', 'model_args={"a\\u0000":1}'),
    *(f"seed={2**70}", f"model_args={DEEP}", f"epochs={'9' * 5000}"),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda text: text[:40])
def test_a_hostile_setting_is_one_line(refused, data, tmp_path, setting):
    train = ["train", "zona_vgg13", "--model", "basic_cnn", "--data", data, "--out", tmp_path / "o"]
    line = refused(*train, *QUICK, "--set", setting)
    key, _, value = setting.partition("=")
    named = ("--set", key.rpartition(".")[2], value, "checkpoint")
    assert any(name in line for name in named if name)
    assert not (tmp_path / "o" / "meta.json").exists()


COMMANDS = [
    "train zona_vgg13 --data {data} --out {tmp}/o --sed 3",
    "train ../zona --data {data} --out {tmp}/o",
    "train zona_vgg13 --model ../x --data {data} --out {tmp}/o",
    "train zona_vgg13 --model basic_cnn --data {data} --out {tmp}/o --device warp",
    "train zona_vgg13 --model basic_cnn --data {data} --out {tmp}/o --device meta",
    "train zona_vgg13 --model basic_cnn --data {data} --out {tmp}/o --split {data}/labels.csv",
    "train zona_vgg13 --model basic_cnn --data {data} --out {tmp}/o --split /nowhere",
    "train zona_vgg13 --model basic_cnn --data {data} --out {data}/labels.csv/x",
    "train zona_vgg13 --model basic_cnn --data {data} --out {tmp}/o --config {data}/labels.csv",
    "train zona_vgg13 --model basic_cnn --data ftp://x/y --out {tmp}/o",
    "train zona_vgg13 --model basic_cnn --data {data}/labels.csv --out {tmp}/o",
    "evaluate {made}/ckpt --data {data} --split tset",
    "evaluate {data} --data {data}",
    "evaluate {made}/ckpt/meta.json --data {data}",
    "evaluate {made}/ckpt --data {data} --device warp",
    "crossval zona_vgg13 --model basic_cnn --data {data} --folds 1",
    "crossval zona_vgg13 --model basic_cnn --data {data} --folds 1000",
    "crossval zona_vgg13 --model basic_cnn --data {data} --folds -2",
    "crossval zona_vgg13 --model basic_cnn --data {data} --seed -1",
    "crossval zona_vgg13 --model basic_cnn --data {data} --seed 99999999999",
    "tune zona_vgg13 --data {data} --local",
    "tune zona_vgg13 --data {data} --grid ../x --local --out {tmp}/o",
    "tune zona_vgg13 --data {data} --search ../x --out {tmp}/o",
    "tune zona_vgg13 --data {data} --search nothing --trials 0 --out {tmp}/o",
    "tune zona_vgg13 --data {data} --grid models --set epochs=nan --local --out {tmp}/o",
    "tune zona_vgg13 --data {data} --grid models --seed -1 --local --out {tmp}/o",
    "tune ../x --data {data} --grid models --local --out {tmp}/o",
    "score {made}/store --checkpoint {made}/ckpt --out {tmp}/r --local --engine warp",
    "score {made}/store --checkpoint {made}/ckpt --out {tmp}/r --local --device warp",
    "score {made}/store --checkpoint {made}/ckpt --out {tmp}/r --local --workers 0",
    "score {made}/store --checkpoint {made}/ckpt --out {tmp}/r --local --workers many",
    "score {made}/store --checkpoint {made}/ckpt --out {tmp}/r --local --adaptive --alpha nan",
    "score {made}/store --checkpoint {made}/ckpt --out {tmp}/r --local --adaptive --beta 1",
    "score {made}/store --checkpoint {made}/ckpt --out {tmp}/r --local --verdict-on mood",
    "score {made}/store --checkpoint {made}/ckpt --checkpoint {made}/ckpt --out {tmp}/r --local",
    "score {made}/store --checkpoint {made}/store --out {tmp}/r --local",
    "score {data} --checkpoint {made}/ckpt --out {tmp}/r --local",
    "score {made}/store --checkpoint {made}/ckpt --out {data}/labels.csv/r --local",
    "ingest {data} --out {data}/inside",
    "ingest {data} --out {tmp}/s --group-by (",
    "ingest {data}/labels.csv --out {tmp}/s",
    "segment {data} --out {tmp}/s --head-length nan",
    "segment {data} --out {tmp}/s --head-length -3",
    "segment {data} --out {tmp}/s --head-length inf",
    "data synth --out {tmp}/d --patients -1 --crops 3",
    "data synth --out {tmp}/d --patients 1 --crops 0",
    "data synth --out {tmp}/d --patients 1 --crops 3 --fraction nan",
    "data synth --out {tmp}/d --patients 1 --crops 3 --fraction 1.5",
    "data synth --out {tmp}/d --patients 1 --crops 3 --seed -1",
    "data check {data} --paper ../x",
    "report {data}",
    "report paper ../x",
    "explain {made}/ckpt {data} --method magic --out {tmp}/e",
    "explain {data} {data} --method gradcam --out {tmp}/e",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens /nowhere/tokens --local",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {data}/labels.csv --local",
    "serve --checkpoint {data} --state {tmp}/s --tokens {tokens} --local",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {tokens} --local --port 99999",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {tokens} --local --port -1",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {tokens} --local --host no.such.host",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {tokens} --local --open /v1/jobs",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {tokens} --local --allow clinic",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {tokens} --local --tls-cert /x",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {tokens} --local --engine warp",
    "serve --checkpoint {made}/ckpt --state {tmp}/s --tokens {tokens} --local --device warp",
    "serve --checkpoint {made}/ckpt --state {data}/labels.csv --tokens {tokens} --local",
    "token add --clinic ../x --tokens {tmp}/t",
    "token add --clinic lab --days nan --tokens {tmp}/t",
    "token add --clinic lab --days -1 --tokens {tmp}/t",
    "token add --clinic lab --tokens {data}/labels.csv",
    "token revoke ../x --tokens {tokens}",
    "export {made}/ckpt --out {data}/labels.csv/x.pt2",
]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    from fertiray.serving.tokens import add

    file = tmp_path_factory.mktemp("tokens") / "tokens.json"
    add(file, "lab")
    return file


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_argument_is_one_line(refused, data, made, tokens, tmp_path, command):
    filled = command.format(data=data, made=made, tmp=tmp_path, tokens=tokens)
    refused(*filled.split())


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A JSON file with one thing changed."""
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def at(path: str, value: Any) -> Callable[[Path], None]:
    """Sets a dotted key of ``meta.json``."""

    def change(folder: Path) -> None:
        def put(values: dict[str, Any]) -> None:
            *parents, last = path.split(".")
            for parent in parents:
                values = values[parent]
            values[last] = value

        rewrite(folder / "meta.json", put)

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def resealed(folder: Path, weights: bytes) -> None:
    """Other weights under the digest that fits them, as somebody who knows the format would."""
    (folder / "weights.safetensors").write_bytes(weights)
    at("weights_sha256", hashlib.sha256(weights).hexdigest())(folder)


def with_copy(copy: str | None) -> Callable[[Path], None]:
    """The same weights with another copy of their description."""

    def change(folder: Path) -> None:
        place = folder / "weights.safetensors"
        save_file(load_file(place), place, {} if copy is None else {"meta.json": copy})
        resealed(folder, place.read_bytes())

    return change


def renamed_tensor(folder: Path) -> None:
    place = folder / "weights.safetensors"
    with safe_open(place, "pt") as opened:
        about = opened.metadata()
    state = load_file(place)
    state["../evil"] = state.pop(next(iter(state)))
    save_file(state, place, about)
    resealed(folder, place.read_bytes())


def header(length: int, text: bytes) -> Callable[[Path], None]:
    return lambda folder: resealed(folder, length.to_bytes(8, "little") + text)


CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "unknown key": at("weigths", 1),
    "unknown inner key": at("preprocessing.sise", 1),
    "no number": at("operating.threshold", "half"),
    "NaN threshold": at("operating.threshold", float("nan")),
    "infinite threshold": at("operating.threshold", float("inf")),
    "NaN sensitivity": at("operating.sensitivity", float("nan")),
    "NaN mean": at("preprocessing.mean", [float("nan")] * 3),
    "NaN metric": at("metrics.accuracy", float("nan")),
    "negative size": at("preprocessing.size", -64),
    "huge size": at("preprocessing.size", 10**9),
    "huge number": at("preprocessing.size", 10**400),
    "negative counts": at("operating.n_positive", -5),
    "other threshold": at("operating.threshold", 0.01),
    "other sensitivity": at("operating.sensitivity", 0.5),
    "classes swapped": at("classes", ["bound", "unbound"]),
    "classes of another type": at("classes", "bound"),
    "a class twice": at("classes", ["bound", "bound"]),
    "other task": at("task", "morphology"),
    "unknown task": at("task", "../x"),
    "other model": at("model", "simple_cnn"),
    "a path for a model": at("model", "../../evil"),
    "arguments": at("model_args", {"pretrained": True}),
    "arguments of another type": at("model_args", [1]),
    "temperature": at("temperatures", {"class": -1}),
    "NUL in the name": at("name", "a\0b"),
    "a path for a name": at("name", "../../evil"),
    "format": at("format", 99),
    "no digest": at("weights_sha256", None),
    "other detector": at("ood_sha256", "0" * 64),
    "no detector": at("ood_sha256", ""),
    "empty meta": written("meta.json", b""),
    "meta is a list": written("meta.json", b"[]"),
    "meta is no text": written("meta.json", bytes(range(256))),
    "meta is deep": written("meta.json", DEEP.encode()),
    "empty weights": written("weights.safetensors", b""),
    "weights without header": lambda folder: resealed(folder, b""),
    "header beyond the file": header(2**63 - 1, b"{}"),
    "header that is no JSON": header(4, b"{{{{"),
    "header that is deep": header(len(DEEP), DEEP.encode()),
    "offsets beyond the file": header(
        67, b'{"a":{"dtype":"F32","shape":[999999999],"data_offsets":[0,9999999]}}'[:67]
    ),
    "no copy": with_copy(None),
    "a copy that is no JSON": with_copy("{"),
    "a copy that is a list": with_copy("[]"),
    "a copy that is deep": with_copy(DEEP),
    "a tensor of another name": renamed_tensor,
    "detector gone": lambda folder: (folder / "ood.safetensors").unlink(),
    "detector empty": written("ood.safetensors", b""),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_tampered_checkpoint_is_one_line(refused, made, tmp_path, name):
    shutil.copytree(made / "ckpt", tmp_path / "ckpt")
    CHECKPOINTS[name](tmp_path / "ckpt")
    run = ["--checkpoint", tmp_path / "ckpt", "--out", tmp_path / "run", "--local"]
    line = refused("score", made / "store", *run)
    assert str(tmp_path) in line
    assert not (tmp_path / "run" / "scores").exists()


SPLITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no digests": lambda split: split.pop("digests"),
    "no training part": lambda split: split["digests"].pop("training"),
    "a part is a number": lambda split: split["digests"].update(training=3),
    "lists of different lengths": lambda split: split["names"]["training"].pop(),
    "a digest is a list": lambda split: split["digests"]["training"].append([]),
    "digests of nothing": lambda split: split.update(digests={}),
    "another kind": lambda split: split.update(kind="recipe"),
    "other images": lambda split: split["digests"].update(
        training=["0" * 32 for _ in split["digests"]["training"]]
    ),
    "names are paths": lambda split: split["names"].update(
        training=["../../etc/passwd" for _ in split["names"]["training"]], test=None
    ),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_tampered_split_is_one_line(refused, data, made, tmp_path, name):
    shutil.copytree(made / "ckpt", tmp_path / "ckpt")
    rewrite(tmp_path / "ckpt" / "split.json", SPLITS[name])
    split = tmp_path / "ckpt" / "split.json"
    train = ["train", "zona_vgg13", "--model", "basic_cnn", "--data", data, "--split", split]
    assert "split.json" in refused(*train, "--out", tmp_path / "again", *QUICK)
    if name not in ("another kind",):
        line = refused("evaluate", tmp_path / "ckpt", "--data", data, "--split", "validation")
        assert "split.json" in line


TABLES = {
    "no columns": b"",
    "only a header": b"image,label\n",
    "other columns": b"file,grade\na.png,bound\n",
    "another class": b"image,label\nP00/0.png,Tapered\nP00/1.png,bound\n",
    "one class": b"image,label\nP00/0.png,bound\nP00/1.png,bound\n",
    "none of the images": b"image,label\nx.png,bound\ny.png,unbound\n",
    "paths that lead out": b"image,label\n../outside.png,bound\nP00/0.png,unbound\n",
    "NUL in a name": b"image,label\nP00/\0.png,bound\nP00/0.png,unbound\n",
    "no text": bytes(range(256)) * 20,
    "a field without an end": b'image,label\n"' + 200_000 * b"x",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_hostile_table_is_one_line(refused, data, tmp_path, name):
    shutil.copytree(data, tmp_path / "set")
    shutil.copy(data / "P00" / "1.png", tmp_path / "outside.png")
    (tmp_path / "set" / "labels.csv").write_bytes(TABLES[name])
    train = ["train", "zona_vgg13", "--model", "basic_cnn", "--data", tmp_path / "set"]
    line = refused(*train, "--out", tmp_path / "o", *QUICK)
    assert str(tmp_path / "set") in line


STATES = {
    "empty": b"",
    "bytes": b"\x80\x04pickle" * 9,
    "of nothing": pack({}),
    "a list": pack({"identity": 3, "epoch": "x"}).replace(b'{\\"dict\\"', b'{\\"list\\"'),
    "a number": pack({}).replace(b'{\\"dict\\": []}', b"3" + 13 * b" "),
    "deep": pack({"x": "y" * 199_996}).replace(
        b'\\"' + b"y" * 199_996 + b'\\"', b"[" * 100_000 + b"]" * 100_000
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_tampered_training_state_is_one_line(refused, data, tmp_path, name):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "training.safetensors").write_bytes(STATES[name])
    train = ["train", "zona_vgg13", "--model", "basic_cnn", "--data", data]
    line = refused(*train, "--out", tmp_path / "o", *QUICK)
    assert "delete" in line


RUNS = {
    "plan.json": (b"", b"[]", b"{", b'{"engines": 3}'),
    "run.json": (b"", b"[]", b"{}", DEEP.encode()),
    "patients.parquet": (b"", b"PAR1", bytes(500)),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_tampered_run_folder_is_one_line(refused, made, tmp_path, name):
    for number, content in enumerate(RUNS[name]):
        run = tmp_path / str(number)
        shutil.copytree(made / "run", run)
        (run / name).write_bytes(content)
        if name == "plan.json":
            line = refused(
                *("score", made / "store", "--checkpoint", made / "ckpt", "--out", run, "--local")
            )
        else:
            line = refused("report", run)
        assert str(run) in line


STORES = (b"", b"[]", b"{}", b'{"kind": "fertiray crop store"}', DEEP.encode())


@pytest.mark.parametrize("content", STORES, ids=lambda content: content.decode()[:20])
def test_a_tampered_store_is_one_line(refused, data, tmp_path, content):
    store = tmp_path / "store"
    ingest(str(data), str(store))
    (store / "store.json").write_bytes(content)
    assert "store.json" in refused("ingest", data, "--out", store)


def test_a_hostile_recipe_file_is_one_line(refused, data, tmp_path):
    for content in (b"", b"[]", b"{}", b'{"epochs": NaN}', b'{"model": 3}', DEEP.encode()):
        (tmp_path / "recipe.json").write_bytes(content)
        train = ["train", "zona_vgg13", "--data", data, "--config", tmp_path / "recipe.json"]
        assert "recipe.json" in refused(*train, "--out", tmp_path / "o")
