"""The report as a browser reads it: complete, self-contained, safe, navigable."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest

from fertiray import storage
from fertiray.errors import InputError
from fertiray.scoring import contents
from fertiray.scoring.aggregate import aggregate, write_tables
from fertiray.scoring.report import _from_to, write_report
from fertiray.scoring.verdicts import ModelInfo

HOSTILE = '<script>alert("x")</script>&\'"=P'
ZONA = {
    "name": "zona",
    "task": "zona",
    "classes": ["unbound", "bound"],
    "positive": "bound",
    "digest": "9f2c4e1ab77d0c35f1e2",
    "operating": {
        "threshold": 0.5,
        "sensitivity": 0.976,
        "specificity": 0.96,
        "n_positive": 1250,
        "n_negative": 1460,
    },
}
HEAD = {
    "name": "head",
    "task": "morphology",
    "classes": ["Normal", "Tapered"],
    "positive": "Normal",
}
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Collects elements with their attributes, and text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1])


def score_rows(
    patient: str, slide: str, model: str, labels: dict[str, int]
) -> list[tuple[str, ...]]:
    return [(patient, slide, model, label) for label, n in labels.items() for _ in range(n)]


def make_run(run: str, **record: Any) -> str:
    """A run of two models and four patients: clear, hostile name, indeterminate, all rejected."""
    rows = []
    for patient, positive in (("P10", 200), (HOSTILE, 20), ("P2", 70)):
        for slide in ("s1", "s2"):
            counts = {"bound": positive, "unbound": 400 - positive}
            rows += score_rows(patient, slide, "zona", counts)
            rows += score_rows(patient, slide, "head", {"Normal": 16, "Tapered": 384})
    names = ["patient_id", "slide_id", "model", "label"]
    scores = pl.DataFrame(rows, schema=names, orient="row")
    rejects = pl.DataFrame(
        [("c1", "lost", "s1", "decode", "truncated: the file ends early"), ("c2",) + ("P2",) * 4],
        schema=["crop_id", "patient_id", "slide_id", "stage", "error"],
        orient="row",
    )
    models = {entry["name"]: ModelInfo.from_meta(entry) for entry in (ZONA, HEAD)}
    write_tables(run, aggregate(scores, rejects, models))
    pictures = [
        ("zona", patient, "s1", f"{patient}-{i}", label, 1 - i / 100, kind, jpeg(i))
        for patient in ("P10", HOSTILE)
        for kind, label, n in (("confident", "bound", 4), ("uncertain", "unbound", 3))
        for i in range(n)
    ]
    gallery = pl.DataFrame(pictures, schema=GALLERY, orient="row")
    for folder, frame in (("rejects", rejects), ("gallery", gallery)):
        data = storage.join(run, folder, "part.parquet")
        storage.write_bytes(data, parquet(frame))
    storage.write_bytes(
        storage.join(run, "run.json"), json.dumps({"models": [ZONA, HEAD], **record}).encode()
    )
    return run


GALLERY = {
    **dict.fromkeys(("model", "patient_id", "slide_id", "crop_id", "label"), pl.String),
    "confidence": pl.Float32,
    "kind": pl.String,
    "image": pl.Binary,
}


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    run = make_run(
        str(tmp_path_factory.mktemp("run")),
        command="fertiray run smears --out run",
        notes=["trained on another stain <b>"],
        versions={"torch": "2.11", "ray": "2.60"},
        counts={"rows_in": 2402, "scored": 2400, "rejected": 2},
        started="2025-06-01T09:12:00+00:00",
    )
    return Page(Path(write_report(run)).read_text())


def test_nothing_comes_from_outside(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset", "xlink:href"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/")), (tag, name, value)
    assert not page.all("link")
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_names_and_notes_are_text_and_never_markup(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert HOSTILE in page.text
    assert "trained on another stain <b>" in page.text
    rows = [row["data-name"] for row in page.all("tr") if "data-name" in row]
    assert HOSTILE.lower() in rows


def test_it_can_be_read_with_a_screen_reader_and_a_keyboard(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(picture["alt"] for picture in page.all("img"))
    drawings = page.all("svg")
    assert all("aria-label" in svg or svg["aria-hidden"] == "true" for svg in drawings)
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [link["href"] for link in page.all("a")]
    assert {link[1:] for link in links} <= targets


def test_every_patient_has_a_row_and_a_section_per_model_in_natural_order(page: Page) -> None:
    sections = [article["data-name"] for article in page.all("article")]
    assert sections == [HOSTILE.lower(), "lost", "p2", "p10"]
    rows = [row["data-name"] for row in page.all("tr") if "data-name" in row]
    assert rows == 2 * sections


def test_the_numbers_are_there_in_words(page: Page) -> None:
    # P10: 400 of 800 counted; (0.5 + 0.96 - 1) / 0.936 = 49.1%
    assert "50.0% as counted: 400 of 800" in page.text
    assert "49.1%" in page.text
    # the hostile one: 40 of 800 = 5%; (0.05 + 0.96 - 1) / 0.936 = 1.07%
    assert "1.07%" in page.text
    assert (
        "Without the correction (read as in the paper, 5.00% as counted) it would read" in page.text
    )
    assert "ICSI is to be considered, together with all other findings." in page.text
    # P2: 140 of 800 is far above; morphology 32 of 800 is 4% itself
    assert "More heads would not settle it: the estimate lies on the threshold itself." in page.text
    assert "Not one head of this patient could be scored (1 rejected)" in page.text
    assert "The 2 slides agree" in page.text
    assert "For research. Not a diagnosis." in page.text
    assert "sensitivity of 97.6% (of 1,250) and a specificity of 96.0% (of 1,460)" in page.text
    assert "rows in 2,402, scored 2,400, rejected 2" in page.text
    assert "1 truncated (scoring)" in page.text


def test_pictures_are_shown_where_there_are_some(page: Page) -> None:
    assert len(page.all("img")) == 2 * (4 + 3)
    assert all(
        picture["src"].startswith("data:image/jpeg;base64,/9j/") for picture in page.all("img")
    )


def test_intervals_are_drawn_where_they_lie(page: Page) -> None:
    """P10's counted interval, from Wilson's limits to the figure's axis of 0 to 1.12 x high."""
    labels = [svg["aria-label"] for svg in page.all("svg") if svg.get("class") == "against"]
    assert len(labels) == 6
    # statsmodels: proportion_confint(400, 800, method="wilson") = 0.46540, 0.53460
    assert "as counted 50.0%, 95% interval 46.5 to 53.5%; threshold 4.9%" in labels[-2]


def test_a_run_that_says_little_is_reported_too(tmp_path: Path) -> None:
    text = Page(Path(write_report(make_run(str(tmp_path)))).read_text()).text
    assert "50.0% as counted" in text
    assert "None" not in text


def test_it_works_on_a_remote_file_system() -> None:
    where = write_report(make_run("memory://runs/one"))
    assert where == "memory://runs/one/report.html"
    assert storage.read_bytes(where).startswith(b"<!DOCTYPE html>")


def test_heads_left_out_while_cutting_are_shown_by_reason(tmp_path: Path) -> None:
    left_out = pl.DataFrame({"patient_id": ["P2", "P2", "gone"], "reason": ["overlap"] * 3})
    store = tmp_path / "store"
    storage.write_bytes(storage.join(store, "rejects", "part-0.parquet"), parquet(left_out))
    run = make_run(str(tmp_path / "run"), store=str(store))
    text = Page(Path(write_report(run)).read_text()).text
    assert "2 overlap (cutting out heads)" in text
    assert "Not a single head could be cut out for 1 patient: gone" in text
    assert "2,400 sperm heads scored, 2 rejected" in text


def test_large_cohorts_get_fewer_pictures_not_larger_pages(tmp_path: Path) -> None:
    image = bytes(4_000)
    rows = [
        (model, f"P{patient}", "s1", f"{patient}-{i}", label, i / 10, kind, image)
        for model in ("zona", "head")
        for patient in range(117)
        for kind, label, n in (("confident", "a", 4), ("confident", "b", 4), ("uncertain", "a", 6))
        for i in range(n)
    ]
    storage.write_bytes(
        storage.join(tmp_path, "gallery", "part.parquet"),
        parquet(pl.DataFrame(rows, schema=GALLERY, orient="row")),
    )
    found = contents.pictures(str(tmp_path))
    size = sum(len(row["image"]) for rows in found.values() for row in rows)
    assert 0.5 * contents.IMAGE_BYTES < size <= contents.IMAGE_BYTES
    assert len({(key[0], key[1]) for key in found}) == 2 * 117


def test_the_surest_and_the_least_sure_are_picked_across_files(tmp_path: Path) -> None:
    for part in range(2):
        rows = [
            ("zona", "P1", "s1", f"{part}{i}", "bound", 0.5 + i / 20 + part / 100, kind, b"x")
            for kind in ("confident", "uncertain")
            for i in range(8)
        ]
        frame = pl.DataFrame(rows, schema=GALLERY, orient="row")
        storage.write_bytes(storage.join(tmp_path, "gallery", f"{part}.parquet"), parquet(frame))
    found = contents.pictures(str(tmp_path))
    sure = [round(row["confidence"], 2) for row in found["zona", "P1", "confident", "bound"]]
    unsure = [round(row["confidence"], 2) for row in found["zona", "P1", "uncertain", "bound"]]
    assert sure == [0.86, 0.85, 0.81, 0.8]
    assert unsure == [0.5, 0.51, 0.55, 0.56, 0.6, 0.61]


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json: no such file"):
        write_report(str(tmp_path))
    run = make_run(str(tmp_path / "run"))
    storage.write_bytes(storage.join(run, "run.json"), json.dumps({"models": [ZONA]}).encode())
    with pytest.raises(InputError, match=r"run\.json names no model 'head'"):
        write_report(run)


def test_the_pages_script_is_the_one_its_policy_allows(page: Page, tmp_path: Path) -> None:
    text = Path(write_report(make_run(str(tmp_path)))).read_text()
    script = re.search(r"<script>(.*?)</script>\s*</body>", text, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert f"'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    ("least", "most", "text"),
    [(0.171, 0.171, "17%"), (0.168, 0.172, "17%"), (0.17, 0.4, "17% to 40% of each")],
)
def test_one_share_is_no_range(least, most, text):
    assert _from_to(least, most) == text
