"""The clinic page's tables and drawings: the report's own, as pieces of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2

from fertiray.models.ood import FAMILIAR
from fertiray.scoring import wording
from fertiray.scoring.contents import all_rejects
from fertiray.scoring.figures import cohort_axis, patient_axis
from fertiray.scoring.report import MARKS, ModelView
from fertiray.scoring.verdicts import NO_RESULT, ModelInfo
from fertiray.serving.results import Row


@cache
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
        "number": wording.number,
    }
    environment.globals |= {"bounds": wording.bounds, "marks": MARKS}
    return environment


def cohort(
    job_id: str,
    patients: Sequence[Row],
    rejects: Mapping[str, Sequence[Row]],
    infos: Mapping[str, ModelInfo],
) -> str:
    """A job's patient tables, one a model, and what was left out.

    Args:
        job_id: of the job.
        patients: see ``results.cohort``.
        rejects: by patient; see ``contents.rejects_by_patient``.
        infos: the job's models by name.
    """
    models = []
    for name, info in infos.items():
        view = _view(info)
        rows = [
            {"number": patient["number"], **entry}
            for patient in patients
            for entry in patient["results"]
            if entry["row"]["model"] == name
        ]
        counts = [entry["row"]["verdict"] for entry in rows]
        tally = [
            {"verdict": verdict, "side": view.side(verdict), "n": counts.count(verdict)}
            for verdict in view.verdicts()
            if verdict != NO_RESULT or verdict in counts
        ]
        models.append({"view": view, "patients": rows, "tally": tally})
    template = _environment().get_template("clinic_cohort.html.j2")
    return template.render(job=job_id, models=models, rejects=all_rejects(rejects))


def patient(job_id: str, shown: Row, count: int, infos: Mapping[str, ModelInfo]) -> str:
    """One patient: numbers, drawing, class mix, slides, pictures, and what was left out.

    Args:
        job_id: of the job.
        shown: see ``results.patient``.
        count: patients in the job.
        infos: the job's models by name.
    """
    results = [_result(entry, _view(infos[entry["row"]["model"]])) for entry in shown["results"]]
    template = _environment().get_template("clinic_patient.html.j2")
    return template.render(job=job_id, count=count, **{**shown, "results": results})


def _view(info: ModelInfo) -> ModelView:
    return ModelView(info, wording.TASKS[info.task], cohort_axis(info.threshold), "")


def _result(entry: Row, model: ModelView) -> Row:
    row = entry["row"]
    highest = max(row["ci_high"] or 0.0, row["prevalence_ci_high"] or 0.0)
    place, mix = 0.0, []
    for part in entry["mix"]:
        width = 100 * part["share"]
        mix.append({**part, "place": round(place, 3), "width": round(width, 3)})
        place += width
    sure = [
        (f"Surest: {label}", _of(entry, "confident", label))
        for label in model.info.classes
        if _of(entry, "confident", label)
    ]
    unsure = sorted(_of(entry, "uncertain"), key=lambda crop: float(crop["confidence"]))
    return {
        **entry,
        "model": model,
        "axis": patient_axis(highest, model.info.threshold),
        "mix": mix,
        "disagree": "slides disagree" in entry["flags"],
        "unlike": _unlike(row) if "unlike the training's" in entry["flags"] else "",
        "gallery": [*sure, ("Least sure: check these by eye", unsure)],
    }


def _of(entry: Row, kind: str, label: str | None = None) -> list[Any]:
    return [
        crop
        for crop in entry["pictures"]
        if crop["kind"] == kind and label in (None, crop["label"])
    ]


def _unlike(row: Row) -> str:
    return (
        f"{row['unlike_fraction']:.0%} of these heads look unlike those the network was trained on"
        f" ({1 - FAMILIAR:.0%} is usual): another stain, another microscope or no sperm. Its"
        " accuracy is not known here."
    )
