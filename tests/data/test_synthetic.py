"""Tests of synthetic cohorts on disk: counts, truth, determinism, mistakes."""

from __future__ import annotations

import csv
import json
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest

from fertiray.data.synthetic import design_fractions, synth_crops, synth_fields
from fertiray.errors import InputError

SMALL = {"size": (320, 256), "scale": 9.0, "heads_per_field": 4}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "crops"
    synth_crops(out, patients=2, crops=41, seed=5, fractions=[0.1, 0.5])
    return out


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort") / "fields"
    synth_fields(out, patients=2, crops=13, seed=5, fractions=[0.0, 0.4], **SMALL)
    return out


def test_crops_layout_and_truth(crops: Path) -> None:
    labels, truth = rows(crops / "labels.csv"), json.loads((crops / "truth.json").read_text())
    assert list(labels[0]) == ["image", "label", "patient_id", "slide_id"]
    on_disk = {str(path.relative_to(crops)) for path in crops.rglob("*.png")}
    assert {row["image"] for row in labels} == on_disk
    assert [p["patient_id"] for p in truth["patients"]] == ["P001", "P002"]
    for patient, bound in zip(truth["patients"], (4, 21), strict=True):  # 4.1 and 20.5 rounded
        own = [row for row in labels if row["patient_id"] == patient["patient_id"]]
        assert len(own) == patient["n"] == 41
        assert sum(row["label"] == "bound" for row in own) == patient["n_bound"] == bound
        assert patient["truth_bound_fraction"] == bound / 41
        slides = [row["slide_id"] for row in own]
        assert (slides.count("S1"), slides.count("S2")) == (20, 21)
    for row in labels:
        assert row["image"].startswith(f"{row['patient_id']}/{row['slide_id']}/crop-")
    image = cv2.imread(str(crops / labels[0]["image"]))
    assert image.shape == (128, 128, 3)


def test_fields_layout_and_truth(fields: Path) -> None:
    images, heads = rows(fields / "labels.csv"), rows(fields / "heads.csv")
    truth = json.loads((fields / "truth.json").read_text())
    assert list(images[0]) == ["image", "patient_id", "slide_id"]
    assert {row["image"] for row in images} == {
        str(path.relative_to(fields)) for path in fields.rglob("*.jpg")
    }
    # 13 heads on two slides: 6 and 7, in fields of at most 4
    counts = [sum(h["image"] == row["image"] for h in heads) for row in images]
    assert counts == [4, 2, 4, 3] * 2
    for patient, bound in zip(truth["patients"], (0, 5), strict=True):  # 0.4 x 13 = 5.2
        own = [head for head in heads if head["image"].startswith(patient["patient_id"])]
        assert len(own) == patient["n"] == 13
        assert sum(head["label"] == "bound" for head in own) == patient["n_bound"] == bound


def test_listed_heads_are_dark_in_the_pixels(fields: Path) -> None:
    for head in rows(fields / "heads.csv"):
        image = cv2.imread(str(fields / head["image"]), cv2.IMREAD_COLOR_RGB)
        x, y, length = float(head["cx"]), float(head["cy"]), float(head["length"])
        assert length / 2 < x < 320 - length / 2
        assert length / 2 < y < 256 - length / 2
        around = image[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3, 1]
        assert np.median(around) < 0.6 * np.median(image[..., 1])


def test_same_arguments_give_the_same_bytes_and_another_seed_does_not(
    crops: Path, fields: Path, tmp_path: Path
) -> None:
    synth_crops(tmp_path / "a", patients=2, crops=41, seed=5, fractions=[0.1, 0.5])
    assert digests(tmp_path / "a") == digests(crops)
    synth_crops(tmp_path / "b", patients=2, crops=41, seed=6, fractions=[0.1, 0.5])
    other = digests(tmp_path / "b")
    assert other.keys() == digests(crops).keys()
    assert not set(other.values()) & set(digests(crops).values())
    synth_fields(tmp_path / "c", patients=2, crops=13, seed=5, fractions=[0.0, 0.4], **SMALL)
    assert digests(tmp_path / "c") == digests(fields)


def test_workers_do_not_change_the_result(crops: Path, fields: Path, tmp_path: Path) -> None:
    synth_crops(tmp_path / "a", patients=2, crops=41, seed=5, fractions=[0.1, 0.5], workers=2)
    assert digests(tmp_path / "a") == digests(crops)


def test_one_file_per_task_is_reported_as_it_is_written(tmp_path: Path) -> None:
    """After every report exactly the images counted so far are on disk: nothing is held back."""
    seen = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total, len(list(tmp_path.rglob("*.jpg")))))

    synth_fields(tmp_path, patients=1, crops=12, slides=1, seed=1, progress=progress, **SMALL)
    assert seen == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]


def test_class_features_differ_as_stated(crops: Path) -> None:
    heads = rows(crops / "heads.csv")
    bound, unbound = (
        np.array([float(h["acrosome"]) for h in heads if h["label"] == label])
        for label in ("bound", "unbound")
    )
    assert bound.mean() == pytest.approx(0.46, abs=0.05)
    assert unbound.mean() == pytest.approx(0.26, abs=0.05)


def test_colour_does_not_tell_the_class(tmp_path: Path) -> None:
    """The background of bound and unbound crops is the same: classes share the slides' styles."""
    synth_crops(tmp_path, patients=1, crops=200, seed=3, fractions=0.5, size=48)
    corners: dict[str, list[np.ndarray]] = {"bound": [], "unbound": []}
    for row in rows(tmp_path / "labels.csv"):
        image = cv2.imread(str(tmp_path / row["image"]))
        corners[row["label"]].append(np.median(image[:10, :6].reshape(-1, 3), axis=0))
    difference = np.median(corners["bound"], axis=0) - np.median(corners["unbound"], axis=0)
    assert np.abs(difference).max() < 1.5


def test_design_fractions_span_the_papers_groups() -> None:
    """FACTS: low 2.6, intermediate 14.9, high 20.2% bound; threshold 4.9%."""
    assert design_fractions(6) == (0.005, 0.02, 0.10, 0.15, 0.20, 0.30)
    assert design_fractions(1) == (0.15,)
    spread = design_fractions(40)
    assert len(spread) == 40
    assert list(spread) == sorted(spread)


def test_groups_of_six_patients(tmp_path: Path) -> None:
    truth = synth_crops(tmp_path, patients=6, crops=2, seed=0, size=32)
    groups = [patient["group"] for patient in truth["patients"]]
    assert groups == ["low", "low", "intermediate", "intermediate", "high", "high"]
    assert truth == json.loads((tmp_path / "truth.json").read_text())


def test_an_existing_cohort_is_kept_and_anything_else_refused(crops: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in crops.rglob("*")}
    again = synth_crops(crops, patients=2, crops=41, seed=5, fractions=[0.1, 0.5])
    assert again == json.loads((crops / "truth.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in crops.rglob("*")} == before
    with pytest.raises(InputError, match="something other"):
        synth_crops(crops, patients=2, crops=41, seed=6, fractions=[0.1, 0.5])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something other"):
        synth_fields(tmp_path, patients=1, crops=1, **SMALL)
    with pytest.raises(InputError, match="something other"):
        synth_crops(tmp_path / "notes.txt", patients=1, crops=1)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"patients": 0}, "patients"),
        ({"crops": 0}, "crops"),
        ({"slides": 0}, "slides"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"size": 8}, "size"),
        ({"stain": "green"}, "stain"),
        ({"fractions": 1.5}, "fractions"),
        ({"fractions": [0.1]}, "fractions"),
        ({"fractions": [0.1, float("nan")]}, "fractions"),
    ],
)
def test_mistakes_in_crops_are_named(wrong: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=named):
        synth_crops(tmp_path / "out", **({"patients": 2, "crops": 3} | wrong))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"heads_per_field": 0}, "heads_per_field"),
        ({"heads_per_field": 500}, "no room"),
        ({"size": (50, 1024)}, "no room"),
        ({"scale": 0.0}, "scale"),
        ({"extension": "gif"}, "extension"),
    ],
)
def test_mistakes_in_fields_are_named(wrong: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=named):
        synth_fields(tmp_path / "out", **({"patients": 2, "crops": 3} | wrong))
    with pytest.raises(InputError, match="local folder"):
        synth_fields("s3://bucket/cohort", patients=1, crops=1)
