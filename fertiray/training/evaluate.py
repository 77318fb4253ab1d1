"""``fertiray evaluate``: a checkpoint and a labelled set in, metrics with intervals out."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fertiray import checkpoint, parquet, storage
from fertiray.data.datasets import Listing, recognise
from fertiray.data.labelled import LabelledCrops, load_labelled
from fertiray.data.splits import load_split
from fertiray.errors import InputError
from fertiray.evaluation.trust import trust
from fertiray.models.predict import Views
from fertiray.training.predictions import Predictions, in_order_of
from fertiray.training.train import SPLIT

SPLITS = ("training", "validation", "test", "all")


def evaluate(
    folder: str,
    data: str,
    *,
    split: str | None = None,
    device: str = "cpu",
    views: Views | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Measures a checkpoint on labelled images, prepared as its training images were.

    With two classes an image is called positive from the checkpoint's threshold on. With more the
    most probable class is called, as the papers do, and ``operating`` says what the threshold does.

    Args:
        folder: checkpoint folder, local or ``s3://``.
        data: labelled folder or labelled crop store.
        split: the ``training``, ``validation`` or ``test`` part of the training data, or ``all``
            images. By default the test part where these are the training data (the validation
            part where none was held out for testing), and all of other data.
        device: a torch device.
        views: test-time views; the checkpoint's own by default.
        out: Parquet file for the predictions, one row an image.

    Returns:
        Fields of :meth:`fertiray.training.predictions.Predictions.results` for the first task
        that the data grade; ``tasks`` with all of them where the network has several;
        ``operating``; ``trust``: :func:`fertiray.evaluation.trust.trust`; ``split``;
        ``seen_in_training``, how many of the images the network has learned from, by their pixels;
        ``cautions``.

    Raises:
        InputError: classes that the checkpoint does not know, a part that is not there or empty, or
            data that are not those of the split.
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"--split {split}: unknown; choose one of: {', '.join(SPLITS)}")
    predictor, meta = checkpoint.load_predictor(folder, device=device, views=views)
    tasks = dict(meta.tasks) or {meta.config.get("task") or "class": meta.classes}
    crops = _load(folder, data, tasks, meta)
    truth = in_order_of(tasks, crops)
    part, picked = _part(folder, meta.data_digest, crops, data, split)
    predicted = predictor.predict(crops.images[picked])
    predictions = Predictions.of(
        crops,
        picked,
        tasks,
        truth[picked],
        # A network with one task calls it "class", whatever the data call it.
        dict(zip(tasks, predicted.probabilities.values(), strict=True)),
        meta.positive,
        meta.operating.threshold,
    )
    results = predictions.results(seed=0)
    if out is not None:
        parquet.write(out, predictions.table())
    learned = learned_digests(folder)
    seen = sum(crops.digests[i] in learned for i in picked)
    return {
        **next(iter(results.values())),
        **({"tasks": results} if len(tasks) > 1 else {}),
        "operating": predictions.operating(),
        "trust": trust(predicted, truth[picked]),
        "split": part,
        "seen_in_training": seen,
        "cautions": _cautions(part, seen, len(picked)),
        "checkpoint": folder,
        "data": data,
        "data_digest": crops.digest,
        "views": predictor.views,
        "excluded": excluded(crops),
        "unframed": len(crops.unframed),
    }


def excluded(crops: LabelledCrops) -> dict[str, int]:
    """How many images were left out when the data were read, by reason."""
    return dict(sorted(Counter(entry.reason for entry in crops.excluded).items()))


def learned_digests(folder: str) -> frozenset[str]:
    """Pixel digests of the images that a checkpoint was trained on; none where it has no split.

    Args:
        folder: checkpoint folder.
    """
    place = storage.join(folder, SPLIT)
    if not storage.exists(place):
        return frozenset()
    try:
        return frozenset(json.loads(storage.read_bytes(place))["digests"]["training"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}: not the file of a split; copy the checkpoint again") from error


def _load(
    folder: str, data: str, tasks: dict[str, tuple[str, ...]], meta: checkpoint.Meta
) -> LabelledCrops:
    """The data as the checkpoint's training images were prepared."""
    frame = meta.config.get("frame", "as_is")
    try:
        return load_labelled(data, meta.preprocessing, tasks, frame=frame)
    except InputError as error:
        listing = Listing.of(data)
        items = recognise(listing).items(listing, tuple(tasks))
        found = {(task, name) for item in items for task, name in item.labels.items() if name}
        if all(name in tasks[task] for task, name in found):
            raise
        theirs = ", ".join(sorted(name for _, name in found))
        own = ", ".join(name for classes in tasks.values() for name in classes)
        raise InputError(
            f"{data}: has the classes {theirs}, but {folder} knows {own}; give data with these"
        ) from error


def _part(
    folder: str, data_digest: str, crops: LabelledCrops, data: str, split: str | None
) -> tuple[str, NDArray[np.int64]]:
    """The part to measure on, by name and by indices."""
    place = storage.join(folder, SPLIT)
    whole = np.arange(len(crops.names))
    if split == "all" or (split is None and crops.digest != data_digest):
        return "all", whole
    if not storage.exists(place):
        if split is None:
            return "all", whole
        raise InputError(f"{place}: no such file, so there is no {split} part: give --split all")
    parts = load_split(place, crops)
    chosen = split or ("test" if len(parts.test) else "validation")
    picked: NDArray[np.int64] = getattr(parts, chosen)
    if not len(picked):
        raise InputError(
            f"--split {chosen}: that part of {place} is empty: train with --set {chosen}=0.15, or"
            f" choose another part of {data}"
        )
    return chosen, picked


def _cautions(part: str, seen: int, n: int) -> list[str]:
    found = []
    if seen:
        found.append(f"{seen} of {n} images were learned from: these are no results on new images")
    if part == "validation":
        found.append("the validation part chose the epoch: expect less on new images")
    return found
