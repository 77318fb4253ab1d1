"""Which files belong to which patient and slide."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fertiray import storage
from fertiray.data.folders import Source, check_apart, chunks, inventory, sources
from fertiray.errors import InputError

FILES = (
    "P1/S1/a.png",
    "P1/S1/b.png",
    "P1/S2/a.png",
    "P1/loose.png",
    "P1/S3/deep/er/a.png",
    "P10/S1/a.png",
    "P2/S1/notes.txt",
    "top.png",
)
IGNORED = (
    "labels.csv",
    "P1/heads.csv",
    "P1/S1/truth.json",
    "annotations.json",
    ".hidden.png",
    "P1/.cache/a.png",
    "P2/S1/.DS_Store",
    "P2/S1/Thumbs.db",
)


@pytest.fixture(params=["local", "s3"])
def cohort(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")
    folder = storage.join(root, "cohort")
    for number, name in enumerate((*FILES, *IGNORED)):
        storage.write_bytes(storage.join(folder, name), b"x" * number)
    return folder


def test_tree(cohort: str) -> None:
    found = list(sources(cohort))
    assert [(s.path, s.patient_id, s.slide_id) for s in found] == [
        ("P1/S1/a.png", "P1", "S1"),
        ("P1/S1/b.png", "P1", "S1"),
        ("P1/S2/a.png", "P1", "S2"),
        ("P1/S3/deep/er/a.png", "P1", "S3/deep/er"),
        ("P1/loose.png", "P1", "slide-1"),
        ("P10/S1/a.png", "P10", "S1"),
        ("P2/S1/notes.txt", "P2", "S1"),
        ("top.png", "cohort", "slide-1"),
    ]
    assert [s.size for s in found] == [FILES.index(s.path) for s in found]
    assert {s.problem for s in found} == {""}
    for source in found:
        assert len(storage.read_bytes(source.location)) == source.size


def test_inventory_does_not_depend_on_where_the_folder_lies(cohort: str, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "cohort"
    for number, name in enumerate(FILES):
        storage.write_bytes(copy / name, b"y" * number)
    assert inventory(str(copy)) == inventory(cohort)
    assert inventory(cohort).files == len(FILES)
    storage.write_bytes(copy / "P1" / "S1" / "c.png", b"")
    assert inventory(str(copy)).digest != inventory(cohort).digest


@pytest.mark.parametrize(
    ("group_by", "patients"),
    [
        (r"\d{4}-\d\d-\d\d", ["2022-10-29", "2022-10-29", "2023-01-02", None]),
        (r"__(\d\d)-", ["05", "06", "05", None]),
    ],
)
def test_grouped_by_name(tmp_path: Path, group_by: str, patients: list[str | None]) -> None:
    names = [
        "I__2022-10-29__05-1.jpg",
        "I__2022-10-29__06-2.jpg",
        "I__2023-01-02__05-3.jpg",
        "z.jpg",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    found = list(sources(str(tmp_path), group_by))
    assert [s.patient_id for s in found] == patients
    assert "does not match" in found[-1].problem
    assert {s.slide_id for s in found} == {"slide-1"}


def test_a_flat_folder_is_one_patient_even_by_a_relative_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Miller").mkdir()
    (tmp_path / "Miller" / "a.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "Miller")
    for folder in (".", "../Miller", "../Miller/", str(tmp_path / "Miller")):
        assert [s.patient_id for s in sources(folder)] == ["Miller"]


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.png").write_bytes(b"x")
    (folder / "a.png").write_bytes(b"own")
    (folder / "inside.png").symlink_to(folder / "a.png")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "broken.png").symlink_to(folder / "nothing.png")
    (folder / "folder").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    found = {s.path: s.problem for s in sources(str(folder))}
    assert found["a.png"] == found["inside.png"] == ""
    assert (
        found["out.png"] == found["folder"] == "a symbolic link that leads out of the input folder"
    )
    assert found["broken.png"] == found["loop"] == found["pipe.png"] == "not a regular file"
    assert len(found) == 7


def test_names_that_are_not_text_become_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"crop-\xff.png")).write_bytes(b"x")
    (source,) = sources(str(tmp_path))
    assert source.path == r"crop-\xff.png"
    assert storage.read_bytes(source.location) == b"x"


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "labels.csv").write_bytes(b"image,label")
    for folder, group_by, said in (
        (tmp_path / "missing", None, "missing: no such folder"),
        (tmp_path / "empty", None, "empty: no files there; give a folder of images"),
        (tmp_path / "a.png", None, "is a file; give a folder"),
        (tmp_path, "(", "is not a regular expression"),
        (tmp_path, "patient", "'patient' matches none of the 1 file names"),
    ):
        with pytest.raises(InputError, match=said.replace("(", r"\(")):
            inventory(str(folder), group_by)


def test_missing_prefix_on_s3(s3: str) -> None:
    with pytest.raises(InputError, match="nothing-here: no such folder"):
        inventory(storage.join(s3, "nothing-here"))


def test_a_store_inside_its_input_is_refused(tmp_path: Path) -> None:
    for store in (tmp_path, tmp_path / "x" / "store"):
        with pytest.raises(InputError, match="lies inside the input"):
            check_apart(str(tmp_path), str(store))
    check_apart(str(tmp_path / "in"), str(tmp_path / "in-store"))
    check_apart(str(tmp_path), "s3://bucket/store")


def test_chunks_end_by_number_or_by_bytes() -> None:
    found = [Source("", str(n), "p", "s", size) for n, size in enumerate([1, 1, 1, 9, 1, 1, 20, 1])]
    cut = [[int(s.path) for s in chunk] for chunk in chunks(found, 3, 10)]
    assert cut == [[0, 1, 2], [3, 4], [5, 6], [7]]
    assert [len(chunk) for chunk in chunks(found, 5)] == [5, 3]
    assert list(chunks([], 5)) == []
