"""Each layout is recognised by its files and read as its data sheet says."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fertiray import storage
from fertiray.data import crops
from fertiray.data.datasets import CLASS, DATASETS, Item, Listing, gardner, kromp, recognise
from fertiray.data.images import encode_png
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError

ONE = (CLASS,)
GRADES = ("EXP", "ICM", "TE")


def listing(*names: str) -> Listing:
    return Listing("somewhere", tuple(sorted(names)))


def put(folder: Path | str, files: dict[str, str]) -> str:
    """Files by relative path; an image's content is never looked at here."""
    for name, text in files.items():
        storage.write_bytes(storage.join(folder, name), text.encode())
    return str(folder)


def read(location: str, tasks: tuple[str, ...] = ONE) -> dict[str, Item]:
    found = Listing.of(location)
    return {item.name: item for item in recognise(found).items(found, tasks)}


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("crop store", ("part-00000.parquet", "store.json")),
        ("Kromp et al. 2023", ("complete.csv", "Images/0001_01.png")),
        ("Kromp et al. 2023", ("Gardner_train_silver.csv",)),
        ("Saeedi et al. 2017", ("Images/Blast_PCRM_1201754 D5.BMP", "labels.csv")),
        ("Hung Vuong", ("labels.csv", "images/D3_001.jpg")),
        ("Hung Vuong", ("train.csv", "test.csv", "train/D5_001.jpg", "test/D3_002.jpg")),
        ("HuSHeM", ("01_Normal/image_001.BMP", "02_Tapered/image_001.BMP")),
        ("SMIDS", ("Normal_Sperm/Normal_Sperm (1).webp", "Non-Sperm/Non-Sperm (1).webp")),
        ("zona pellucida binding", ("bound/a.png", "unbound/b.png")),
        ("zona pellucida binding", ("P001/S1/a.png", "labels.csv", "truth.json")),
        ("labels.csv", ("bound/a.png", "unbound/b.png", "labels.csv")),
        ("class folders", ("bound/a.png", "banana/b.png")),
        ("class folders", ()),
    ],
)
def test_sets_are_recognised_by_the_names_of_their_files(title, names) -> None:
    assert title == recognise(listing(*names)).TITLE


def test_every_set_has_a_data_sheet() -> None:
    for dataset in DATASETS:
        sheet = dataset.__doc__ or ""
        assert all(head in sheet for head in ("What\n", "Layout", "Classes")), dataset.TITLE


def test_class_folders_lose_their_numbers_and_deeper_images_are_passed_over(tmp_path) -> None:
    names = ("01_Up/a.png", "Down/b.JPG", "Down/x/c.png", "Down/n.txt")
    where = put(tmp_path, dict.fromkeys(names, ""))
    labels = {name: item.labels[CLASS] for name, item in read(where).items()}
    assert labels == {"01_Up/a.png": "Up", "Down/b.JPG": "Down"}


@pytest.mark.parametrize(("table", "folder"), [("labels.csv", "images"), ("train.csv", "train")])
def test_hung_vuong_names_its_classes_and_keeps_the_day(tmp_path, table, folder) -> None:
    rows = "Image,Class\nD3_001.jpg,0\nD5_002.jpg,1\nD5_003.jpg,\n"
    images = {f"{folder}/{name}.jpg": "" for name in ("D3_001", "D5_002", "D5_003")}
    found = read(put(tmp_path, {table: rows, **images}))
    assert [item.labels[CLASS] for item in found.values()] == ["poor", "good", None]
    assert [item.facets["day"] for item in found.values()] == ["D3", "D5", "D5"]
    assert [*found] == [*images]


def test_table_reads_tasks_patients_and_facets(tmp_path) -> None:
    rows = [
        "image;Patient_ID;day;EXP;icm;TE;comment",
        *(
            f"{i}.png; P{i % 3} ;D{3 + i % 2};{i % 3};A;{'ND' if i else 'B'};note {i}"
            for i in range(15)
        ),
    ]
    images = {f"deep/down/{i}.png": "" for i in range(15)}
    found = read(put(tmp_path, {"labels.csv": "\n".join(rows), **images}), GRADES)
    first, second = found["deep/down/0.png"], found["deep/down/1.png"]
    assert first.labels == {"EXP": "0", "ICM": "A", "TE": "B"}
    assert second.labels == {"EXP": "1", "ICM": "A", "TE": None}
    assert (second.patient, dict(second.facets)) == ("P1", {"day": "D4"})  # notes are no facet
    assert second.origin.endswith("labels.csv, line 3")


def test_label_stands_for_the_first_task_without_a_column(tmp_path) -> None:
    where = put(tmp_path, {"labels.csv": "image,label,TE\na.png,2,B\n", "a.png": ""})
    assert read(where, GRADES)["a.png"].labels == {"EXP": "2", "ICM": None, "TE": "B"}
    assert read(where)["a.png"].labels == {CLASS: "2"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,klass\n", r"needs the columns image and label \(or Image and Class\), found"),
        ("image,label\n", "labels.csv: no rows"),
        ("image,label\nx.png,up\ny.png,up\n", "none of its 2 images .* first is x.png"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, rows, message) -> None:
    where = put(tmp_path, {"labels.csv": rows, "a.png": ""})
    with pytest.raises(InputError, match=message):
        read(where)


def test_a_missing_image_does_not_stop_a_table(tmp_path) -> None:
    where = put(tmp_path, {"labels.csv": "image,label\na.png,up\nx.png,up\n", "a.png": ""})
    assert [*read(where)] == ["a.png", "x.png"]


def test_saeedi_takes_images_but_not_masks(tmp_path) -> None:
    files = {
        "grades.csv": "image,gardner\n1201754 D5,4AB\nBlast_PCRM_R14-0351.BMP,3CA\n9,NA\n",
        "Images/Blast_PCRM_1201754 D5.BMP": "",
        "Images/Blast_PCRM_R14-0351.BMP": "",
        "Images/Blast_PCRM_9.BMP": "",
        "GT_ICM/Blast_PCRM_R14-0351.BMP": "",
    }
    found = read(put(tmp_path, files), GRADES)
    assert [*found] == [name for name in files if name.startswith("Images")]
    assert [item.labels for item in found.values()] == [
        {"EXP": "1", "ICM": "A", "TE": "B"},
        {"EXP": "0", "ICM": None, "TE": "A"},  # the paper has no C
        {"EXP": None, "ICM": None, "TE": None},
    ]


def test_saeedi_takes_the_papers_own_classes(tmp_path) -> None:
    table = "Image,EXP,ICM,TE,patient_id\nBlast_PCRM_1.BMP,2,b,C,7\n"
    item = read(put(tmp_path, {"labels.csv": table, "Blast_PCRM_1.BMP": ""}), GRADES)
    assert item["Blast_PCRM_1.BMP"].labels == {"EXP": "2", "ICM": "B", "TE": None}
    assert item["Blast_PCRM_1.BMP"].patient == "7"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no grades.csv: put the table"),
        ("image,grade\nBlast_PCRM_1,4AA\n", "needs the columns image and gardner"),
        ("image,gardner\nBlast_PCRM_1,7AA\n", "line 2: gardner '7AA' is no grade"),
    ],
)
def test_saeedi_says_what_is_missing(tmp_path, table, message) -> None:
    files = {"Blast_PCRM_1.BMP": ""} | ({} if table is None else {"grades.csv": table})
    with pytest.raises(InputError, match=message):
        read(put(tmp_path, files), GRADES)


def test_gardner_grades() -> None:
    assert gardner.whole("5 a b") == {"EXP": "2", "ICM": "A", "TE": "B"}
    assert gardner.whole("2") == {"EXP": "0", "ICM": None, "TE": None}
    assert gardner.whole("4AAA") is None


def test_kromp_codes_become_the_papers_classes(tmp_path) -> None:
    silver = "Image;EXP_silver;ICM_silver;TE_silver\n0001_01.png;3;0;1\n0001_02.png;0;3;3\n"
    gold = "Image;EXP_gold;ICM_gold;TE_gold\n0002_01.png;4.0;2;ND\n0003_01.png;NA;1;NA\n"
    files = {
        "Gardner_train_silver.csv": silver,
        "Gardner_test_gold_onlyGardnerScores.csv": gold,
        **{f"Images/{name}.png": "" for name in ("0001_01", "0001_02", "0002_01", "0003_01")},
    }
    found = read(put(tmp_path, files), GRADES)
    assert [tuple(item.labels.values()) for item in found.values()] == [
        ("1", "A", "B"),  # Gardner 4AB
        ("0", None, None),
        ("2", None, None),  # 5C?
        (None, "B", None),
    ]
    assert [item.patient for item in found.values()] == ["0001", "0001", "0002", "0003"]
    assert Counter(item.facets["grades"] for item in found.values()) == {"silver": 2, "gold": 2}


def test_kromp_refuses_codes_that_are_none(tmp_path) -> None:
    where = put(tmp_path, {"complete.csv": "0001_01.png, 7, 3, 3\n", "0001_01.png": ""})
    with pytest.raises(InputError, match=r"line 1: EXP '7' is no code"):
        read(where, GRADES)


@pytest.mark.realdata
def test_kromp_complete_table(real_data: Path) -> None:
    """Counts of the codes by the csv module alone: C and 3 are no class, EXP 0 to 2 are one."""
    folder = real_data / "gardner_labels"
    with (folder / "complete.csv").open() as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    names = tuple(f"Images/{row[0]}" for row in rows)
    items = [*kromp.items(Listing(str(folder), ("complete.csv", *sorted({*names}))), GRADES)]
    assert (len(items), len({item.name for item in items})) == (2344, 2343)
    codes = [Counter(row[column] for row in rows) for column in (1, 2, 3)]
    exp = Counter(item.labels["EXP"] for item in items)
    assert exp == {"0": sum(codes[0][c] for c in "012"), "1": codes[0]["3"], "2": codes[0]["4"]}
    assert (exp["0"], exp["1"], exp["2"]) == (942, 1243, 159)
    for column, task in ((1, "ICM"), (2, "TE")):
        found = Counter(item.labels[task] for item in items)
        assert (found["A"], found["B"]) == (codes[column]["0"], codes[column]["1"])
        assert found[None] == codes[column]["2"] + codes[column]["3"]
    assert len({item.patient for item in items}) == 851
    with pytest.raises(InputError, match="none of its 2344 images is below"):
        read(str(folder), GRADES)


def test_zona_folders_may_hold_patients(tmp_path) -> None:
    where = put(tmp_path, {"bound/P1/S1/a.png": "", "bound/b.png": "", "unbound/P2/c.png": ""})
    found = {name: (item.labels[CLASS], item.patient) for name, item in read(where).items()}
    assert found == {
        "bound/P1/S1/a.png": ("bound", "P1"),
        "bound/b.png": ("bound", None),
        "unbound/P2/c.png": ("unbound", "P2"),
    }


def test_synthetic_cohort_keeps_its_patients_and_has_no_facets(tmp_path) -> None:
    synth_crops(tmp_path / "c", patients=2, crops=4, fractions=0.5)
    found = read(str(tmp_path / "c"))
    assert Counter(item.patient for item in found.values()) == {"P001": 4, "P002": 4}
    assert Counter(item.labels[CLASS] for item in found.values()) == {"bound": 4, "unbound": 4}
    assert all(not item.facets for item in found.values())  # the slide lies within the patient


def test_crop_store_gives_labelled_rows_only(tmp_path) -> None:
    image = encode_png(np.zeros((4, 4, 3), np.uint8))
    with crops.StoreWriter(str(tmp_path)) as store:
        for name, label, angle in (("a", "bound", 270.0), ("b", None, 270.0), ("c", "bound", None)):
            store.add(
                {"crop_id": name, "patient_id": "P1", "slide_id": "S", "image": image,
                 "label": label, "angle": angle}
            )  # fmt: skip
    found = read(str(tmp_path))
    assert {name: item.framed for name, item in found.items()} == {"a": True, "c": False}
    assert found["a"].read() == image


def test_remote_sets_are_read_alike(s3: str) -> None:
    where = put(f"{s3}/set", {"labels.csv": "image,label\nx/a.png,up\n", "x/a.png": "bytes"})
    found = read(where)
    assert [*found] == ["x/a.png"]
    assert found["x/a.png"].read() == b"bytes"


def test_places_that_hold_no_set(tmp_path) -> None:
    with pytest.raises(InputError, match="no such folder; give a labelled folder or a crop store"):
        Listing.of(str(tmp_path / "x"))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        Listing.of(str(tmp_path / "a.png"))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "title", "images"),
    [("hushem", "HuSHeM", 216), ("smids", "SMIDS", 2400), ("hungvuong", "Hung Vuong", 718)],
)
def test_real_sets(real_data: Path, folder: str, title: str, images: int) -> None:
    found = Listing.of(str(real_data / folder))
    dataset = recognise(found)
    assert title == dataset.TITLE
    assert len([*dataset.items(found, ONE)]) == images
