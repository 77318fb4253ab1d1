"""Training and tuning: losses, speed and trials."""

from __future__ import annotations

from fertiray.dashboard.panels import (
    Dashboard,
    Panel,
    Query,
    of,
    quantiles,
    rate,
    total,
)

TRAINING = Dashboard(
    "training",
    "FertiRay: training and tuning",
    (
        Panel(
            "loss",
            "Loss",
            "Of the last step, and of the validation part after each epoch.",
            "lines",
            "short",
            (Query(f"avg by (part) ({of('training_loss')})", "{{part}}"),),
        ),
        Panel(
            "images",
            "Images a second",
            "Images that all workers learn from.",
            "lines",
            "suffix: images/s",
            (Query(f"sum({rate('training_images_total')})", "images"),),
        ),
        Panel(
            "steps",
            "Step time",
            "Time of one step of the optimiser in one worker.",
            "lines",
            "s",
            quantiles("training_step_seconds"),
        ),
        Panel(
            "epoch",
            "Epoch",
            "The last epoch that is finished; the farthest of several trainings.",
            "lines",
            "short",
            (Query(f"max({of('training_epoch')})", "epoch"),),
        ),
        Panel(
            "trials",
            "Trials",
            "Trials of a study that wait or run.",
            "lines",
            "short",
            (Query(f"sum by (state) ({of('trials')})", "{{state}}"),),
        ),
        Panel(
            "trials_ended",
            "Trials that ended",
            "Of all studies in the time shown.",
            "bars",
            "short",
            (Query(f"sum by (outcome) ({total('trials_ended_total')})", "{{outcome}}"),),
        ),
    ),
)
