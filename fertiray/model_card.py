"""The model card: what a checkpoint is, for the person who finds the folder.

After Mitchell et al. 2019, "Model cards for model reporting": the model, its training data, what it
was measured to do, what it is for and what it is not.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fertiray.models.registry import MODELS
from fertiray.models.weights import parameter_count

USES = {
    "zona": "The share of a man's spermatozoa that look able to bind the zona pellucida, from"
    " aligned crops of stained sperm heads.",
    "morphology": "The class of a sperm head's shape, from stained and aligned crops.",
    "viability": "Whether an embryo looks viable, from one micrograph.",
    "grading": "Gardner grades of a day-5 blastocyst, from one micrograph.",
}


def model_card(meta: dict[str, Any], model: nn.Module) -> str:
    """The card of a checkpoint as Markdown.

    Args:
        meta: the plain values of :class:`fertiray.checkpoint.Meta`.
        model: the network.
    """
    operating, preprocessing = meta["operating"], meta["preprocessing"]
    spec = MODELS.get(meta["model"])
    tasks = meta["tasks"] or {meta["task"]: meta["classes"]}
    outputs = [f"{task}: {', '.join(names)}" for task, names in tasks.items()]
    mean, deviation = (
        ", ".join(f"{value:g}" for value in preprocessing[key]) for key in ("mean", "std")
    )
    versions = meta["provenance"].get("versions", {})
    sections = [
        f"# {meta['name']}",
        USES[meta["task"]],
        "Research software, not a medical device: no decision about a patient may rest on it"
        " alone.",
        "## Model",
        _table(
            {
                "network": f"`{meta['model']}`" + (f": {spec.note}" if spec else ""),
                "arguments": _pairs(meta["model_args"]) or "defaults",
                "parameters": f"{parameter_count(model):,}",
                "paper": f"`{meta['paper']}`",
                "outputs": "; ".join(outputs),
                "input": f"{preprocessing['size']} x {preprocessing['size']} pixels,"
                f" {preprocessing['colour']}, window {preprocessing['window']:g},"
                f" mean {mean}, deviation {deviation}",
            }
        ),
        "## Operating point",
        f"Positive class **{meta['positive']}**, on the validation set of the training.",
        _table(
            {
                "threshold": f"{operating['threshold']:g}",
                "sensitivity": _share(operating["sensitivity"], operating["n_positive"]),
                "specificity": _share(operating["specificity"], operating["n_negative"]),
                "sd between patients": f"{operating['sensitivity_sd']:.3f} and"
                f" {operating['specificity_sd']:.3f}",
                "temperature of the probabilities": ", ".join(
                    f"{value:.2f}" for value in meta["temperatures"].values()
                )
                or "1 (not calibrated)",
                "detector of unlike crops": "yes" if meta["ood_sha256"] else "none",
            }
        ),
        "These come from images like the training's; on another microscope, stain or laboratory"
        " they must be measured again before the numbers mean anything.",
        "## Validation metrics",
        _table(_flat_metrics(meta["metrics"])) if meta["metrics"] else "None were stored.",
        "## Training",
        _table(
            {
                "data digest": f"`{meta['data_digest']}`",
                "commit": f"`{meta['provenance'].get('commit') or 'not in a repository'}`",
                "trained": str(meta["provenance"].get("trained", "not recorded")),
                "versions": ", ".join(f"{name} {version}" for name, version in versions.items())
                or "not recorded",
                "weights SHA-256": f"`{meta['weights_sha256']}`",
            }
        ),
        "The whole configuration is in `meta.json`.",
    ]
    return "\n\n".join(sections) + "\n"


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {rows[key]} |" for key in rows)])


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def _share(value: float, n: int) -> str:
    return f"{100 * value:.1f}% of {n}"


def _flat_metrics(metrics: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            found |= _flat_metrics(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return found
