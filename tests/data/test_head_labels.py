"""Labels for segmented heads."""

from __future__ import annotations

from pathlib import Path

import pytest

from fertiray.data.head_labels import (
    LabelledPoint,
    check_class_folders,
    folder_class,
    match,
    read_heads,
)
from fertiray.errors import InputError


def test_nearest_pairs_first_and_one_to_one() -> None:
    points = [LabelledPoint(0, 0, "bound"), LabelledPoint(10, 0, "unbound")]
    # 6 is nearer to 10, which 9 takes first; 0 is then still within half a head length of 20.
    assert match([(6, 0), (9, 0)], points, 20) == ["bound", "unbound"]
    assert match([(6, 0), (9, 0)], points, 10) == [None, "unbound"]
    assert match([(0, 5)], points, 10) == ["bound"]  # exactly half a head length
    assert match([(0, 5.1)], points, 10) == [None]
    assert match([], points, 10) == []
    assert match([(1, 1)], [], 10) == [None]


def test_reading_heads(tmp_path: Path) -> None:
    (tmp_path / "heads.csv").write_text(
        "\ufeffimage,cx,cy,length,label\na/f.jpg,1.5,2,9,bound\na/f.jpg,3,4,9,unbound\n"
    )
    expected = [LabelledPoint(1.5, 2, "bound"), LabelledPoint(3, 4, "unbound")]
    assert read_heads(str(tmp_path)) == {"a/f.jpg": expected}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,cx,label\n", "no column 'cy'"),
        ("", "no column 'image'"),
        ("image,cx,cy,label\na,1,2,x\na,1,,x\n", "line 3: cx and cy must be numbers"),
        ("image,cx,cy,label\na\n", "line 2: cx and cy must be numbers"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "heads.csv").write_text(text)
    with pytest.raises(InputError, match=rf"heads\.csv: {said}"):
        read_heads(str(tmp_path))


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"heads\.csv: no such file"):
        read_heads(str(tmp_path))


def test_class_folders() -> None:
    assert folder_class("01_Normal/image_001.BMP") == "Normal"
    assert folder_class("Non-Sperm/deep/x.webp") == "Non-Sperm"
    check_class_folders(["01_Normal/a.bmp", "b/c"])
    with pytest.raises(InputError, match=r"a\.bmp: lies in no class folder"):
        check_class_folders(["01_Normal/a.bmp", "a.bmp"])
