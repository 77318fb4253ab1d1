"""Clinic quality: the patients of all runs together, and none by name."""

from __future__ import annotations

from fertiray.dashboard.panels import (
    Dashboard,
    Panel,
    Query,
    share,
    total,
)

QUALITY = Dashboard(
    "quality",
    "FertiRay: clinic quality",
    (
        Panel(
            "patients",
            "Patients",
            "Patients with a result; one that two models scored counts twice.",
            "number",
            "short",
            (Query(f"sum({total('patients_total')})", "patients"),),
        ),
        Panel(
            "indeterminate",
            "Share indeterminate",
            "Patients whose interval crosses the clinical threshold.",
            "number",
            "percentunit",
            (Query(share("patients_total", 'verdict="indeterminate"'), "indeterminate"),),
        ),
        Panel(
            "unlike",
            "Share of unlike crops",
            "Scored crops unlike those of the training; 5% is usual.",
            "number",
            "percentunit",
            (
                Query(
                    f"sum({total('crops_unlike_total')} or 0 * {total('crops_examined_total')})"
                    f" / sum({total('crops_examined_total')})",
                    "unlike",
                ),
            ),
        ),
        Panel(
            "verdicts",
            "Verdicts",
            "Patients by the side of the clinical threshold that they are on.",
            "bars",
            "short",
            (
                Query(
                    f"sum by (model, verdict) ({total('patients_total')})",
                    "{{model}} {{verdict}}",
                ),
            ),
        ),
        Panel(
            "fractions",
            "Patients by share of positive crops",
            "As counted, not corrected; up to the share named.",
            "bars",
            "short",
            (
                Query(
                    f"sum by (le) ({total('patient_positive_ratio', suffix='_bucket')})", "{{le}}"
                ),
            ),
        ),
        Panel(
            "unlike_patients",
            "Patients by share of unlike crops",
            "Up to the share named; above 0.1 another stain or microscope is likely.",
            "bars",
            "short",
            (Query(f"sum by (le) ({total('patient_unlike_ratio', suffix='_bucket')})", "{{le}}"),),
        ),
        Panel(
            "drift",
            "Drift of the scores",
            "Share of the last run's scores that neither a mixture of the validation's classes nor"
            " chance explains.",
            "lines",
            "percentunit",
            (Query(f"max by (model) ({total('score_drift_ratio')})", "{{model}}"),),
        ),
    ),
)
