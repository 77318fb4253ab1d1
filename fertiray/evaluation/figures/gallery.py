"""``fertiray figures``: every figure that the inputs allow, and a page that shows them.

No figure, caption or file name holds a patient's or an image's name.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2
import numpy as np

from fertiray import storage
from fertiray.evaluation.clinical import validate
from fertiray.evaluation.clinical_tables import HIGH, LOW
from fertiray.evaluation.figures.cohort import (
    SHARE,
    cohort_roc_figure,
    groups_figure,
    rate_figure,
)
from fertiray.evaluation.figures.entries import Drawn, Entry, LeftOut
from fertiray.evaluation.figures.from_checkpoint import checkpoint_entries
from fertiray.evaluation.figures.from_crossval import crossval_entries, record_entries
from fertiray.evaluation.figures.look import save

INDEX = "index.html"
SHOWN = 1.4  # times the printed size, on the page

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Figures</title>
<style>{% include "report.css" %}
figure { margin: 1.6rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { max-width: 80ch; margin-top: .4rem; }
@media print { figure { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>Figures</h1>
{% for figure in figures %}
<figure id="{{ figure.name }}">
<img src="{{ figure.shown }}" width="{{ figure.width }}" height="{{ figure.height }}"
alt="{{ figure.caption }}">
<figcaption>{{ figure.caption }}<br>
<span class="fine">{{ figure.source }}.
{% for link in figure.links %}<a href="{{ link }}">{{ link }}</a> {% endfor %}</span></figcaption>
</figure>
{% endfor %}
{% if left_out %}
<h2>Left out</h2>
<ul>{% for one in left_out %}<li>{{ one.name }}: {{ one.why }}</li>{% endfor %}</ul>
{% endif %}
</main>
</body>
</html>
"""


def gallery(
    out: str,
    *,
    crossval: Sequence[str] = (),
    checkpoint: str | None = None,
    data: str | None = None,
    outcomes: tuple[str, str] | None = None,
    limit: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Draws every figure that the inputs allow, as SVG and PNG, and ``index.html``.

    Beside the inputs the results of record below the current folder are drawn.

    Args:
        out: folder to write, local or ``s3://``.
        crossval: folders that ``fertiray crossval --out`` wrote.
        checkpoint: checkpoint folder.
        data: labelled images for the checkpoint.
        outcomes: patients' results and their treatments' outcomes, the first two arguments of
            :func:`fertiray.evaluation.clinical.validate`.
        limit: most images that t-SNE takes.
        seed: of bootstraps, the choice of images and the sanity check's weights.

    Returns:
        ``figures``, each with ``name``, ``files``, ``caption`` and ``source``; ``left_out``, each
        with ``name`` and ``why``; ``index``, the page.

    Raises:
        InputError: an input that cannot be used.
    """
    figures: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    shown = []
    for entry in _entries(crossval, checkpoint, data, outcomes, limit, seed):
        if isinstance(entry, LeftOut):
            left_out.append(entry._asdict())
            continue
        figures.append(_written(entry, out))
        width, height = np.rint(entry.figure.get_size_inches() * 96 * SHOWN).astype(int).tolist()
        links = [storage.relative(file, out) for file in figures[-1]["files"]]
        about = {"links": links, "shown": links[-1], "width": width, "height": height}
        shown.append({**figures[-1], **about})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fertiray", "web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.from_string(PAGE).render(figures=shown, left_out=left_out)
    index = storage.join(out, INDEX)
    storage.write_bytes(index, page.encode())
    return {"figures": figures, "left_out": left_out, "index": index}


def cohort_figures(result: dict[str, Any], out: str) -> list[dict[str, Any]]:
    """Draws the figures of a validation in a clinic, as SVG and PNG.

    Args:
        result: of :func:`fertiray.evaluation.clinical.validate`.
        out: folder to write, local or ``s3://``.

    Returns:
        ``figures`` as :func:`gallery` has them.

    Raises:
        InputError: the folder must not be written to.
    """
    return [_written(drawn, out) for drawn in _cohort(result)]


def _written(drawn: Drawn, out: str) -> dict[str, Any]:
    about = {"name": drawn.name, "caption": drawn.caption, "source": drawn.source}
    return {**about, "files": save(drawn.figure, out, drawn.name)}


def _entries(
    crossval: Sequence[str],
    checkpoint: str | None,
    data: str | None,
    outcomes: tuple[str, str] | None,
    limit: int,
    seed: int,
) -> Iterator[Entry]:
    names = _names([*crossval, *([checkpoint] if checkpoint else [])])
    if crossval:
        yield from crossval_entries(dict(zip(names, crossval, strict=False)), seed)
    else:
        yield LeftOut("cross-validation", "no folder of a cross-validation given")
    yield from record_entries()
    if checkpoint:
        yield from checkpoint_entries(names[-1], checkpoint, data, limit, seed)
    else:
        yield LeftOut("checkpoint", "no checkpoint given")
    if outcomes:
        # The tables beside the result name patients; they are not kept here.
        with tempfile.TemporaryDirectory(prefix="fertiray-") as unseen:
            result = validate(*outcomes, out=unseen, seed=seed)
        yield from _cohort(result)
    else:
        yield LeftOut("cohort", "no patients and outcomes given")


def _names(folders: Sequence[str]) -> list[str]:
    """Last parts of the folders' paths, safe in any file system, each different."""
    found: list[str] = []
    for folder in folders:
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", folder.rstrip("/").rpartition("/")[2]).strip("._-")
        name = unique = name or "folder"
        number = 1
        while unique in found:
            number += 1
            unique = f"{name}-{number}"
        found.append(unique)
    return found


def _cohort(result: dict[str, Any]) -> Iterator[Drawn]:
    threshold, groups = result["threshold"], result["values"]
    values = {name: own["value"] for name, own in groups.items()}
    label = SHARE if result["value"] == "fraction" else result["value"]
    n = sum(map(len, values.values()))
    source = f"results of {result['model'] or 'a model'} and outcomes of the patients' IVF"
    stated = f"the threshold of {threshold:.1%}"
    yield Drawn(
        "cohort-groups",
        groups_figure(values, result["pairs"], threshold, label=label),
        f"{n} patients by fertilisation: medians, quartiles, whiskers to 1.5 interquartile ranges,"
        f" and every patient. p: {_tests(result['pairs'])}, adjusted by Holm. Dashed: {stated}.",
        source,
    )
    x = [*values[LOW], *values[HIGH]]
    yield Drawn(
        "cohort-roc",
        cohort_roc_figure(x, np.arange(len(x)) >= len(values[LOW]), threshold, seed=result["seed"]),
        f"ROC curve of high ({len(values[HIGH])} patients) against low ({len(values[LOW])})"
        " fertilisation. The Youden threshold was fitted to these patients, which flatters it; the"
        " stated one was not.",
        source,
    )
    names = [name for name, own in groups.items() for _ in own["value"]]
    shares = [share for own in values.values() for share in own]
    rates = [rate for own in groups.values() for rate in own["rate"]]
    yield Drawn(
        "cohort-rate",
        rate_figure(shares, rates, threshold, groups=names, label=label),
        f"{n} patients: fertilisation rate and share called positive. Dashed: {stated}.",
        source,
    )


def _tests(pairs: Sequence[dict[str, Any]]) -> str:
    return " or ".join(sorted({pair["test"] for pair in pairs}))
