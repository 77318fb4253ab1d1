"""What the network saw in each field, for an expert to check: a picture and a QuPath layer.

Every field gets ``overlays/MODEL/FIELD.jpg``, the field with each head outlined in the colour of
its class, and ``overlays/MODEL/FIELD.geojson``, the same outlines with class and probabilities,
which QuPath opens on the field's image (File, Import objects). The objects are annotations rather
than detections, because only annotations can be moved, redrawn and reclassified there.

Patients are done one after the other, so memory holds one patient's outlines and one field.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from fertiray import storage
from fertiray.data.crops import REJECT_SCHEMA, SCHEMA, parts
from fertiray.data.images import ImageError, decode
from fertiray.errors import InputError, StorageError
from fertiray.scoring.figures import class_colours
from fertiray.scoring.verdicts import ModelInfo

FOLDER = "overlays"
QUALITY = 88  # JPEG
LARGEST_SIDE = 2560  # pixels of the picture; the GeoJSON is always in pixels of the field
NOT_SCORED, GREY = "not scored", "#8A8A8A"
WHITE, INK = (255, 255, 255), (22, 35, 46)
HEAD = ["patient_id", "crop_id", "field", "cx", "cy", "major", "minor", "aspect", "contour"]
LEFT_OUT = ["patient_id", "field", "cx", "cy", "reason"]
NAMESPACE = uuid.UUID("5b0c7a52-7a3d-4c80-8a9e-0d5d1f1f7a10")  # of the objects' ids

Row = dict[str, Any]


@dataclass(frozen=True)
class OverlayCounts:
    """What was written.

    Attributes:
        fields: fields with a GeoJSON file.
        heads: outlines in them.
        pictures: fields whose image could be read, and so have a picture too.
    """

    fields: int
    heads: int
    pictures: int


def write_overlays(run: str, store: str, fields: str, model: str | None = None) -> OverlayCounts:
    """Writes picture and GeoJSON of every field that crops of the store come from.

    Args:
        run: run folder, local or ``s3://``, with ``scores/`` and ``run.json``.
        store: the crop store that was scored.
        fields: folder of the fields that were segmented; the store's ``field`` is relative to it.
        model: whose scores to show; the first of ``run.json`` by default.

    Returns:
        The counts; all zero for a store of ingested crops, which come from no field.

    Raises:
        InputError: no run or store there, or an unknown model.
    """
    record = json.loads(storage.read_bytes(storage.join(run, "run.json")))
    known = {str(entry["name"]): entry for entry in record["models"]}
    name = model or next(iter(known))
    if name not in known:
        raise InputError(f"--model {name}: not in this run; it has {', '.join(known)}")
    info = ModelInfo.from_meta(known[name])
    crop_files = [storage.join(store, part) for part in parts(store)]
    score_files = storage.list_files(storage.join(run, "scores"), ".parquet")
    if not crop_files or not score_files:
        missing = f"{run}: no scores" if crop_files else f"{store}: no crop store"
        raise InputError(f"{missing} there; run `fertiray run` or `fertiray score` first")
    heads, scores = _dataset(crop_files, SCHEMA), _dataset(score_files)
    lost_files = storage.list_files(storage.join(store, "rejects"), ".parquet")
    left_out = _dataset(lost_files, REJECT_SCHEMA) if lost_files else None
    place = storage.join(run, FOLDER, name.replace("/", "_"))
    columns = ["crop_id", "label", *(f"p_{label}" for label in info.classes)]
    colours = {**class_colours(info.classes, info.positive), NOT_SCORED: GREY}
    written = outlines = pictures = 0
    for patient in _patients(heads):
        mine = pc.field("patient_id") == patient
        cut = _frame(heads, HEAD, mine & pc.field("contour").is_valid())
        scored = _frame(scores, columns, mine & (pc.field("model") == name))
        lost = left_out and _frame(left_out, LEFT_OUT, mine & pc.field("cx").is_valid())
        table = cut.join(scored, on="crop_id", how="left").with_columns(
            pl.col("label").fill_null(NOT_SCORED)
        )
        for (field,), rows in table.sort("field", "cy", "cx").group_by(
            "field", maintain_order=True
        ):
            target = storage.join(place, _inside(str(field)))
            found = rows.to_dicts()
            collection = feature_collection(found, info.classes, colours)
            storage.write_bytes(f"{target}.geojson", json.dumps(collection).encode())
            image = _image(storage.join(fields, str(field)))
            if image is not None:
                missed = [] if lost is None else lost.filter(pl.col("field") == field).to_dicts()
                storage.write_bytes(f"{target}.jpg", picture(image, found, missed, colours))
            written, outlines = written + 1, outlines + len(found)
            pictures += image is not None
    return OverlayCounts(written, outlines, pictures)


def feature_collection(
    heads: Sequence[Row], classes: Sequence[str], colours: Mapping[str, str]
) -> Row:
    """A GeoJSON FeatureCollection in pixels of the field, as QuPath exports and imports it.

    QuPath puts (0, 0) at the corner of the first pixel and OpenCV at its centre, hence half a
    pixel is added.

    Args:
        heads: rows with the store's ``crop_id, contour, major, minor, aspect`` and the score's
            ``label`` and ``p_CLASS``.
        classes: the model's classes.
        colours: ``#rrggbb`` of every label.

    Returns:
        One annotation per head: a closed polygon, its class, and measurements.
    """
    return {
        "type": "FeatureCollection",
        "features": [_feature(head, classes, colours) for head in heads],
    }


def _feature(head: Row, classes: Sequence[str], colours: Mapping[str, str]) -> Row:
    ring = (np.asarray(head["contour"], float).reshape(-1, 2) + 0.5).round(2).tolist()
    measured = {
        **{f"p_{label}": head[f"p_{label}"] for label in classes},
        **{f"{name} (px)": head[name] for name in ("major", "minor")},
        "aspect": head["aspect"],
    }
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, head["crop_id"])),
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {
            "objectType": "annotation",
            "name": head["crop_id"],
            "classification": {"name": head["label"], "color": _rgb(colours[head["label"]])},
            "isLocked": False,
            "measurements": {
                key: round(value, 5) for key, value in measured.items() if value is not None
            },
        },
    }


def picture(
    image: NDArray[np.uint8],
    heads: Sequence[Row],
    left_out: Sequence[Row],
    colours: Mapping[str, str],
) -> bytes:
    """The field as JPEG with outlines, labels and a legend; left-out heads as named grey crosses.

    Args:
        image: the field, HWC uint8 RGB.
        heads: rows as for :func:`feature_collection`.
        left_out: rows with ``cx, cy, reason`` of candidates that were not scored.
        colours: ``#rrggbb`` of every label.
    """
    zoom = min(1.0, LARGEST_SIDE / max(image.shape[:2]))
    size = (round(image.shape[1] * zoom), round(image.shape[0] * zoom))
    canvas = np.array(image)
    if zoom < 1:
        canvas = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    pen = max(1, round(max(size) / 1000))
    for row in left_out:
        at = (round(row["cx"] * zoom), round(row["cy"] * zoom))
        cv2.drawMarker(canvas, at, _rgb(GREY), cv2.MARKER_TILTED_CROSS, 8 * pen, pen, cv2.LINE_AA)
        _write(canvas, row["reason"], (at[0] + 7 * pen, at[1] + 4 * pen), pen)
    for head in heads:
        points = np.asarray(head["contour"], float).reshape(-1, 2) * zoom
        outline = points.round().astype(np.int32)
        for ink, width in ((WHITE, 4 * pen), (_rgb(colours[head["label"]]), 2 * pen)):
            cv2.polylines(canvas, [outline], True, ink, width, cv2.LINE_AA)
        score = head.get(f"p_{head['label']}")
        text = head["label"] if score is None else f"{head['label']} {score:.2f}"
        right = (int(points[:, 0].max()) + 4 * pen, int(points[:, 1].mean()) + 4 * pen)
        _write(canvas, text, right, pen)
    whole = np.vstack([canvas, _legend(size[0], heads, left_out, colours, pen)])
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(whole, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    assert done  # an in-memory JPEG of a valid array
    return bytes(data)


def _legend(
    width: int, heads: Sequence[Row], left_out: Sequence[Row], colours: Mapping[str, str], pen: int
) -> NDArray[np.uint8]:
    strip = np.full((30 * pen, width, 3), 255, np.uint8)
    counts = {label: sum(head["label"] == label for head in heads) for label in colours}
    entries = [(f"{label}: {n}", colours[label]) for label, n in counts.items() if n]
    if left_out:
        entries.append((f"left out: {len(left_out)}", GREY))
    x = 10 * pen
    for text, colour in entries:
        cv2.rectangle(strip, (x, 9 * pen), (x + 12 * pen, 21 * pen), _rgb(colour), -1)
        _write(strip, text, (x + 18 * pen, 20 * pen), pen)
        x += 34 * pen + cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * pen, pen)[0][0]
    return strip


def _write(canvas: NDArray[np.uint8], text: str, at: tuple[int, int], pen: int) -> None:
    """Dark text in a white halo, so that it reads on any stain; it stays inside the picture."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45 * pen
    x = min(at[0], canvas.shape[1] - cv2.getTextSize(text, font, scale, pen)[0][0] - 2 * pen)
    around = [(dx, dy) for dx in (-pen, 0, pen) for dy in (-pen, 0, pen) if (dx, dy) != (0, 0)]
    for (dx, dy), ink in [*((shift, WHITE) for shift in around), ((0, 0), INK)]:
        cv2.putText(canvas, text, (x + dx, at[1] + dy), font, scale, ink, pen, cv2.LINE_AA)


def _rgb(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def _dataset(files: Sequence[str], schema: pa.Schema | None = None) -> ds.Dataset:
    fs, _ = storage.filesystem(files[0])
    paths = [storage.filesystem(file)[1] for file in files]
    return ds.dataset(paths, schema=schema, format="parquet", filesystem=fs)


def _frame(dataset: ds.Dataset, columns: list[str], chosen: pc.Expression) -> pl.DataFrame:
    frame = pl.from_arrow(dataset.to_table(columns=columns, filter=chosen, use_threads=False))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _patients(heads: ds.Dataset) -> Iterator[str]:
    seen: set[str] = set()
    for batch in heads.to_batches(columns=["patient_id"], filter=pc.field("field").is_valid()):
        seen |= set(pc.unique(batch.column("patient_id")).to_pylist())
    yield from sorted(seen)


def _inside(field: str) -> str:
    """The field's path, as long as it stays in its folder."""
    path = PurePosixPath(field)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"field {field!r} in the store leads out of its folder; segment again")
    return str(path)


def _image(location: str) -> NDArray[np.uint8] | None:
    """The field's pixels, or None where it is gone or cannot be read."""
    try:
        return decode(storage.read_bytes(location), name=location)
    except StorageError:  # the next file would fail too
        raise
    except (InputError, ImageError):
        return None
