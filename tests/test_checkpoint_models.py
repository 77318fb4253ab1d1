"""Checkpoints of every kind of network: multi-task, with a card, with settled arguments."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fertiray import checkpoint
from fertiray.errors import InputError
from fertiray.models import build_model
from fertiray.models.preprocess import Preprocessing

META = checkpoint.Meta(
    name="tiny",
    paper="zona_vgg13",
    model="basic_cnn",
    task="zona",
    classes=("unbound", "bound"),
    positive="bound",
    preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.5,)),
    operating=checkpoint.Operating(0.5, 0.9, 0.95, 40, 60),
    metrics={"accuracy": 0.93, "n_validation": 100},
    data_digest="d" * 16,
    provenance={"commit": "c" * 40, "versions": {"torch": "2.15.0"}},
)
RGB = Preprocessing(28)
GRADING = dataclasses.replace(
    META,
    paper="blastocyst_memebg",
    model="memebg",
    task="grading",
    classes=("0", "1", "2"),
    positive="2",
    tasks={"EXP": ("0", "1", "2"), "ICM": ("A", "B"), "TE": ("A", "B")},
    preprocessing=RGB,
)


def network(meta=META, **args):
    return build_model(
        meta.model,
        len(meta.classes),
        in_channels=meta.preprocessing.channels,
        size=meta.preprocessing.size,
        args=args,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.save(str(tmp_path), network(), META)
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))


def replace_weights(folder: Path, change, metadata="keep") -> None:
    """Other weights under a digest that fits them: what only the second check can notice."""
    path = folder / "weights.safetensors"
    with safe_open(path, "pt") as file:
        copy = file.metadata()
    state = load_file(path)
    change(state)
    save_file(state, path, copy if metadata == "keep" else None)
    rewrite(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"operating": {**dataclasses.asdict(META.operating), "threshold": 0.1}},
            r"meta.json: altered after it was saved: operating.threshold is 0.1, saved as 0.5",
        ),
        ({"positive": "unbound"}, "positive is 'unbound', saved as 'bound'"),
        ({"classes": ["bound", "unbound"]}, r"classes is \['bound', 'unbound'\], saved as"),
        (
            {"preprocessing": {**dataclasses.asdict(META.preprocessing), "std": [0.25]}},
            r"preprocessing.std is \[0.25\], saved as \[0.5\]",
        ),
    ],
)
def test_an_edited_description_says_what_differs(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(InputError, match=message):
        checkpoint.load(str(folder))


def test_weights_that_are_not_finite_are_refused(folder, tmp_path):
    def spoil(state):
        state["conv2.weight"][0, 0, 0, 0] = float("nan")

    replace_weights(folder, spoil)
    with pytest.raises(InputError, match=r"conv2.weight holds NaN or infinity: the training"):
        checkpoint.load(str(folder))
    model = network()
    spoil(model.state_dict())
    with pytest.raises(InputError, match="diverged"):
        checkpoint.save(str(tmp_path / "new"), model, META)
    assert not (tmp_path / "new").exists()


def test_weights_without_their_description_are_refused(folder):
    replace_weights(folder, lambda state: None, metadata="drop")
    with pytest.raises(InputError, match=r"carries no copy of meta.json"):
        checkpoint.load(str(folder))


def test_the_card_is_written_beside(folder):
    card = (folder / "README.md").read_text()
    for expected in (
        "# tiny",
        "not a medical device",
        "`basic_cnn`",
        "`zona_vgg13`",
        "unbound, bound",
        "| threshold | 0.5 |",
        "| sensitivity | 90.0% of 40 |",
        "| specificity | 95.0% of 60 |",
        "| accuracy | 0.93 |",
        "| parameters | 52,610 |",  # 25 * 32 + 32, 800 * 64 + 64, 256 * 2 + 2
        "torch 2.15.0",
        json.loads((folder / "meta.json").read_text())["weights_sha256"],
    ):
        assert expected in card


def test_loading_needs_no_card(folder):
    (folder / "README.md").unlink()
    assert checkpoint.load(str(folder))[1] == checkpoint.read_meta(str(folder))


def test_a_multi_task_network_round_trips(tmp_path, monkeypatch):
    monkeypatch.delenv("FERTIRAY_WEIGHTS", raising=False)
    model = network(GRADING, pretrained=False).eval()
    checkpoint.save(str(tmp_path), model, GRADING)
    again, meta = checkpoint.load(str(tmp_path))
    assert meta.tasks == GRADING.tasks
    x = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = model(x), again(x)
    assert list(after) == ["EXP", "ICM", "TE"]
    assert all(torch.equal(before[task], after[task]) for task in after)
    assert "EXP: 0, 1, 2; ICM: A, B; TE: A, B" in (tmp_path / "README.md").read_text()


def test_a_task_can_be_added_to_a_loaded_network(tmp_path):
    one = dataclasses.replace(GRADING, tasks={"EXP": ("0", "1", "2")})
    checkpoint.save(str(tmp_path / "one"), network(one, tasks={"EXP": 3}, pretrained=False), one)
    model, meta = checkpoint.load(str(tmp_path / "one"))
    model.add_task("TE", 2)
    more = dataclasses.replace(meta, tasks={**meta.tasks, "TE": ("A", "B")})
    checkpoint.save(str(tmp_path / "two"), model, more)
    again, _ = checkpoint.load(str(tmp_path / "two"))
    assert list(again.heads) == ["EXP", "TE"]


def test_classes_are_those_of_the_first_task():
    with pytest.raises(ValueError, match="not those of the first"):
        dataclasses.replace(GRADING, classes=("A", "B"), positive="A")


def test_what_the_weights_settled_is_stored(tmp_path):
    """A ResNet-50 v1 rebuilt as v1.5 would load and silently say something else."""
    meta = dataclasses.replace(META, model="resnet50", preprocessing=Preprocessing(64))
    model = network(meta, pretrained=False, stride_v1=True).eval()
    saved = checkpoint.save(str(tmp_path), model, meta)
    assert saved.model_args == {"stride_v1": True}
    again, _ = checkpoint.load(str(tmp_path))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
