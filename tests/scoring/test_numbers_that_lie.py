"""Numbers that look like an answer and are none: refused or flagged, never part of a result."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from fertiray import checkpoint
from fertiray.data.crops import StoreWriter, crop_id
from fertiray.data.images import decode, encode_png
from fertiray.data.labelled import load_labelled
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.models.predict import Predictor
from fertiray.models.preprocess import Preprocessing
from fertiray.papers import PAPERS
from fertiray.scoring.run import score
from fertiray.scoring.scorer import Scorer
from fertiray.scoring.shards import ScoringJob, score_locally
from fertiray.training.evaluate import evaluate
from fertiray.training.start import starting_point

Pixels = np.ndarray


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> list[Pixels]:
    """Sixty heads drawn as those that ``zona_checkpoint`` has learned from, of another man."""
    folder = tmp_path_factory.mktemp("crops") / "data"
    synth_crops(folder, patients=1, crops=60, seed=12, fractions=0.5, workers=1)
    return [decode(path.read_bytes()) for path in sorted(folder.rglob("*.png"))]


def scored(folder: Path, zona: str, patients: dict[str, list[Pixels]]) -> tuple[pl.DataFrame, dict]:
    """Patients' rows by patient, and the run's counts."""
    with StoreWriter(str(folder / "store")) as writer:
        for patient, images in patients.items():
            for number, image in enumerate(images):
                writer.add(
                    {
                        "patient_id": patient,
                        "slide_id": "S1",
                        "crop_id": crop_id(f"{number:016}", patient),
                        "image": encode_png(image),
                    }
                )
    job = ScoringJob(str(folder / "store"), (zona,), str(folder / "run"), engine="eager")
    counts = score(job, score_locally, workers=1)
    return pl.read_parquet(folder / "run" / "patients.parquet"), counts


class Says(nn.Module):
    """A network that has fixed logits for each crop, whatever is on it."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[: len(x)]


INF, NAN = float("inf"), float("nan")
LIES = [[NAN, 0.0], [0.0, NAN], [INF, 0.0], [INF, INF], [-INF, 0.0], [0.0, -INF], [-INF, -INF]]


def test_no_logit_that_is_not_finite_becomes_a_probability():
    """Softmax of [-inf, 0] is [0, 1]: as sure as can be."""
    preprocessing = Preprocessing(8, "grey", mean=(0.5,), std=(0.5,))
    rows = [*LIES, [1e30, -1e30], [0.0, 0.0]]
    for views in ("one", "flip"):
        found = Predictor(Says(rows), preprocessing, views=views, temperatures={"class": 2.0})(
            np.zeros((len(rows), 8, 8, 3), np.uint8)
        )
        assert np.isnan(found[: len(LIES)]).all()
        # Tempering keeps a probability off 0 and 1.
        assert found[len(LIES) :] == pytest.approx(np.array([[1, 0], [0.5, 0.5]]), abs=1e-3)


def test_such_crops_are_rejects_with_a_reason_and_no_part_of_their_patient(
    zona_checkpoint, crops, tmp_path, monkeypatch
):
    """One crop in three; the fraction is that of the others, counted by hand."""
    real = Predictor.predict

    def lying(self: Predictor, images: Pixels):
        found = real(self, images)
        found.probabilities["class"][::3] = NAN
        return found

    honest, _ = scored(tmp_path / "a", zona_checkpoint, {"P1": crops})
    scorer = Scorer.from_checkpoint(zona_checkpoint)
    labels = scorer(crops).models[0].labels
    kept = [label for place, label in enumerate(labels) if place % 3]
    monkeypatch.setattr(Predictor, "predict", lying)
    patients, counts = scored(tmp_path / "b", zona_checkpoint, {"P1": crops})
    assert (counts["rows_in"], counts["scored"], counts["rejected"]) == (60, 40, 20)
    row = patients.row(0, named=True)
    assert (row["n_scored"], row["n_rejected"]) == (40, 20)
    assert row["n_positive"] == sum(kept)
    assert honest.row(0, named=True)["n_scored"] == 60
    rejects = pl.read_parquet(tmp_path / "b" / "run" / "rejects")
    assert rejects["error"].str.starts_with("not_finite: ").all()
    assert set(rejects["stage"]) == {"score"}


def test_blank_crops_are_no_result(zona_checkpoint, crops, tmp_path):
    """A network is often sure of a white square; a man with nothing else gets no verdict."""
    blank = [np.full((64, 64, 3), level, np.uint8) for level in (0, 128, 255)]
    blank.append(np.broadcast_to(np.array([225, 222, 230], np.uint8), (50, 40, 3)).copy())
    alone = Scorer.from_checkpoint(zona_checkpoint)([*blank, crops[0]])
    assert alone.stages == ("score",) * 4 + (None,)
    assert all(error.startswith("blank: ") for error in alone.errors[:4])
    assert np.isnan(alone.models[0].probabilities[:4]).all()
    patients, counts = scored(tmp_path, zona_checkpoint, {"P1": [*crops, *blank], "P2": 5 * blank})
    assert (counts["scored"], counts["rejected"]) == (60, 24)
    first, second = patients.sort("patient_id").to_dicts()
    assert (first["n_scored"], first["n_rejected"]) == (60, 4)
    assert (second["n_scored"], second["n_rejected"], second["verdict"]) == (0, 20, "no result")
    assert second["fraction"] is None


def test_one_pixel_is_enough_not_to_be_blank(zona_checkpoint):
    """Wherever it is: a few pixels are looked at first, then all."""
    scorer = Scorer.from_checkpoint(zona_checkpoint)
    for place in ((0, 0, 0), (63, 62, 2), (16, 16, 1), (7, 40, 0)):
        image = np.full((64, 64, 3), 128, np.uint8)
        image[place] = 129
        assert scorer([image]).stages == (None,)
    assert scorer([np.full((1, 1, 3), 9, np.uint8)]).stages == ("score",)


def grey(image: Pixels) -> Pixels:
    return np.repeat((image @ [0.299, 0.587, 0.114]).astype(np.uint8)[..., None], 3, 2)


def scaled(image: Pixels) -> Pixels:
    """Divided by 255 once too often, and written as uint8."""
    return np.rint(image / 255).astype(np.uint8)


def standardised(image: Pixels) -> Pixels:
    """ImageNet's normalisation done once too often, and what is below nought cut off."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return np.clip(255 * (image / 255 - mean) / std, 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "grey": grey,
    "divided by 255": scaled,
    "normalised twice": standardised,
    "inverted": lambda image: 255 - image,
    "another stain": lambda image: np.ascontiguousarray(image[..., ::-1]),
}


def test_another_look_is_flagged_in_the_patients_row(zona_checkpoint, crops, tmp_path):
    """By the detector: 5% of the training's own kind are above 1, by its definition."""
    patients = {"own": crops, **{name: [*map(to, crops)] for name, to in CHANGES.items()}}
    rows, _ = scored(tmp_path, zona_checkpoint, patients)
    unlike = dict(rows.select("patient_id", "unlike_fraction").iter_rows())
    assert unlike.pop("own") < 0.25
    # What is left of a crop after the division is blank or nearly so: flagged, or no result.
    unlike = {name: 1.0 if share is None else share for name, share in unlike.items()}
    assert min(unlike.values()) > 0.9, unlike
    page = (tmp_path / "run" / "report.html").read_text()
    assert "look unlike those the network was trained on" in page


def test_an_order_of_classes_is_kept_by_name(zona_checkpoint, tmp_path):
    """The data's folders sort the other way round, and the numbers are the same."""
    data = tmp_path / "data"
    synth_crops(data, patients=6, crops=60, seed=11, fractions=0.5, workers=1)
    named = evaluate(zona_checkpoint, str(data), split="all")
    swapped = tmp_path / "swapped"
    lines = (data / "labels.csv").read_text().splitlines()
    shutil.copytree(data, swapped)
    (swapped / "labels.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    again = evaluate(zona_checkpoint, str(swapped), split="all")
    assert again["confusion"] == named["confusion"]
    assert named["accuracy"] > 0.9  # with the classes swapped it would be below 0.1
    known = load_labelled(str(data), Preprocessing(32), ("bound", "unbound"))
    ours = load_labelled(str(data), Preprocessing(32), ("unbound", "bound"))
    assert (known.labels == 1 - ours.labels).all()


def test_a_checkpoint_whose_classes_were_swapped_is_refused(zona_checkpoint, tmp_path):
    folder = tmp_path / "zona"
    shutil.copytree(zona_checkpoint, folder)
    meta = json.loads((folder / "meta.json").read_text())
    for changes in ({"classes": meta["classes"][::-1]}, {"positive": "unbound"}):
        (folder / "meta.json").write_text(json.dumps({**meta, **changes}))
        with pytest.raises(InputError, match="altered after it was saved"):
            Scorer.from_checkpoint(str(folder))


def other_paper(zona: str, folder: Path, **changes) -> str:
    """The network of a zona checkpoint under another paper's description."""
    model, meta = checkpoint.load(zona)
    checkpoint.save(str(folder), model, dataclasses.replace(meta, **changes))
    return str(folder)


EMBRYO = {
    "paper": "embryo_msres",
    "task": "viability",
    "classes": ("poor", "good"),
    "positive": "good",
}


def test_a_checkpoint_of_another_paper_gives_no_patients(zona_checkpoint, crops, tmp_path):
    embryo = other_paper(zona_checkpoint, tmp_path / "embryo", **EMBRYO)
    with pytest.raises(InputError, match="task 'viability' has no patient result"):
        scored(tmp_path, embryo, {"P1": crops})
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_paper_is_not_measured_on_these_classes(zona_checkpoint, tmp_path):
    data = tmp_path / "data"
    synth_crops(data, patients=2, crops=10, seed=1, fractions=0.5, workers=1)
    embryo = other_paper(zona_checkpoint, tmp_path / "embryo", **EMBRYO)
    with pytest.raises(InputError, match=r"has the classes bound, unbound, but .* knows poor, go"):
        evaluate(embryo, str(data))


def test_a_teacher_of_another_order_or_paper_is_refused(zona_checkpoint, tmp_path):
    _, meta = checkpoint.load(zona_checkpoint)
    recipe = dataclasses.replace(
        PAPERS["zona_vgg13"].config("basic_cnn"),
        preprocessing=meta.preprocessing,
        teacher=zona_checkpoint,
    )
    assert starting_point(recipe, ("unbound", "bound")).teacher is not None
    for classes in (("bound", "unbound"), ("poor", "good")):
        with pytest.raises(InputError, match="its classes are unbound, bound"):
            starting_point(recipe, classes)
