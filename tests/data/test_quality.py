"""The report finds what was put in, drops nothing, and goes into a table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fertiray import storage
from fertiray.data.focus import FEWEST, focus, robust_z
from fertiray.data.images import encode_png
from fertiray.data.labelled import load_labelled
from fertiray.data.quality import COLUMNS, quality_report, write_csv
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing

KNOWN = ("up", "down")


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = [cv2.resize(rng.normal(0, 1, (n, n)), (80, 80)) for n in (8, 20, 40)]
    return np.clip(150 + 20 * np.stack([sum(noise)] * 3, 2), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 good pictures; a copy, a near copy, a contradiction, a blur, a broken and a lost file."""
    where = tmp_path_factory.mktemp("set")
    rows = ["image,label,patient_id,day"]
    images = {f"{i:02d}.png": picture(i) for i in range(40)}
    rows += [f"{name},{KNOWN[i % 2]},P{i % 8},D{3 + i % 2}" for i, name in enumerate(images)]
    extra = {
        "copy.png": (images["00.png"], "up"),
        "near.png": (np.roll(images["02.png"], 1, 0), "up"),
        "contrary.png": (images["04.png"], "down"),
        "soft.png": (cv2.GaussianBlur(picture(99), (0, 0), 8), "down"),
    }
    images |= {name: image for name, (image, _) in extra.items()}
    rows += [f"{name},{label},P9,D3" for name, (_, label) in extra.items()]
    for name, image in images.items():
        (where / name).write_bytes(encode_png(image))
    (where / "broken.png").write_bytes(b"GIF89a")
    rows += ["broken.png,up,,", "lost.png,up,,", "bare.png,,,"]
    (where / "labels.csv").write_text("\n".join(rows))
    return str(where)


def test_report(folder: str) -> None:
    report = quality_report(folder, KNOWN)
    assert json.loads(json.dumps(report)) == report
    assert report["dataset"] == "labels.csv"
    assert (report["images"], report["usable"]) == (44, 42)
    assert report["classes"] == {"class": {"up": 21, "down": 21}}
    assert report["sizes"]["width"] == {"min": 80, "median": 80, "max": 80}
    assert report["facets"]["day"] == {"D3": {"down": 1, "up": 21}, "D4": {"down": 20}}
    assert report["patients"] == 9
    assert report["counts"] == {
        "missing": 1,
        "unreadable": 1,
        "ungraded": 1,
        "contradictions": 2,
        "duplicates": 1,
        "near_duplicates": 1,
        "blurred": 1,
    }
    assert [entry["name"] for entry in report["contradictions"]] == ["04.png", "contrary.png"]
    assert report["duplicates"] == [{"names": ["00.png", "copy.png"]}]
    assert {*report["near_duplicates"][0]["names"]} == {"02.png", "near.png"}
    assert report["near_duplicates"][0]["similarity"] > 0.9
    assert report["blurred"][0]["name"] == "soft.png"
    assert report["unreadable"][0]["detail"].startswith("not-an-image")


def test_report_and_loader_agree(folder: str) -> None:
    report = quality_report(folder, KNOWN)
    crops = load_labelled(folder, Preprocessing(16), KNOWN)
    assert report["usable"] == len(crops.names)
    assert report["groups"] == len({*crops.groups.tolist()})
    assert report["classes"]["class"] == dict(
        zip(crops.classes, np.bincount(crops.labels).tolist(), strict=True)
    )


@pytest.mark.parametrize("where", ["local", "s3"])
def test_table(folder: str, where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = str(tmp_path) if where == "local" else request.getfixturevalue("s3")
    place = storage.join(root, "findings.csv")
    report = quality_report(folder, KNOWN)
    write_csv(report, place)
    rows = [*csv.DictReader(io.StringIO(storage.read_bytes(place).decode()))]
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 1 + 1 + 1 + 2 + 2 + 2 + 1
    copy = next(row for row in rows if row["name"] == "copy.png")
    assert (copy["finding"], copy["detail"]) == ("duplicates", "00.png")


def test_one_class_can_be_checked_and_none_cannot(tmp_path: Path) -> None:
    storage.write_bytes(storage.join(tmp_path, "up", "a.png"), encode_png(picture(0)))
    assert quality_report(str(tmp_path), KNOWN)["classes"] == {"class": {"up": 1, "down": 0}}
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no readable image with a label"):
        quality_report(str(tmp_path / "none"), KNOWN)


def test_focus_falls_with_blur_in_any_direction_and_not_with_size() -> None:
    sharp = picture(0)
    large = cv2.resize(sharp, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    once, twice = (cv2.GaussianBlur(sharp, (0, 0), sigma) for sigma in (1, 2))
    assert focus(sharp) > focus(once) > focus(twice)
    # Four times the limit: reduced to it, and so the same as an image of that size.
    assert focus(large) == pytest.approx(
        focus(cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)), abs=0.01
    )
    along = cv2.GaussianBlur(sharp, (0, 0), sigmaX=0.01, sigmaY=6)
    assert focus(along) < focus(cv2.GaussianBlur(sharp, (0, 0), 1.5))


def test_robust_z_by_hand() -> None:
    # Median 10; absolute deviations 0..10 twice, median 5: one robust deviation is 7.413.
    z = robust_z(np.arange(21.0))
    assert z[-1] == pytest.approx(10 / (1.4826 * 5))
    assert not robust_z(np.arange(FEWEST - 1.0)).any()
    assert not robust_z(np.ones(50)).any()


@pytest.mark.realdata
def test_smids(real_data: Path) -> None:
    known = ("Normal_Sperm", "Abnormal_Sperm", "Non-Sperm")
    report = quality_report(str(real_data / "smids"), known)
    # 49 pixel-identical pairs, four of them with two labels (counted by their digests alone).
    assert report["images"] == 2400
    assert report["counts"]["duplicates"] == 49 - 4
    identical = [e for e in report["contradictions"] if e["detail"].startswith("the same pixels")]
    assert len(identical) == 2 * 4
    # Every pair was looked at: the same cell each time.
    assert 90 <= report["counts"]["near_duplicates"] <= 100
    assert report["counts"]["contradictions"] == 14
    assert report["classes"]["class"] == dict(zip(known, (815, 798, 773), strict=True))
