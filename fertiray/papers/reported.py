"""What the five papers report, as data: the only place where their numbers are typed.

Shares are fractions of 1, whatever the paper prints, and carry the names that
:func:`fertiray.evaluation.metrics.measure` gives the same quantity; ``_sd`` is a standard deviation
over folds. A row's key is ``paper/table/row``.
"""

from __future__ import annotations

from dataclasses import dataclass

from fertiray.errors import InputError

Row = dict[str, float]


@dataclass(frozen=True)
class Table:
    """Numbers of one table, figure or passage of a paper.

    Attributes:
        source: where the paper has them.
        protocol: how they were measured.
        rows: values by metric, by row.
        note: what to know when comparing with them; empty for nothing.
        images: test images behind every share; None where it is not one number.
        classes_of: the row (``table/row``) whose classes these rows are; empty for none.
        missing: why this project can have no row of its own; empty where it can.
    """

    source: str
    protocol: str
    rows: dict[str, Row]
    note: str = ""
    images: int | None = None
    classes_of: str = ""
    missing: str = ""


NO_GARDNER = "no blastocyst images with Gardner grades can be downloaded without a request"
NO_ZONA = "no images with labels of zona-pellucida binding are public"


def _embryo(
    precision: float,
    recall: float,
    f1: float,
    roc_auc: float,
    average_precision: float,
    accuracy: float,
    *counts: int,
) -> Row:
    return {
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "roc_auc": roc_auc,
        "average_precision": average_precision,
        "accuracy": accuracy,
        **dict(zip(("tp", "fn", "fp", "tn"), counts, strict=True)),
    }


EMBRYO_MSRES = {
    "test": Table(
        source="Tables 3 and 4; the proposed network's four digits: Section 4.5, Table 5",
        protocol="one split of 801 images, 81 in the test part (12 good)",
        images=81,
        rows={
            "efficientnet_b0": _embryo(0.63, 0.72, 0.65, 0.79, 0.63, 0.76, 8, 4, 15, 54),
            "densenet121": _embryo(0.68, 0.78, 0.71, 0.84, 0.57, 0.81, 9, 3, 12, 57),
            "resnet50": _embryo(0.68, 0.72, 0.69, 0.78, 0.51, 0.82, 7, 5, 9, 60),
            "msres_a1": _embryo(0.62, 0.68, 0.63, 0.74, 0.60, 0.75, 7, 5, 15, 54),
            "msres_a2": _embryo(0.65, 0.73, 0.66, 0.78, 0.65, 0.78, 8, 4, 14, 55),
            "msres_a3": _embryo(0.69, 0.79, 0.71, 0.82, 0.70, 0.81, 9, 3, 12, 57),
            "msres_a4": _embryo(0.72, 0.84, 0.75, 0.85, 0.75, 0.84, 10, 2, 11, 58),
            "msres": _embryo(0.9157, 0.9438, 0.9291, 0.92, 0.90, 0.9630, 11, 1, 2, 67),
        },
        note="macro averages, rounded or cut; the day of development is not controlled for",
    ),
    "efficiency": Table(
        source="Table 2 and Section 4.2",
        protocol="NVIDIA A100, one image at a time, 224 x 224",
        rows={
            "msres": {
                "params": 2_244_616,
                "gmacs": 15.63,
                "latency_ms": 10.185,
                "latency_ms_sd": 0.082,
                "latency_ms_min": 9.967,
                "latency_ms_max": 10.618,
                "images_per_s": 98.19,
            }
        },
        note="the paper's GFLOPs-equivalents are multiply-adds",
    ),
    "sanity": Table(
        source="Section 4.5",
        protocol="Grad-CAM, trained against randomised last MS-Res block and head, 50 test images",
        rows={"pearson": {"mean": -0.096, "sd": 0.187, "min": -0.364, "max": 0.497, "n": 50}},
    ),
}

BLASTOCYST_MEMEBG = {
    "test": Table(
        source="Section IV and Tables II to IV",
        protocol="one split of 249 day-5 blastocysts, 50 in the test part",
        images=50,
        missing=NO_GARDNER,
        rows={
            "multi/EXP": {"macro_f1": 0.76, "accuracy": 0.76},
            "multi/ICM": {"macro_f1": 0.64, "accuracy": 0.76},
            "multi/TE": {"macro_f1": 0.64, "accuracy": 0.66},
            "single/EXP": {"macro_f1": 0.72},
            "single/TE": {"macro_f1": 0.60},
        },
        note="the single-task ICM network is called better, not significantly, without a number",
    ),
    "per_class": Table(
        source="Tables II to IV",
        protocol="the multi-task network on the test part",
        missing=NO_GARDNER,
        rows={
            "EXP/0": {"precision": 0.75, "recall": 0.73, "f1": 0.75, "n": 16},
            "EXP/1": {"precision": 0.80, "recall": 0.87, "f1": 0.76, "n": 32},
            "EXP/2": {"precision": 0.89, "recall": 0.67, "f1": 0.76, "n": 12},
            "ICM/A": {"precision": 0.80, "recall": 0.84, "f1": 0.85, "n": 37},
            "ICM/B": {"precision": 0.50, "recall": 0.38, "f1": 0.44, "n": 13},
            "TE/A": {"precision": 0.76, "recall": 0.61, "f1": 0.68, "n": 31},
            "TE/B": {"precision": 0.52, "recall": 0.68, "f1": 0.60, "n": 19},
        },
        note="the EXP counts add up to 60, not 50; some F1 lie outside precision and recall",
    ),
}

SPERM_EFFNET_CBAM = {
    "smids": Table(
        source="Tables 1 and 3; ROC-AUC: Section 4, Figure 3",
        protocol="one split of 70/15/15",
        images=450,
        rows={
            "simple_cnn": {"accuracy": 0.8267, "macro_f1": 0.830},
            "efficientnet_b0": {"accuracy": 0.8800, "macro_f1": 0.883},
            "cbam": {"accuracy": 0.8822, "macro_f1": 0.885},
            "freeze": {"accuracy": 0.8816, "macro_f1": 0.883},
            "full": {"accuracy": 0.9021, "macro_f1": 0.913, "roc_auc": 0.965},
        },
        note="the classes' F1 of Table 2 have a mean of 0.907, not 0.913",
    ),
    "hushem": Table(
        source="Tables 1 and 3; ROC-AUC: Section 4, Figure 3",
        protocol="one split of 70/15/15, 33 images in the test part",
        images=33,
        rows={
            "simple_cnn": {"accuracy": 0.7273, "macro_f1": 0.695},
            "efficientnet_b0": {"accuracy": 0.6364, "macro_f1": 0.684},
            "cbam": {"accuracy": 0.7980, "macro_f1": 0.776},
            "freeze": {"accuracy": 0.8940, "macro_f1": 0.882},
            "full": {"accuracy": 0.9394, "macro_f1": 0.948, "roc_auc": 0.991},
        },
        note="one image is 3 points; 0.7980 and 0.8940 are no whole numbers of 33",
    ),
    "smids_per_class": Table(
        source="Table 2",
        protocol="the full configuration",
        classes_of="smids/full",
        rows={
            "Normal_Sperm": {"precision": 0.88, "recall": 0.88, "f1": 0.88},
            "Abnormal_Sperm": {"precision": 0.87, "recall": 0.87, "f1": 0.87},
            "Non-Sperm": {"precision": 0.97, "recall": 0.96, "f1": 0.97},
        },
    ),
    "hushem_per_class": Table(
        source="Table 2",
        protocol="the full configuration",
        classes_of="hushem/full",
        rows={
            "Normal": {"precision": 1.0, "recall": 1.0, "f1": 1.0},
            "Tapered": {"precision": 0.86, "recall": 1.0, "f1": 0.92},
            "Pyriform": {"precision": 0.92, "recall": 0.92, "f1": 0.92},
            "Amorphous": {"precision": 1.0, "recall": 0.91, "f1": 0.95},
        },
    ),
}

SPERM_MADRNET = {
    "hushem": Table(
        source="Table II; MADRNet-EB0: Section IV-F",
        protocol="five folds",
        images=216,
        rows={
            "madrnet": {
                "accuracy": 0.963,
                "accuracy_sd": 0.0030,
                "macro_precision": 0.966,
                "macro_precision_sd": 0.0032,
                "macro_recall": 0.968,
                "macro_recall_sd": 0.0029,
                "macro_f1": 0.968,
                "macro_f1_sd": 0.0037,
            },
            "madrnet_eb0": {"accuracy": 0.93},
        },
    ),
    "smids": Table(
        source="Table VI",
        protocol="five folds",
        images=3000,
        rows={
            "madrnet": {
                "accuracy": 0.8933,
                "accuracy_sd": 0.0107,
                "accuracy_ci_low": 0.8801,
                "accuracy_ci_high": 0.9066,
            }
        },
    ),
    "hushem_per_class": Table(
        source="Table III",
        protocol="five folds",
        classes_of="hushem/madrnet",
        rows={
            "Normal": {"precision": 0.988, "recall": 0.990, "f1": 0.989},
            "Tapered": {"precision": 0.940, "recall": 0.943, "f1": 0.943},
            "Pyriform": {"precision": 0.950, "recall": 0.951, "f1": 0.951},
            "Amorphous": {"precision": 0.988, "recall": 0.990, "f1": 0.989},
        },
    ),
    "modules": Table(
        source="Table IV",
        protocol="HuSHeM, five folds",
        images=216,
        rows={
            "resnet50": {"accuracy": 0.792, "macro_f1": 0.785},
            "reversible": {"accuracy": 0.815, "macro_f1": 0.837},
            "bilinear": {"accuracy": 0.891, "macro_f1": 0.904},
            "hybrid_loss": {"accuracy": 0.963, "macro_f1": 0.968},
        },
        note="each row adds to the one before; the text's gains of 9.3 and 7.6 points do not match",
    ),
    "constraints": Table(
        source="Table V",
        protocol="HuSHeM, five folds",
        images=216,
        rows={
            "none": {"accuracy": 0.917, "macro_f1": 0.91},
            "acrosome": {"accuracy": 0.946, "macro_f1": 0.933},
            "aspect_ratio": {"accuracy": 0.935, "macro_f1": 0.941},
            "both": {"accuracy": 0.963, "macro_f1": 0.968},
        },
    ),
    "efficiency": Table(
        source="Sections IV-C and IV-F",
        protocol="NVIDIA RTX 4090, 512 x 512",
        rows={
            "madrnet": {
                "params": 44_350_000,
                "latency_ms": 32,
                "memory_gb_per_pass": 0.13,
                "memory_change_n3_to_n0": -0.243,
            },
            "madrnet_eb0": {"params": 12_340_000},
        },
    ),
}

ZONA_VGG13 = {
    "test": Table(
        source="Results, Figure 2D; the others: Supplementary Figures S5 to S8",
        protocol="1,083 images, 75/25; unbound_called_bound: 220 other images",
        missing=NO_ZONA,
        rows={
            "vgg13": {
                "sensitivity": 0.976,
                "specificity": 0.960,
                "accuracy": 0.967,
                "precision": 0.952,
                "roc_auc": 0.992,
                "unbound_called_bound": 0.010,
            },
            "basic_cnn": {
                "sensitivity": 0.878,
                "specificity": 0.762,
                "accuracy": 0.813,
                "precision": 0.743,
                "unbound_called_bound": 0.684,
            },
            "resnet34": {
                "sensitivity": 0.984,
                "specificity": 1.0,
                "accuracy": 0.993,
                "precision": 1.0,
                "unbound_called_bound": 0.255,
            },
        },
    ),
    "crossval": Table(
        source="Results, Figure 3",
        protocol="five folds",
        missing=NO_ZONA,
        rows={"vgg13": {"accuracy": 0.974, "sensitivity": 0.960, "specificity": 0.985}},
    ),
    "patients": Table(
        source="Results, Figure 5",
        protocol="percentage of crops called bound of 117 men, by fertilisation rate",
        missing=NO_ZONA,
        rows={
            "low": {"mean": 0.026, "sem": 0.005},
            "intermediate": {"mean": 0.149, "sem": 0.028},
            "high": {"mean": 0.202, "sem": 0.022},
            "low_against_high": {
                "n": 86,
                "roc_auc": 0.93,
                "threshold": 0.049,
                "specificity": 0.893,
                "sensitivity": 0.900,
            },
        },
    ),
    "saliency": Table(
        source="Results, Supplementary Figure S10",
        protocol="share of the pixel importance that lies on the spermatozoon",
        missing=NO_ZONA,
        rows={"before_cyclegan": {"share": 0.514}, "after_cyclegan": {"share": 0.916}},
    ),
}

REPORTED: dict[str, dict[str, Table]] = {
    "embryo_msres": EMBRYO_MSRES,
    "blastocyst_memebg": BLASTOCYST_MEMEBG,
    "sperm_effnet_cbam": SPERM_EFFNET_CBAM,
    "sperm_madrnet": SPERM_MADRNET,
    "zona_vgg13": ZONA_VGG13,
}


def reported(key: str) -> Row:
    """A row by its key, such as ``sperm_madrnet/hushem/madrnet``.

    Raises:
        InputError: no such paper, table or row; the message lists those there are.
    """
    paper, _, rest = key.partition("/")
    table, _, row = rest.partition("/")
    tables = REPORTED.get(paper, {})
    rows = tables[table].rows if table in tables else {}
    if row not in rows:
        choices = list(rows or tables or REPORTED)
        raise InputError(f"reported {key!r}: no such row; there are {', '.join(choices)}")
    return rows[row]


def row_of_task(key: str, task: str) -> str:
    """The key of a task's own row, where the paper has one; else the key as it is.

    Args:
        key: of a network's row, such as ``blastocyst_memebg/test/multi``.
        task: such as ``EXP``.
    """
    paper, table, row = key.split("/", 2)
    return f"{key}/{task}" if f"{row}/{task}" in REPORTED[paper][table].rows else key
