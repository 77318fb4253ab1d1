"""Two folders of unpaired images: what counts, what is left out, and what is said of it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fertiray import storage
from fertiray.data.domains import load_domains
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing

GREY = Preprocessing(32, "grey", mean=(0.5,), std=(0.5,))


def write(folder: Path, name: str, level: int, size: int = 32) -> None:
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((size, size, 3), level, np.uint8)
    image[0, 0] = 255 - level
    assert cv2.imwrite(str(place), image)


@pytest.mark.parametrize("names", [("lab", "clinical"), ("A", "B"), ("trainA", "trainB")])
def test_two_folders_of_any_depth(tmp_path, names):
    lab, clinical = names
    for number in range(3):
        write(tmp_path, f"{lab}/P1/S{number}/a.png", 10 + number, size=40 + number)
    write(tmp_path, f"{clinical}/b.jpg", 200)
    write(tmp_path, f"{clinical}/c.png", 210)
    (tmp_path / clinical / "labels.csv").write_text("image,label\n")  # describes; is no image
    domains = load_domains(str(tmp_path), GREY)
    assert domains.source.shape == (3, 32, 32, 3)
    assert domains.target.shape == (2, 32, 32, 3)
    assert domains.source.dtype == np.uint8
    levels = {f"{lab}/P1/S{number}/a.png": 10 + number for number in range(3)}
    assert {*domains.names[0]} == {*levels}
    assert {*domains.names[1]} == {f"{clinical}/b.jpg", f"{clinical}/c.png"}
    for name, image in zip(domains.names[0], domains.source, strict=True):
        assert image[16, 16, 0] == levels[name]
    assert domains.excluded == ()


def test_digest_knows_pixels_and_sides_but_not_names(tmp_path):
    for where, names in (("one", "ab"), ("two", "ba")):
        write(tmp_path / where, f"lab/{names[0]}.png", 10)
        write(tmp_path / where, f"lab/{names[1]}.png", 20)
        write(tmp_path / where, "clinical/c.png", 30)
    one, two = (load_domains(str(tmp_path / where), GREY) for where in ("one", "two"))
    assert one.names != two.names
    assert np.array_equal(one.source, two.source)  # so training sees the same order
    assert one.digest == two.digest
    (tmp_path / "two/lab").rename(tmp_path / "two/x")
    (tmp_path / "two/clinical").rename(tmp_path / "two/lab")
    (tmp_path / "two/x").rename(tmp_path / "two/clinical")
    assert load_domains(str(tmp_path / "two"), GREY).digest != one.digest


def test_unreadable_and_contradicting_images_are_left_out_with_the_reason(tmp_path):
    write(tmp_path, "lab/good.png", 10)
    write(tmp_path, "lab/twin.png", 20)
    write(tmp_path, "clinical/same.png", 20)
    write(tmp_path, "clinical/good.png", 30)
    (tmp_path / "lab/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "clinical/notes.txt").write_text("no image")
    domains = load_domains(str(tmp_path), GREY)
    assert domains.names == (("lab/good.png",), ("clinical/good.png",))
    assert {(one.name, one.reason) for one in domains.excluded} == {
        ("lab/broken.png", "unreadable"),
        ("clinical/notes.txt", "unreadable"),
        ("lab/twin.png", "contradiction"),
        ("clinical/same.png", "contradiction"),
    }
    assert "truncated" in next(o for o in domains.excluded if o.name.endswith("broken.png")).detail


def test_from_s3(tmp_path, s3):
    write(tmp_path, "lab/P1/a.png", 10)
    write(tmp_path, "clinical/b.png", 20)
    for place in tmp_path.rglob("*.png"):
        name = place.relative_to(tmp_path).as_posix()
        storage.write_bytes(f"{s3}/set/{name}", place.read_bytes())
    there, here = load_domains(f"{s3}/set", GREY), load_domains(str(tmp_path), GREY)
    assert there.names == here.names
    assert there.digest == here.digest


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"x: no such folder; give the one that holds lab/ and clinical/"),
        (["other/a.png"], r"holds no two looks; put laboratory images into lab/"),
        (["lab/a.png"], r"x/clinical: no such folder; .* beside lab/"),
        (["B/a.png"], r"x/A: no such folder; .* beside B/"),
        (["lab/a.png", "clinical/labels.csv"], r"x/clinical: no usable image \(no files there\)"),
        (["lab/a.png", "clinical/a.txt"], r"clinical/a.txt: .*not-an-image.*put the images of"),
    ],
)
def test_missing_and_empty_folders_are_one_line_with_the_remedy(tmp_path, files, message):
    folder = tmp_path / "x"
    for name in files:
        if name.endswith(".png"):
            write(folder, name, 10)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("text")
    with pytest.raises(InputError, match=message) as caught:
        load_domains(str(folder), GREY)
    assert "\n" not in str(caught.value)
