"""Overlays: GeoJSON that a reader can rely on, and pictures of the right heads."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest

from fertiray.data import crops
from fertiray.data.images import decode, encode_png
from fertiray.errors import InputError
from fertiray.scoring.overlays import OverlayCounts, write_overlays

MODEL = {"name": "zona", "task": "zona", "classes": ["unbound", "bound"], "positive": "bound"}
WIDTH, HEIGHT = 160, 120
PALE = (235, 225, 230)
# field -> centres of its heads, whole pixels
FIELDS = {
    "p1/s1/f1.png": [(40, 40), (110, 80)],
    "p1/s2/f1.png": [(60, 60)],
    "p2/s1/f9.png": [(30, 90), (80, 30), (140, 100)],
}


def outline(cx: int, cy: int) -> np.ndarray[Any, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (cx, cy), (12, 8), 0, 0, 360, 255, -1)
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return found[0].reshape(-1, 2)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Fields, the store of their heads, and a run that scored all heads but one."""
    rows = []
    with crops.StoreWriter(str(tmp_path / "store")) as store:
        for field, centres in FIELDS.items():
            image = np.full((HEIGHT, WIDTH, 3), PALE, np.uint8)
            patient, slide, _ = field.split("/")
            for number, (cx, cy) in enumerate(centres):
                contour = outline(cx, cy)
                cv2.fillPoly(image, [contour.astype(np.int32)], (90, 40, 110))
                row = {
                    "patient_id": patient,
                    "slide_id": slide,
                    "crop_id": f"{field}-{number}",
                    "image": b"",
                    "field": field,
                    "cx": cx,
                    "cy": cy,
                    "major": 25,
                    "minor": 17,
                    "angle": 0,
                    "aspect": 25 / 17,
                    "contour": contour.ravel().tolist(),
                }
                store.add(row)
                rows.append(row)
            where = tmp_path / "fields" / field
            where.parent.mkdir(parents=True)
            where.write_bytes(encode_png(image))
    lost = {"patient_id": "p1", "slide_id": "s1", "field": "p1/s1/f1.png", "cx": 150, "cy": 10}
    crops.write_rejects(
        str(tmp_path / "store"),
        0,
        [{**lost, "stage": "segment", "reason": "border", "error": "border: cut off"}],
    )
    (tmp_path / "run" / "scores").mkdir(parents=True)
    scores = pl.DataFrame([{k: row[k] for k in ("crop_id", "patient_id")} for row in rows[:-1]])
    scores.with_columns(
        model=pl.lit("zona"),
        label=pl.Series(["bound", "unbound"] * 3)[: scores.height],
        p_unbound=pl.Series([0.125, 0.75] * 3)[: scores.height].cast(pl.Float32),
        p_bound=pl.Series([0.875, 0.25] * 3)[: scores.height].cast(pl.Float32),
    ).write_parquet(tmp_path / "run" / "scores" / "a.parquet")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"models": [MODEL]}))
    return tmp_path


def write(place: Path, **options: str) -> OverlayCounts:
    return write_overlays(
        str(place / "run"), str(place / "store"), str(place / "fields"), **options
    )


def collection(place: Path, field: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (place / "run" / "overlays" / "zona" / f"{field}.geojson").read_text()
    )
    return found


def test_every_head_of_every_field_comes_out_once(place: Path) -> None:
    assert write(place) == OverlayCounts(fields=3, heads=6, pictures=3)
    for field, centres in FIELDS.items():
        names = [f["properties"]["name"] for f in collection(place, field)["features"]]
        assert sorted(names) == [f"{field}-{number}" for number in range(len(centres))]


def test_geojson_is_what_qupath_and_rfc_7946_expect(place: Path) -> None:
    write(place)
    ids = []
    for field in FIELDS:
        found = collection(place, field)
        assert found["type"] == "FeatureCollection"
        for feature in found["features"]:
            assert set(feature) == {"type", "id", "geometry", "properties"}
            assert feature["type"] == "Feature"
            assert feature["geometry"]["type"] == "Polygon"
            (ring,) = feature["geometry"]["coordinates"]
            assert ring[0] == ring[-1]
            assert len(ring) >= 4
            assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in ring)
            properties = feature["properties"]
            assert properties["objectType"] == "annotation"  # the kind that QuPath lets one edit
            assert len(properties["classification"]["color"]) == 3
            assert all(isinstance(value, float) for value in properties["measurements"].values())
            ids.append(str(uuid.UUID(feature["id"])))
    assert len(set(ids)) == 6


def test_class_probabilities_and_outline_are_those_of_the_head(place: Path) -> None:
    write(place)
    first, second = collection(place, "p1/s1/f1.png")["features"]
    assert first["properties"]["classification"] == {"name": "bound", "color": [0, 114, 178]}
    assert first["properties"]["measurements"] == {
        "p_unbound": 0.125,
        "p_bound": 0.875,
        "major (px)": 25.0,
        "minor (px)": 17.0,
        "aspect": 1.47059,
    }
    assert second["properties"]["classification"]["name"] == "unbound"
    ring = np.array(first["geometry"]["coordinates"][0][:-1])
    np.testing.assert_array_equal(ring - 0.5, outline(40, 40))


def test_a_head_that_was_not_scored_is_shown_as_such(place: Path) -> None:
    write(place)
    labels = {
        feature["properties"]["name"]: feature["properties"]["classification"]["name"]
        for feature in collection(place, "p2/s1/f9.png")["features"]
    }
    assert labels["p2/s1/f9.png-2"] == "not scored"
    assert set(labels.values()) == {"not scored", "bound", "unbound"}


def test_the_picture_outlines_the_heads_in_their_class_colours(place: Path) -> None:
    write(place)
    folder = place / "run" / "overlays" / "zona"
    picture = decode((folder / "p1/s1/f1.png.jpg").read_bytes()).astype(int)
    assert picture.shape[1] == WIDTH
    assert picture.shape[0] > HEIGHT  # the legend below
    top_of_first, top_of_second = picture[40 - 8, 40], picture[80 - 8, 110]
    assert np.abs(top_of_first - (0, 114, 178)).max() < 60  # bound, Okabe-Ito blue
    assert np.abs(top_of_second - (230, 159, 0)).max() < 60  # unbound, Okabe-Ito orange
    np.testing.assert_allclose(picture[110, 20], PALE, atol=6)  # nothing drawn here


def test_a_field_that_is_gone_still_has_its_geojson(place: Path) -> None:
    (place / "fields" / "p1/s2/f1.png").unlink()
    (place / "fields" / "p2/s1/f9.png").write_bytes(b"not an image")
    assert write(place) == OverlayCounts(fields=3, heads=6, pictures=1)
    assert len(collection(place, "p1/s2/f1.png")["features"]) == 1


def test_a_field_name_cannot_lead_out_of_the_run(place: Path) -> None:
    part = place / "store" / "part-00000.parquet"
    pl.read_parquet(part).with_columns(field=pl.lit("../../x")).write_parquet(part)
    with pytest.raises(InputError, match="leads out of its folder"):
        write(place)


def test_unknown_models_and_missing_folders_are_named(place: Path) -> None:
    with pytest.raises(InputError, match="--model other: not in this run; it has zona"):
        write(place, model="other")
    with pytest.raises(InputError, match="no crop store there"):
        write_overlays(str(place / "run"), str(place / "fields"), str(place / "fields"))
    (place / "run" / "scores" / "a.parquet").unlink()
    with pytest.raises(InputError, match="no scores there"):
        write(place)
