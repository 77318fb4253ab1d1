"""What is loaded, what is left out and why, and what is kept together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fertiray import storage
from fertiray.data.images import decode, encode_png
from fertiray.data.labelled import UNLABELLED, LabelledCrops, load_labelled
from fertiray.data.near_duplicates import near_pairs, thumbnail
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing

Image = npt.NDArray[np.uint8]
SMALL = Preprocessing(32)
KNOWN = ("up", "down", "never")
GRADES = {"EXP": ("0", "1", "2"), "ICM": ("A", "B"), "TE": ("A", "B")}


def scene(seed: int) -> Image:
    """A cell of its own in surroundings of their own, 90 x 100 px."""
    rng = np.random.default_rng(seed)
    noise = [cv2.resize(rng.normal(0, 1, (n, n)), (100, 90)) for n in (6, 14, 40)]
    grey = 170 + 12 * noise[0] + 8 * noise[1] + 5 * noise[2]
    cv2.ellipse(grey, (50, 45), (22, 14), int(rng.integers(180)), 0, 360, 60.0, -1)
    return np.clip(np.stack([grey, grey - 10, grey + 10], 2), 0, 255).astype(np.uint8)


def jpeg(image: Image, quality: int = 80) -> Image:
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)


COPIES = {
    "jpeg": jpeg,
    "jpeg50": lambda image: jpeg(image, 50),
    "cut": lambda image: image[1:, :-1],
    "shifted": lambda image: np.roll(image, (1, -1), (0, 1)),
    "brighter": lambda image: np.clip(image * 1.15 + 5, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.75).astype(np.uint8),
    "smaller": lambda image: cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
}


def put(folder: Path | str, images: dict[str, Image], table: str = "") -> str:
    for name, image in images.items():
        storage.write_bytes(storage.join(folder, name), encode_png(np.ascontiguousarray(image)))
    if table:
        storage.write_bytes(storage.join(folder, "labels.csv"), table.encode())
    return str(folder)


def folders(count: int = 30) -> dict[str, Image]:
    return {f"{('up', 'down')[i % 2]}/{i:02d}.png": scene(i) for i in range(count)}


def reasons(crops: LabelledCrops) -> dict[str, str]:
    return {entry.name: entry.reason for entry in crops.excluded}


def test_crops_come_with_all_that_is_known_of_them(tmp_path: Path) -> None:
    images = folders()
    crops = load_labelled(put(tmp_path, images), SMALL, KNOWN)
    assert crops.images.shape == (30, 32, 32, 3)
    assert crops.tasks == {"class": ("up", "down")}  # the paper's order, only what occurs
    assert {*crops.names} == {*images}
    for name, label in zip(crops.names, crops.labels, strict=True):
        assert name.startswith(crops.classes[label])
    assert len({*crops.groups.tolist()}) == 30
    assert crops.patients == (None,) * 30
    assert np.isnan(crops.aspects).all()
    assert crops.excluded == crops.unframed == ()


def test_neither_names_nor_places_nor_their_order_matter(tmp_path: Path) -> None:
    images = folders(12)
    first = load_labelled(put(tmp_path / "a", images), SMALL, KNOWN)
    rows = [f"{i}.png,{name.partition('/')[0]}" for i, name in enumerate(reversed([*images]))]
    renamed = {f"{i}.png": image for i, image in enumerate(reversed([*images.values()]))}
    table = "\n".join(["image,label", *rows])
    second = load_labelled(put(tmp_path / "b", renamed, table), SMALL, KNOWN)
    assert first.digests == second.digests
    assert first.digest == second.digest
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.targets, second.targets)
    taken = first.take([3, 1])
    assert taken.names == (first.names[3], first.names[1])
    assert taken.digest != first.digest


def test_remote_sets_load_alike(tmp_path: Path, s3: str) -> None:
    images = folders(6)
    local = load_labelled(put(tmp_path, images), SMALL, KNOWN)
    remote = load_labelled(put(f"{s3}/set", images), SMALL, KNOWN)
    assert (local.names, local.digest) == (remote.names, remote.digest)


def test_same_pixels_stay_together_or_are_left_out(tmp_path: Path) -> None:
    images = folders()
    images |= {"up/again.png": images["up/00.png"], "up/other.png": images["down/01.png"]}
    crops = load_labelled(put(tmp_path, images), SMALL, KNOWN)
    assert reasons(crops) == {"up/other.png": "contradiction", "down/01.png": "contradiction"}
    details = {entry.name: entry.detail for entry in crops.excluded}
    assert details["up/other.png"] == "the same pixels as down/01.png, labelled down"
    group = dict(zip(crops.names, crops.groups.tolist(), strict=True))
    assert group["up/again.png"] == group["up/00.png"]
    assert len({*group.values()}) == 29


@pytest.mark.parametrize("kind", [*COPIES])
def test_nearly_the_same_pixels_stay_together_or_are_left_out(tmp_path: Path, kind: str) -> None:
    images = folders()
    copy = COPIES[kind]
    images |= {"up/again.png": copy(images["up/00.png"]), "up/x.png": copy(images["down/01.png"])}
    crops = load_labelled(put(tmp_path, images), SMALL, KNOWN)
    assert reasons(crops) == {"up/x.png": "contradiction", "down/01.png": "contradiction"}
    assert crops.excluded[0].detail.startswith("nearly identical to")
    group = dict(zip(crops.names, crops.groups.tolist(), strict=True))
    assert group["up/again.png"] == group["up/00.png"]
    assert len({*group.values()}) == 29  # nothing else was joined


def test_patients_are_groups(tmp_path: Path) -> None:
    rows = ["image,label,patient_id", *(f"{i}.png,{KNOWN[i % 2]},P{i // 5}" for i in range(20))]
    images = {f"{i}.png": scene(i) for i in range(20)}
    crops = load_labelled(put(tmp_path, images, "\n".join(rows)), SMALL, KNOWN)
    assert len({*crops.groups.tolist()}) == 4
    assert len({*zip(crops.groups.tolist(), crops.patients, strict=True)}) == 4


def test_unusable_images_are_listed_with_their_reasons(tmp_path: Path) -> None:
    rows = ["image,label,day", *(f"{i}.png,{KNOWN[i % 2]},D{3 + i % 2}" for i in range(8))]
    rows += ["gone.png,up,", "broken.png,up,", "bare.png,NA,D3", "0.png,up,D3"]
    images = {f"{i}.png": scene(i) for i in range(8)} | {"bare.png": scene(99)}
    where = put(tmp_path, images, "\n".join(rows))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    crops = load_labelled(where, SMALL, KNOWN)
    assert reasons(crops) == {
        "gone.png": "missing",
        "broken.png": "unreadable",
        "bare.png": "ungraded",
    }
    assert sorted(crops.names) == sorted(f"{i}.png" for i in range(8))  # 0.png once
    assert Counter(crops.facets["day"]) == {"D3": 4, "D4": 4}


def test_an_image_listed_with_two_labels_is_left_out(tmp_path: Path) -> None:
    rows = ["image,label", *(f"{i}.png,{KNOWN[i % 2]}" for i in range(6)), "0.png,down"]
    crops = load_labelled(
        put(tmp_path, {f"{i}.png": scene(i) for i in range(6)}, "\n".join(rows)), SMALL, KNOWN
    )
    assert reasons(crops) == {"0.png": "contradiction"}
    assert len(crops.names) == len(crops.excluded) + 4 == 5


def test_several_tasks(tmp_path: Path) -> None:
    rows = ["image,EXP,ICM,TE", "0.png,0,A,", "1.png,1,,", "2.png,,B,", "3.png,,,"]
    where = put(tmp_path, {f"{i}.png": scene(i) for i in range(4)}, "\n".join(rows))
    crops = load_labelled(where, SMALL, GRADES)
    assert crops.tasks == {"EXP": ("0", "1", "2"), "ICM": ("A", "B")}  # TE is never graded
    targets = dict(zip(crops.names, crops.targets.tolist(), strict=True))
    assert targets == {"0.png": [0, 0], "1.png": [1, UNLABELLED], "2.png": [UNLABELLED, 1]}
    assert reasons(crops) == {"3.png": "ungraded"}
    labels = {name: crops.label(i) for i, name in enumerate(crops.names)}
    assert labels == {"0.png": "EXP=0 ICM=A", "1.png": "EXP=1", "2.png": "ICM=B"}


def test_grades_contradict_by_task(tmp_path: Path) -> None:
    rows = ["image,EXP,ICM,TE", "0.png,0,A,A", "1.png,1,B,B", "2.png,2,A,A"]
    rows += ["0-partly.png,,A,", "1-other.png,,A,", "1-silent.png,,,B"]
    images = {f"{i}.png": scene(i) for i in range(3)}
    images |= {"0-partly.png": images["0.png"]}
    images |= dict.fromkeys(("1-other.png", "1-silent.png"), images["1.png"])
    crops = load_labelled(put(tmp_path, images, "\n".join(rows)), SMALL, GRADES)
    assert {*reasons(crops)} == {"1.png", "1-other.png", "1-silent.png"}
    details = {entry.name: entry.detail for entry in crops.excluded}
    assert details["1-other.png"] == "the same pixels as 1.png, labelled EXP 1, ICM B, TE B"
    assert details["1-silent.png"].startswith("one of several nearly identical images")
    assert {*crops.names} == {"0.png", "0-partly.png", "2.png"}


def test_unknown_and_single_classes_are_refused(tmp_path: Path) -> None:
    where = put(tmp_path, {"up/a.png": scene(0)})
    with pytest.raises(InputError, match=r"needs two or more classes, found \['up'\]"):
        load_labelled(where, SMALL, KNOWN)
    put(tmp_path, {"banana/b.png": scene(1)})
    with pytest.raises(InputError, match=r"unknown class 'banana' \(.*b.png\); .* up, down, never"):
        load_labelled(where, SMALL, KNOWN)
    put(tmp_path, {}, "image,EXP,ICM,TE\nup/a.png,0,C,A\n")
    with pytest.raises(InputError, match=r"unknown ICM 'C' \(.*line 2\); .* A, B"):
        load_labelled(where, SMALL, GRADES)
    put(tmp_path, {}, "image,EXP,ICM,TE\nup/a.png,0,A,A\n")
    with pytest.raises(InputError, match=r"two or more classes, found \['0', 'A', 'A'\]"):
        load_labelled(where, SMALL, GRADES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="two or more classes, found none: give class folders"):
        load_labelled(str(tmp_path / "empty"), SMALL, KNOWN)


def test_blurred_images_are_left_out_when_asked(tmp_path: Path) -> None:
    images = folders(40)
    images["up/soft.png"] = cv2.GaussianBlur(scene(100), (0, 0), 6)
    smeared = cv2.resize(scene(101)[:, 40:48], (100, 90))  # stretched along one axis only
    images["up/smeared.png"] = smeared
    where = put(tmp_path, images)
    assert not load_labelled(where, SMALL, KNOWN).excluded
    crops = load_labelled(where, SMALL, KNOWN, drop_blurred=True)
    assert reasons(crops) == {"up/soft.png": "blurred", "up/smeared.png": "blurred"}


def test_lookalikes_are_no_near_duplicates() -> None:
    """The same cell in other surroundings, and other cells in much the same surroundings."""
    cell = scene(0)[25:65, 25:75]
    images = [scene(i) for i in range(80)]
    for image in images[:40]:
        image[25:65, 25:75] = cell
    assert near_pairs(np.stack([thumbnail(image) for image in images])) == []


def test_flat_and_single_pictures_have_no_twins() -> None:
    flat = np.full((70, 96, 96), 200, np.uint8)
    assert near_pairs(flat[:1]) == []
    assert near_pairs(flat) == []


@pytest.mark.realdata
def test_hushem(real_data: Path) -> None:
    known = ("Normal", "Tapered", "Pyriform", "Amorphous")
    crops = load_labelled(str(real_data / "hushem"), SMALL, known, aspects=True)
    assert crops.classes == known
    assert np.bincount(crops.labels).tolist() == [54, 53, 57, 52]
    assert not crops.excluded
    # Three pairs show the same head, as can be seen; nothing else does.
    assert len({*crops.groups.tolist()}) == 213
    group = dict(zip(crops.names, crops.groups.tolist(), strict=True))
    for folder, first in (("02_Tapered", 32), ("03_Pyriform", 31), ("04_Amorphous", 42)):
        pair = [f"{folder}/image_{number:03d}.BMP" for number in (first, first + 1)]
        assert group[pair[0]] == group[pair[1]]
    # Class medians, measured independently, in the order of the classes.
    medians = [np.median(crops.aspects[crops.labels == label]) for label in range(4)]
    assert medians == pytest.approx([1.51, 2.22, 2.22, 1.73], rel=0.06)


@pytest.mark.realdata
def test_hung_vuong(real_data: Path) -> None:
    where = str(real_data / "hungvuong")
    crops = load_labelled(where, SMALL, {"class": ("poor", "good")}, drop_blurred=True)
    assert crops.classes == ("poor", "good")
    assert Counter(reasons(crops).values()) == {"contradiction": 16, "blurred": 13}
    assert np.bincount(crops.labels).tolist() == [594, 95]
    assert {*crops.facets["day"]} == {"D3", "D5"}
    # Byte-identical with two labels, by cmp: 107/108 and 284/285.
    identical = {e.name for e in crops.excluded if e.detail.startswith("the same pixels")}
    assert identical == {f"images/D5_{number}.jpg" for number in (107, 108, 284, 285)}


@pytest.mark.realdata
def test_copies_of_real_images_are_found(real_data: Path) -> None:
    files = sorted((real_data / "hushem").rglob("*.BMP"))[::3]
    images = [decode(file.read_bytes()) for file in files]
    for kind, copy in COPIES.items():
        copies = [np.ascontiguousarray(copy(image)) for image in images[:8]]
        pairs = near_pairs(np.stack([thumbnail(image) for image in [*images, *copies]]))
        expected = [(i, len(images) + i) for i in range(8)]
        assert [pair[:2] for pair in pairs] == expected, kind
