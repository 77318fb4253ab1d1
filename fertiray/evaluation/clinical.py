"""Does a model's result for a man go with the fertilisation that followed? Validation in a clinic.

As Leung et al. (the zona paper) did it: men are put in groups by the fertilisation rate of their
IVF; the groups' values are compared; a ROC curve of high against low fertilisation gives the
threshold. Beside it: how the threshold named beforehand does on these men, and semen analysis.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl

from fertiray import storage
from fertiray.errors import InputError
from fertiray.evaluation.clinical_semen import LEAST, SEMEN, compare_semen
from fertiray.evaluation.clinical_tables import (
    GROUPS,
    HIGH,
    INTERMEDIATE_TO,
    LOW,
    LOW_TO,
    RATE,
    Cohort,
    read_cohort,
)
from fertiray.evaluation.groups import compare_groups, correlate, share
from fertiray.evaluation.roc import at_threshold, auc, logistic, roc_points, youden
from fertiray.papers.reported import REPORTED, reported
from fertiray.scoring.aggregate import to_csv
from fertiray.scoring.verdicts import ABOVE, BELOW, VERDICTS

FEW = 10
"""A group with fewer patients says little; the result carries a caution."""

POINT = 0.01


def validate(
    patients: str,
    outcomes: str,
    *,
    model: str | None = None,
    out: str,
    value: str = "fraction",
    threshold: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares patients' results with the fertilisation rates of their IVF.

    Patients are in three groups, see :func:`fertiray.evaluation.clinical_tables.group_of`. A result
    above the threshold reads ``conventional IVF``, at or below it ``consider ICSI``; this takes no
    account of the result's own interval, which the run's verdict does.

    Args:
        patients: a run folder, or a CSV or Parquet file with ``patient_id`` and the value.
        outcomes: CSV with ``patient_id``; ``fertilisation_rate`` (0 to 1) or
            ``fertilisation_percent`` (0 to 100); optionally ``procedure`` (IVF or ICSI; only IVF
            counts) and semen parameters, the columns of
            :data:`fertiray.evaluation.clinical_semen.SEMEN`.
        model: which model's results, where the first table has several.
        out: folder for ``validation.json`` (what is returned), ``validation.csv`` (the joined rows)
            and ``unmatched.csv`` (patients of one table only); the last two name patients.
        value: the column compared: ``fraction``, ``prevalence`` or another of shares in [0, 1].
        threshold: named beforehand, a share; None takes the run's own, or else the paper's .049.
        seed: of the bootstrap.

    Returns:
        ``counts``; ``groups`` and ``pairs``
        (:func:`fertiray.evaluation.groups.compare_groups`); ``above``, the share above the
        threshold by group; ``correlation`` of value and rate; ``roc``, high (positive) against low:
        ``auc``, ``points``, ``youden`` (fitted here, so optimistic), ``stated`` (the threshold
        named beforehand), ``logistic`` (odds ratio per percentage point); ``semen``
        (:func:`fertiray.evaluation.clinical_semen.compare_semen`) or None; ``values``, ``value``
        and ``rate`` of each patient by group, without names; ``paper``, what Leung et al. report;
        ``cautions``; ``files``. Shares are of 1 throughout.

    Raises:
        InputError: see :func:`fertiray.evaluation.clinical_tables.read_cohort`; a threshold outside
            [0, 1]; fewer than three patients of low or of high fertilisation.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}; give a share of 1, as 0.049 for 4.9%")
    cohort = read_cohort(patients, outcomes, model, value)
    paper = reported("zona_vgg13/patients/low_against_high")["threshold"]
    sources = {"given": threshold, "run": cohort.threshold, "paper": paper}
    source, stated = next((name, x) for name, x in sources.items() if x is not None)
    used = cohort.frame.filter(pl.col("left_out").is_null()).sort(RATE, "value")
    parts = {
        name: part
        for name in GROUPS
        if (part := used.filter(pl.col("group") == name)).height or name in (LOW, HIGH)
    }
    for name in (LOW, HIGH):
        if parts[name].height < LEAST:
            raise InputError(
                f"{outcomes}: {parts[name].height} of {used.height} usable patients have {name}"
                f" fertilisation (to {LOW_TO:.0%} is low, above {INTERMEDIATE_TO:.0%} high); at"
                f" least {LEAST} of each are needed"
            )
    values = {name: part["value"].to_numpy() for name, part in parts.items()}
    x = np.concatenate([values[LOW], values[HIGH]])
    positive = np.repeat([False, True], [len(values[LOW]), len(values[HIGH])])
    result: dict[str, Any] = {
        "patients": patients,
        "outcomes": outcomes,
        "model": cohort.model,
        "value": value,
        "threshold": stated,
        "threshold_from": source,
        "seed": seed,
        "counts": cohort.counts,
        **compare_groups(values),
        "above": {name: share(int((v > stated).sum()), len(v)) for name, v in values.items()},
        "correlation": correlate(used["value"].to_numpy(), used[RATE].to_numpy()),
        "roc": {
            "auc": auc(x, positive),
            "points": roc_points(x, positive),
            "youden": youden(x, positive, seed=seed),
            "stated": at_threshold(x, positive, stated),
            "logistic": logistic(x, positive, per=POINT),
        },
        "semen": _semen(used, tuple(parts)),
        "values": {
            name: {"value": part["value"].to_list(), "rate": part[RATE].to_list()}
            for name, part in parts.items()
        },
        "paper": REPORTED["zona_vgg13"]["patients"].rows,
        "columns_ignored": cohort.ignored,
    }
    result["cautions"] = cohort.cautions + _cautions(result)
    result["files"] = _write(out, cohort, stated, result)
    return result


def _semen(used: pl.DataFrame, names: tuple[str, ...]) -> dict[str, Any] | None:
    semen = {
        name: used[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        for name in SEMEN
        if name in used.columns
    }
    if not semen:
        return None
    return compare_semen(semen, used["value"].to_numpy(), used["group"].to_list(), names)


def _cautions(result: dict[str, Any]) -> list[str]:
    """What weakens the result, one sentence each."""
    counts, roc = result["counts"], result["roc"]
    found = [
        f"{group['n']} patients of {name} fertilisation: its numbers say little"
        for name, group in result["groups"].items()
        if group["n"] < FEW
    ]
    left = {f"left out: {why}": n for why, n in counts["left_out"].items()}
    left["have a result but no outcome"] = counts["unmatched_patients"]
    left["have an outcome but no result"] = counts["unmatched_outcomes"]
    found += [f"{n} patients {what}" for what, n in left.items() if n]
    found.append(
        "the Youden threshold was fitted to these patients: its sensitivity and specificity are"
        " optimistic, those of the stated threshold are not"
    )
    if roc["auc"]["ci_method"] != "DeLong":
        found.append(
            "the values separate low from high fertilisation without error or do not vary: DeLong's"
            " variance is 0, so the interval of the AUC is Newcombe's"
        )
    if roc["logistic"]["reason"]:
        found.append(f"no odds ratio: {roc['logistic']['reason']}")
    if result["value"] != "fraction" and result["threshold_from"] != "given":
        found.append(
            f"the threshold {result['threshold']} was made for the fraction called positive, not"
            f" for {result['value']}"
        )
    for row in (result["semen"] or {"parameters": []})["parameters"]:
        if row["reason"]:
            found.append(f"{row['parameter']}: {row['reason']}")
    return found


def _write(out: str, cohort: Cohort, threshold: float, result: dict[str, Any]) -> list[str]:
    above, words = pl.col("value") > threshold, VERDICTS["zona"]
    rows = cohort.frame.with_columns(
        verdict=pl.when(above).then(pl.lit(words[ABOVE])).when(~above).then(pl.lit(words[BELOW]))
    )
    first = ["patient_id", "value", "verdict", RATE, "group", "procedure", "left_out"]
    places = {name: storage.join(out, name) for name in ("validation.csv", "unmatched.csv")}
    storage.write_bytes(
        places["validation.csv"], to_csv(rows.select(*first, pl.exclude(first))).encode()
    )
    storage.write_bytes(places["unmatched.csv"], to_csv(cohort.unmatched).encode())
    files = [*places.values(), storage.join(out, "validation.json")]
    text = json.dumps({**result, "files": files}, indent=2, allow_nan=False)
    storage.write_bytes(files[-1], f"{text}\n".encode())
    return files
