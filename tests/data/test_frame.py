"""Heads in their own frame: as the crop store cuts them, with a guess where there is no head."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fertiray import storage
from fertiray.data import crops
from fertiray.data.alignment import CROP_SIZE, WINDOW_HEADS
from fertiray.data.extract import segment_store
from fertiray.data.frame import cohort_head_length, cut_head, sample
from fertiray.data.images import decode, encode_png
from fertiray.data.labelled import load_labelled
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing

Image = npt.NDArray[np.uint8]
LENGTH = 60
WHOLE = Preprocessing(CROP_SIZE)


def sperm(angle: float, seed: int = 0, width: int = 36) -> Image:
    """One head with acrosome and tail, its direction in degrees, on a 220 px patch with grain."""
    fine = 4
    image = np.full((220 * fine, 220 * fine, 3), (221, 225, 229), np.uint8)
    ahead = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    side = np.array([-ahead[1], ahead[0]])
    centre = np.array([112.0, 107.0])
    ends = [((centre - k * LENGTH * ahead) * fine).astype(int).tolist() for k in (0.4, 1.4)]
    cv2.line(image, ends[0], ends[1], (172, 182, 226), 5 * fine)
    turn = np.radians(np.arange(0, 360, 2))
    along, across = LENGTH / 2 * np.cos(turn), width / 2 * np.sin(turn)
    outline = centre + along[:, None] * ahead + across[:, None] * side
    for points, colour in ((outline, (50, 5, 190)), (outline[along > 6], (150, 108, 220))):
        cv2.fillPoly(image, [np.round(points * fine).astype(np.int32)], colour)
    image = cv2.resize(image, (220, 220), interpolation=cv2.INTER_AREA)
    grain = np.random.default_rng(seed).normal(0, 2, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.8) + grain, 0, 255).astype(np.uint8)


def put(folder: Path, images: dict[str, Image]) -> str:
    for name, image in images.items():
        storage.write_bytes(storage.join(folder, name), encode_png(image))
    return str(folder)


def test_a_head_is_centred_turned_and_keeps_its_scale() -> None:
    length = cohort_head_length([sperm(angle) for angle in (10, 100, 200)])
    assert length == pytest.approx(LENGTH, rel=0.08)
    upright, found = cut_head(sperm(270), length)
    assert found
    assert upright.shape == (CROP_SIZE, CROP_SIZE, 3)
    for angle in (0, 65, 180, 300):
        crop, found = cut_head(sperm(angle, seed=1), length)
        assert found
        assert np.abs(crop.astype(int) - upright).mean() < 6
    # The window is two head lengths, so the head spans half the crop's height; tails are paler.
    rows = np.flatnonzero((upright[..., 1] < 165).any(1))
    assert np.ptp(rows) / CROP_SIZE == pytest.approx(1 / WINDOW_HEADS, abs=0.05)


def test_what_is_no_head_is_cut_around_anyway() -> None:
    blank = np.full((200, 160, 3), 225, np.uint8)
    blank[95:105, 76:84] = 40  # a speck in the middle, far too small for a head
    crop, found = cut_head(blank, LENGTH)
    assert not found
    assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
    dark = np.argwhere(crop[..., 1] < 120).mean(0)
    assert dark == pytest.approx([CROP_SIZE / 2] * 2, abs=3)
    thread = np.full((200, 200, 3), 225, np.uint8)
    cv2.line(thread, (55, 105), (145, 95), (60, 20, 180), 7)  # no head, but it has an axis
    crop, found = cut_head(thread, LENGTH)
    assert not found
    down, across = np.ptp(np.argwhere(crop[..., 1] < 150), axis=0)
    assert down > 4 * across  # turned upright


def test_the_sample_is_spread_over_the_sorted_names() -> None:
    names = [f"{number:03d}" for number in range(100)]
    assert sample(names[::-1]) == sample(names)
    assert (sample(names)[0], sample(names)[-1], len(sample(names))) == ("000", "099", 16)
    assert sample(["b", "a"]) == ["a", "b"]


def test_the_loader_cuts_and_says_what_it_guessed(tmp_path: Path) -> None:
    images = {f"up/{i}.png": sperm(40 * i, i) for i in range(5)}
    images |= {f"down/{i}.png": sperm(40 * i, i + 5, width=26) for i in range(4)}
    images["down/none.png"] = (
        np.random.default_rng(0).integers(200, 230, (220, 220, 3)).astype("u1")
    )
    where = put(tmp_path, images)
    framed = load_labelled(where, WHOLE, ("up", "down"), frame="head")
    assert framed.unframed == ("down/none.png",)
    assert not framed.excluded
    ups = [framed.images[i].astype(int) for i, name in enumerate(framed.names) if "up" in name]
    assert max(np.abs(one - ups[0]).mean() for one in ups) < 6
    as_is = load_labelled(where, WHOLE, ("up", "down"))
    assert as_is.digest == framed.digest  # of the pixels before cutting
    assert as_is.unframed == ()
    assert framed.take(np.flatnonzero(framed.labels == 0)).unframed == ()


def test_crops_of_a_store_are_in_the_frame_already(tmp_path: Path) -> None:
    with crops.StoreWriter(str(tmp_path)) as store:
        for i in range(6):
            store.add(
                {
                    "crop_id": f"c{i}",
                    "patient_id": f"P{i}",
                    "slide_id": "S",
                    "image": encode_png(sperm(60 * i, i)),
                    "label": ("up", "down")[i % 2],
                    "angle": 270.0,
                }
            )
    framed = load_labelled(str(tmp_path), WHOLE, ("up", "down"), frame="head")
    as_is = load_labelled(str(tmp_path), WHOLE, ("up", "down"))
    assert np.array_equal(framed.images, as_is.images)
    assert framed.unframed == ()


def test_a_set_without_heads_has_no_frame(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(200, 230, (4, 64, 64, 3)).astype(np.uint8)
    where = put(tmp_path, {f"{('up', 'down')[i % 2]}/{i}.png": noise[i] for i in range(4)})
    with pytest.raises(InputError, match="none of 4 images shows a stained sperm head"):
        load_labelled(where, WHOLE, ("up", "down"), frame="head")


@pytest.mark.realdata
def test_hushem_is_cut_as_the_crop_store_cuts_it(real_data: Path, tmp_path: Path) -> None:
    """Against ``fertiray segment --single``: the same pixels for every head that it accepts."""
    where = str(real_data / "hushem")
    known = ("Normal", "Tapered", "Pyriform", "Amorphous")
    framed = load_labelled(where, WHOLE, known, frame="head")
    store = str(tmp_path / "store")
    segment_store(where, store, single=True, labels="folder")
    own = dict(zip(framed.names, framed.images, strict=True))
    stored = {
        row["field"]: decode(row["image"]) for row in crops.iter_rows(store, ["field", "image"])
    }
    assert {*own} - {*stored} == {*framed.unframed}
    assert len(framed.unframed) <= 3  # measured 2 of 216
    assert all(np.array_equal(own[name], image) for name, image in stored.items())
