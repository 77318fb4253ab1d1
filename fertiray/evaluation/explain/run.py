"""``fertiray explain``: a checkpoint and images in, overlays, heatmaps and numbers out."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fertiray import storage
from fertiray.checkpoint import load_predictor
from fertiray.data.datasets import CLASS
from fertiray.data.frame import one_thread
from fertiray.data.images import encode_png
from fertiray.errors import InputError
from fertiray.evaluation.explain.explainer import Explainer
from fertiray.evaluation.explain.localise import points_inside, share_inside
from fertiray.evaluation.explain.overlay import overlay
from fertiray.evaluation.explain.pictures import Failed, Picture, evenly, pictures
from fertiray.evaluation.explain.sanity import sanity as correlate
from fertiray.evaluation.explain.sanity import spread
from fertiray.models.predict import call

SANITY_IMAGES = 50
"""As many as the MS-Res paper's check takes."""

BATCH = 4
"""Images at a time: what backward needs of one image takes 0.35 GB in MS-Res at 224 px."""

Row = dict[str, Any]
Heat = dict[str, NDArray[np.float32]]


def explain(
    checkpoint: str,
    images: str,
    *,
    method: str,
    out: str,
    layers: Sequence[str] | None = None,
    target: str | None = None,
    task: str | None = None,
    sanity: Literal["none", "last", "cascade"] = "none",
    limit: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Explains what a checkpoint says of images, each prepared as its training images were.

    ``out`` gets ``explain.json`` (what is returned), ``overlays/`` with a PNG for each image and
    layer, and ``heat/`` with an ``.npz`` for each image: S x S float16 in [0, 1] by layer.

    Args:
        checkpoint: checkpoint folder, local or ``s3://``.
        images: an image file, a folder of images at any depth (labelled or not), or a crop store;
            local or ``s3://``.
        method: ``gradcam``, ``gradcam++`` or ``saliency``.
        out: folder to write, local or ``s3://``.
        layers: names of the network's feature maps; by default the last one.
        target: the class to explain; by default the one that each image is called.
        task: of a multi-task checkpoint; by default its first one.
        sanity: ``none``, ``last`` or ``cascade``; see
            :func:`fertiray.evaluation.explain.sanity.sanity`. At most :data:`SANITY_IMAGES`
            images, evenly spread, are checked.
        limit: explain only so many images, at least one, evenly spread over the sorted names.
        device: a torch device.
        seed: of the sanity check's random weights.

    Returns:
        ``maps``, one entry for each image and layer: ``image``, ``layer``, ``method``, ``task``,
        ``class`` and its ``probability``, the ``predicted`` class, ``overlay`` and ``heat`` (paths
        below ``out``), ``inside_head``, ``points_inside`` and ``area_share`` (see
        :mod:`fertiray.evaluation.explain.localise`); ``failed``, with ``image`` and ``error``;
        ``summary`` with ``images``, ``failed``, ``without_head``, ``layers`` (by layer the spread
        of ``inside_head`` and ``area_share``, and ``pointing``, the share of images whose hottest
        pixel is inside) and ``sanity``. What is not known is None.

    Raises:
        InputError: no usable checkpoint, nothing to explain, or an unknown method, layer, class
            or task; lists the valid ones.
    """
    study = _Study(checkpoint, method, layers, target, task, device)
    maps: list[Row] = []
    failed: list[Row] = []
    heads: list[bool] = []
    checked: list[tuple[Picture, str]] = []
    with one_thread():
        count, found = pictures(images, study.meta, limit)
        to_check = evenly(count, SANITY_IMAGES) if sanity != "none" else frozenset()
        usable = _usable(found, failed)
        while batch := [*islice(usable, study.explainer.batch_size)]:
            results = study.explain(np.stack([picture.crop for _, picture in batch]))
            for (place, picture), (about, heat) in zip(batch, results, strict=True):
                stem = f"{place:05d}-{_slug(picture.name)}"
                maps += [
                    {"image": picture.name, **about, **row}
                    for row in _written(out, stem, picture, heat)
                ]
                heads.append(picture.head is not None)
                if place in to_check:
                    checked.append((picture, about["class"]))
    result = {
        "checkpoint": checkpoint,
        "images": images,
        "maps": maps,
        "failed": failed,
        "summary": {
            "images": len(heads),
            "failed": len(failed),
            "without_head": heads.count(False),
            "layers": {layer: _localisation(maps, layer) for layer in study.layers},
            "sanity": None
            if sanity == "none" or not checked
            else correlate(
                study.explainer,
                np.stack([picture.crop for picture, _ in checked]),
                method,
                sanity,
                classes=np.array([study.classes.index(name) for _, name in checked], np.int64),
                layers=study.layers,
                task=study.head,
                seed=seed,
            ),
        },
    }
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    storage.write_bytes(storage.join(out, "explain.json"), text.encode())
    return result


class _Study:
    """A checkpoint and what is asked of it.

    Attributes:
        meta: of the checkpoint.
        explainer: of its network.
        layers: names of the maps that are explained.
        task: name of the task.
        head: the same where the network has several, None where it has one.
        classes: class names of the task.
    """

    def __init__(
        self,
        checkpoint: str,
        method: str,
        layers: Sequence[str] | None,
        target: str | None,
        task: str | None,
        device: str,
    ) -> None:
        self.predictor, self.meta = load_predictor(checkpoint, device=device)
        tasks = dict(self.meta.tasks) or {
            self.meta.config.get("task") or CLASS: self.meta.classes,
        }
        self.task = _known("task", task or next(iter(tasks)), tasks)
        self.head = self.task if self.meta.tasks else None
        self.classes = tasks[self.task]
        self.target = None if target is None else _known("class", target, self.classes)
        self.method = method
        self.explainer = Explainer(self.predictor.model, self.meta.preprocessing, device, BATCH)
        self.layers = self.explainer.chosen(method, layers)

    def explain(self, crops: NDArray[np.uint8]) -> list[tuple[Row, Heat]]:
        """What is said of each of N crops, and the heatmaps of it by layer."""
        probabilities = self.predictor.by_task(crops)[self.head or CLASS]
        called = self._called(probabilities)
        explained = called
        if self.target is not None:
            explained = np.full(len(crops), self.classes.index(self.target))
        heat = self.explainer(crops, self.method, self.layers, explained, self.head)
        return [
            (
                {
                    "method": self.method,
                    "task": self.task,
                    "class": self.classes[explained[i]],
                    "probability": float(probabilities[i, explained[i]]),
                    "predicted": self.classes[called[i]],
                },
                {layer: values[i] for layer, values in heat.items()},
            )
            for i in range(len(crops))
        ]

    def _called(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """The classes called: as in evaluation, the threshold decides between two classes only."""
        first = next(iter(self.meta.tasks), self.task)
        if len(self.classes) > 2 or self.task != first:
            return np.asarray(probabilities.argmax(1), np.int64)
        positive = self.classes.index(self.meta.positive)
        return call(probabilities, positive, self.meta.operating.threshold)


def _known(kind: str, name: str, valid: Iterable[str]) -> str:
    if name not in valid:
        raise InputError(f"{kind} {name!r} is unknown; choose one of: {', '.join(valid)}")
    return name


def _usable(found: Iterable[Picture | Failed], failed: list[Row]) -> Iterator[tuple[int, Picture]]:
    """The pictures with their places; what is none is noted."""
    for place, picture in enumerate(found):
        if isinstance(picture, Failed):
            failed.append({"image": picture.name, "error": picture.error})
        else:
            yield place, picture


def _written(out: str, stem: str, picture: Picture, heat: Heat) -> Iterator[Row]:
    """Writes an image's files and says what they show, layer by layer."""
    packed = io.BytesIO()
    halves: dict[str, Any] = {layer: own.astype(np.float16) for layer, own in heat.items()}
    np.savez_compressed(packed, **halves)
    kept = f"heat/{stem}.npz"
    storage.write_bytes(storage.join(out, kept), packed.getvalue())
    for layer, own in heat.items():
        drawn = f"overlays/{stem}-{layer}.png"
        storage.write_bytes(storage.join(out, drawn), encode_png(overlay(picture.crop, own)))
        head = picture.head
        yield {
            "layer": layer,
            "overlay": drawn,
            "heat": kept,
            "inside_head": None if head is None else share_inside(own, head),
            "points_inside": None if head is None else points_inside(own, head),
            "area_share": None if head is None else float(head.mean()),
        }


def _localisation(maps: Sequence[Row], layer: str) -> Row:
    """The numbers of one layer over all images that have them."""
    own = [row for row in maps if row["layer"] == layer and row["inside_head"] is not None]
    return {
        "inside_head": spread([row["inside_head"] for row in own]),
        "area_share": spread([row["area_share"] for row in own]),
        "pointing": spread([float(row["points_inside"]) for row in own])["mean"],
    }


def _slug(name: str) -> str:
    """A name that is safe on any file system; the place before it keeps it apart from others."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)[-60:].strip("._-")
