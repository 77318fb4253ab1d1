"""The run folder as one page for a clinician: ``report.html``, self-contained and printable."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
import numpy as np
import polars as pl

from fertiray import config, storage
from fertiray.errors import InputError
from fertiray.evaluation.intervals import wilson
from fertiray.scoring import wording
from fertiray.scoring.agreement import cohort_agreement
from fertiray.scoring.contents import SCORING, Row, all_rejects, pictures, rejects_by_patient, table
from fertiray.scoring.figures import Axis, class_colours, cohort_axis, patient_axis
from fertiray.scoring.verdicts import INDETERMINATE, NO_RESULT, VERDICTS, ModelInfo

REPORT = "report.html"
MARKS = {"above": "▲", "below": "▼", INDETERMINATE: "◆", NO_RESULT: "○"}


@dataclass(frozen=True)
class ModelView:
    """A model and the words and axes it is shown with."""

    info: ModelInfo
    words: wording.Task
    axis: Axis
    digest: str

    def side(self, verdict: str) -> str:
        """``above``, ``below``, ``indeterminate`` or ``no result``: picks mark and colour."""
        for side, words in VERDICTS[self.info.task].items():
            if words == verdict:
                return side
        return verdict

    def verdicts(self) -> list[str]:
        """All verdicts this model can give, best first."""
        return [*VERDICTS[self.info.task].values(), INDETERMINATE, NO_RESULT]

    def colour(self, label: str) -> str:
        """The colour of a class; the positive class has the first."""
        return class_colours(self.info.classes, self.info.positive)[label]


def write_report(run: str) -> str:
    """Writes ``report.html`` from what a run folder holds.

    Args:
        run: run folder, local or ``s3://``, with ``patients.parquet``, ``slides.parquet`` and
            ``run.json``; ``rejects/`` and ``gallery/`` are shown where they exist.

    Returns:
        The report's location.

    Raises:
        InputError: the folder lacks one of the three files, or one is damaged.
    """
    place = storage.join(run, "run.json")
    record = config.read_object(place, "score again")
    patients = table(run, "patients.parquet")
    slides = table(run, "slides.parquet")
    models = _models(place, record, patients)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(**_page(run, record, models, patients, slides))
    )
    where = storage.join(run, REPORT)
    storage.write_bytes(where, page.encode())
    return where


def _models(where: str, record: Row, patients: pl.DataFrame) -> dict[str, ModelView]:
    """The models of the run, in the order of run.json."""
    known = {str(entry["name"]): entry for entry in record.get("models", [])}
    missing = sorted(set(patients["model"]) - set(known))
    if missing:
        raise InputError(f"{where} names no model {missing[0]!r}; score again")
    views = {}
    for name, entry in known.items():
        info = ModelInfo.from_meta(entry)
        views[name] = ModelView(
            info,
            wording.TASKS[info.task],
            cohort_axis(info.threshold),
            str(entry.get("digest", "")),
        )
    return views


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fertiray", "web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "level": wording.level,
        "points": wording.points,
        "number": wording.number,
    }
    environment.globals |= {"bounds": wording.bounds, "marks": MARKS}
    return environment


def _page(
    run: str,
    record: Row,
    models: Mapping[str, ModelView],
    patients: pl.DataFrame,
    slides: pl.DataFrame,
) -> Row:
    rejects = rejects_by_patient(run, record.get("store"))
    gallery = pictures(run)
    agreement = {row["model"]: row for row in cohort_agreement(slides).iter_rows(named=True)}
    names = sorted(patients["patient_id"].unique(), key=_natural)
    rates = (record.get("config") or {}).get("adaptive")
    by_key = {(row["patient_id"], row["model"]): row for row in patients.iter_rows(named=True)}
    sections = [
        {
            "id": name,
            "anchor": f"patient-{place}",
            "rejects": rejects.get(name, []),
            "results": [
                _result(by_key[name, model.info.name], model, slides, gallery, rates)
                for model in models.values()
                if (name, model.info.name) in by_key
            ],
        }
        for place, name in enumerate(names, 1)
    ]
    script = _asset("report.js")
    return {
        "title": run.rstrip("/").rpartition("/")[2],
        "style": _asset("report.css"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "models": [
            {
                "view": model,
                "accuracy": wording.accuracy_text(model.info),
                "slides": wording.cohort_slides_text(agreement[name]) if name in agreement else "",
                "tally": _tally(model, patients.filter(pl.col("model") == name)),
            }
            for name, model in models.items()
        ],
        "patients": sections,
        "rejects": all_rejects(rejects),
        "n_rejected": sum(
            entry["n"]
            for entries in rejects.values()
            for entry in entries
            if entry["where"] == SCORING
        ),
        "n_scored": _heads(patients),
        "n_skipped": (record.get("counts") or {}).get("skipped", 0),
        "cautions": _absent(set(rejects) - set(names)) + _cautions(patients, models),
        "notes": [str(note) for note in record.get("notes") or []],
        "made": _made(record),
        "started": _moment(record.get("started")),
        "settings": json.dumps(record.get("config") or {}, indent=2, ensure_ascii=False),
    }


def _heads(patients: pl.DataFrame) -> int:
    """Scored heads; every model scores the same ones."""
    per_model = patients.group_by("model").agg(n=pl.col("n_scored").sum())["n"].to_list()
    return max(per_model, default=0)


def _asset(name: str) -> str:
    source, _, _ = jinja2.PackageLoader("fertiray", "web").get_source(jinja2.Environment(), name)
    return source


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts "P2" before "P10"."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _result(
    row: Row,
    model: ModelView,
    slides: pl.DataFrame,
    gallery: Mapping[Any, Any],
    rates: Row | None,
) -> Row:
    info, key = model.info, (row["model"], row["patient_id"])
    own = slides.filter(model=row["model"], patient_id=row["patient_id"])
    highest = max(row["ci_high"] or 0.0, row["prevalence_ci_high"] or 0.0)
    return {
        "model": model,
        "row": row,
        "axis": patient_axis(highest, info.threshold),
        "side": model.side(row["verdict"]),
        "text": wording.verdict_text(row, info),
        "second": wording.second_reading(row, info),
        "conflict": wording.conflict_text(row),
        "skipped": wording.skipped_text(row, rates),
        "slides_text": wording.slides_text(row),
        "disagree": row["slide_p"] is not None and row["slide_p"] < wording.DISAGREE,
        "slides": own.sort("slide_id").to_dicts(),
        "mix": _mix(row, model),
        "confident": [
            (label, gallery[(*key, "confident", label)])
            for label in info.classes
            if (*key, "confident", label) in gallery
        ],
        "uncertain": sorted(
            (
                crop
                for label in info.classes
                for crop in gallery.get((*key, "uncertain", label), [])
            ),
            key=lambda crop: float(crop["confidence"]),
        ),
    }


def _mix(row: Row, model: ModelView) -> list[Row]:
    """Every class with its count, share, Wilson interval and place in the bar (0 to 100)."""
    total, place, parts = row["n_scored"], 0.0, []
    for label in model.info.classes if total else ():
        n = row[f"n_{label}"]
        low, high = wilson(n, total)
        width = 100 * n / total
        parts.append(
            {
                "label": label,
                "n": n,
                "share": n / total,
                "low": float(low),
                "high": float(high),
                "place": round(place, 3),
                "width": round(width, 3),
                "colour": model.colour(label),
            }
        )
        place += width
    return parts


def _tally(model: ModelView, patients: pl.DataFrame) -> list[Row]:
    """How many patients have each verdict."""
    counts = dict(patients.group_by("verdict").len().iter_rows())
    return [
        {"verdict": verdict, "side": model.side(verdict), "n": counts.get(verdict, 0)}
        for verdict in model.verdicts()
        if verdict != NO_RESULT or counts.get(verdict)
    ]


def _absent(names: set[str]) -> list[str]:
    if not names:
        return []
    return [f"Not a single head could be cut out for {_some(list(names))}: no result below."]


def _from_to(least: float, most: float) -> str:
    """Shares of several patients' heads, or that of one."""
    low, high = f"{least:.0%}", f"{most:.0%}"
    return low if low == high else f"{low} to {high} of each"


def _cautions(patients: pl.DataFrame, models: Mapping[str, ModelView]) -> list[str]:
    """What the numbers themselves warn of."""
    found = []
    several = len(models) > 1
    for name in models:
        own = patients.filter(model=name)
        of = f" ({name})" if several else ""
        conflicts = own.filter(pl.col("validation_conflict"))["patient_id"].to_list()
        if conflicts:
            found.append(
                f"The network's measured accuracy does not fit {_some(conflicts)}{of}: its errors"
                " on these images differ from those on its validation images."
            )
        found += [
            f"In {_some(strange)}{of} many heads look unlike those the network was trained on"
            f" ({_from_to(least, most)}; {wording.UNLIKE_EXPECTED:.0%} is usual):"
            " another stain, another microscope or no sperm. Its accuracy is not known there."
            for strange, least, most in _unlike(own)
        ]
        split = own.filter(pl.col("slide_p") < wording.DISAGREE)["patient_id"].to_list()
        if split:
            found.append(
                f"Slides disagree beyond chance in {_some(split)}{of}; the intervals there are too"
                " narrow."
            )
    return found


def _unlike(own: pl.DataFrame) -> list[tuple[list[str], float, float]]:
    """Patients with clearly more unlike crops than usual, the least and the largest share."""
    if "n_unlike" not in own.columns:  # a run from before there was a detector
        return []
    own = own.filter(pl.col("n_unlike").is_not_null())
    low = wilson(own["n_unlike"].to_numpy(), own["n_scored"].to_numpy()).low
    strange = own.filter(pl.Series(np.asarray(low) > 2 * wording.UNLIKE_EXPECTED, dtype=pl.Boolean))
    if not strange.height:
        return []
    shares = strange["unlike_fraction"].to_list()
    return [(strange["patient_id"].to_list(), min(shares), max(shares))]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names, key=_natural)[:6])
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{len(names)} patient{'s' if len(names) > 1 else ''}: {shown}{more}"


def _moment(text: Any) -> str:
    return datetime.fromisoformat(str(text)).strftime("%d %B %Y, %H:%M %Z") if text else ""


def _made(record: Row) -> list[tuple[str, str]]:
    """The run's record as names and values, what is absent left out."""
    rows: list[tuple[str, Any]] = [
        ("Command", record.get("command")),
        ("Started", _moment(record.get("started"))),
        ("Finished", _moment(record.get("finished"))),
        ("Crop store", record.get("store")),
        ("Engine", record.get("engine")),
        ("Counts", record.get("counts")),
        ("Timings", record.get("timings")),
        ("Machine", record.get("machine")),
        ("Versions", record.get("versions")),
    ]
    return [(name, _flat(value)) for name, value in rows if value]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_flat, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
