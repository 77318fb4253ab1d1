"""Figures of a trained network on labelled images that it has not learned from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fertiray import storage
from fertiray.checkpoint import load
from fertiray.errors import InputError
from fertiray.evaluation.calibration import temper
from fertiray.evaluation.explain.explainer import INPUT, PAPER_LAYERS, SALIENCY, Explainer
from fertiray.evaluation.explain.sanity import sanity
from fertiray.evaluation.figures.embedding import (
    PERPLEXITY,
    SEED,
    embedding_figure,
    embeddings,
    tsne,
)
from fertiray.evaluation.figures.entries import (
    Drawn,
    Entry,
    LeftOut,
    curves_entry,
    graded_entries,
)
from fertiray.evaluation.figures.maps import maps_figure, sanity_figure
from fertiray.evaluation.figures.sources import Graded, graded, held_out, read_events
from fertiray.models.predict import Predictor

ROWS = 8  # of the grid of heatmaps
LAYERS = 5  # last ones, of networks whose paper shows none
BRIGHTEST = 99  # percentile of a saliency map that is shown as most
SMALLEST = float(np.finfo(np.float32).tiny)
CHECKED = 16  # images of the sanity check
NEED_IMAGES = ("confusion", "roc", "calibration", "tsne", "heatmaps", "sanity")


def checkpoint_entries(
    name: str, folder: str, data: str | None, limit: int, seed: int
) -> Iterator[Entry]:
    """All figures of a checkpoint.

    Args:
        name: that the figures get.
        folder: the checkpoint, local or ``s3://``.
        data: labelled images; None leaves out what needs them.
        limit: most images that t-SNE takes.
        seed: of the bootstrap, the choice of images and the sanity check's weights.

    Raises:
        InputError: an unusable checkpoint, or data that it cannot be used on.
    """
    model, meta = load(folder)
    source = f"{name}: {meta.paper}, {meta.model}"
    lines = read_events(storage.join(folder, "tensorboard"))
    kept = [meta.metrics["best_epoch"]] if "best_epoch" in meta.metrics else []
    missing = "the checkpoint has no TensorBoard files"
    yield curves_entry(f"{name}-curves", [lines] if lines else [], kept, source, missing)
    if data is None:
        yield from (LeftOut(f"{name}-{kind}", "no labelled images given") for kind in NEED_IMAGES)
        return
    what, crops = held_out(folder, meta, data)
    predictor = Predictor(model, meta.preprocessing, views=meta.config.get("views", "one"))
    raw = predictor.by_task(crops.images)
    said = {task: temper(own, meta.temperatures.get(task, 1.0)) for task, own in raw.items()}
    tasks = graded(crops, meta, said)
    for before, own in zip(graded(crops, meta, raw), tasks, strict=True):
        shown = {"as the network says": before.probabilities}
        if meta.temperatures:
            shown["at the checkpoint's temperature"] = own.probabilities
        stem = f"{name}-{own.task}" if len(tasks) > 1 else name
        yield from graded_entries(stem, own, shown, f"{len(own.labels)} {what}", source, seed)
    first, images = tasks[0], crops.images[tasks[0].rows]
    generator = np.random.default_rng(seed)
    picked = np.sort(generator.permutation(len(images))[:limit])
    try:
        points = tsne(embeddings(model, meta.preprocessing, images[picked]))
    except InputError as error:
        yield LeftOut(f"{name}-tsne", str(error))
    else:
        yield Drawn(
            f"{name}-tsne",
            embedding_figure(points, first.labels[picked], first.classes),
            f"t-SNE of the embeddings of {len(picked)} {what}: perplexity {PERPLEXITY:g}, started"
            f" from the principal components, random state {SEED}. Distances between groups mean"
            " little.",
            source,
        )
    task = first.task if meta.tasks else None
    explainer = Explainer(model, meta.preprocessing)
    chosen = _in_turns(first.labels, generator.permutation(len(images)))
    yield _heatmaps(name, explainer, meta.model, images, first, chosen[:ROWS], task, source)
    yield _sanity(name, explainer, images, first, chosen[:CHECKED], task, source, seed)


def _in_turns(labels: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of an order, but so that the classes take turns."""
    turn = np.zeros(len(order), np.int64)
    for label in np.unique(labels):
        own = labels[order] == label
        turn[own] = np.arange(own.sum())
    return order[np.lexsort((labels[order], turn))]


def _heatmaps(
    name: str,
    explainer: Explainer,
    network: str,
    images: NDArray[np.uint8],
    own: Graded,
    chosen: NDArray[np.int64],
    task: str | None,
    source: str,
) -> Entry:
    rows = chosen[np.argsort(own.labels[chosen], kind="stable")]
    called = own.called[rows]
    layers = PAPER_LAYERS.get(network, explainer.layers[-LAYERS:])
    heats: dict[str, NDArray[np.float32]] = {}
    for layer, heat in explainer(images[rows], "gradcam", layers, called, task).items():
        # The last map of a ResNet has two names.
        if not any(np.array_equal(heat, other) for other in heats.values()):
            heats[layer] = heat
    shown = len(heats)
    # A few pixels outshine all others.
    saliency = explainer(images[rows], SALIENCY, None, called, task)[INPUT]
    brightest = np.percentile(saliency, BRIGHTEST, axis=(1, 2), keepdims=True)
    heats["saliency"] = np.minimum(saliency / np.maximum(brightest, SMALLEST), 1)
    titles = [
        f"{own.classes[truth]}\ncalled {own.classes[said]}"
        for truth, said in zip(own.labels[rows], called, strict=True)
    ]
    return Drawn(
        f"{name}-heatmaps",
        maps_figure(images[rows], heats, titles),
        f"Grad-CAM of {shown} layers and gradient saliency for the class that was called, of"
        f" {len(rows)} images drawn at random from all classes in turn. Each map is stretched to"
        f" its own range, the saliency to its {BRIGHTEST}th percentile.",
        source,
    )


def _sanity(
    name: str,
    explainer: Explainer,
    images: NDArray[np.uint8],
    own: Graded,
    chosen: NDArray[np.int64],
    task: str | None,
    source: str,
    seed: int,
) -> Entry:
    classes = own.called[chosen]
    rows = sanity(
        explainer, images[chosen], "gradcam", "cascade", classes=classes, task=task, seed=seed
    )
    return Drawn(
        f"{name}-sanity",
        sanity_figure(rows),
        f"Sanity check of Grad-CAM on {len(chosen)} images: correlation of the trained network's"
        " maps with those of copies whose weights are drawn anew, from the head down (mean and"
        " standard deviation over images). Maps that stay alike do not show what was learned.",
        source,
    )
