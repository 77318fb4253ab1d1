"""An epoch's look at the validation part."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from fertiray.data.labelled import UNLABELLED, LabelledCrops
from fertiray.models.predict import Predictor
from fertiray.training.inputs import Cache
from fertiray.training.worker import Worker


def validate(
    crops: LabelledCrops,
    validation: NDArray[np.int64],
    predictor: Predictor,
    cache: Cache | None,
    worker: Worker,
) -> dict[str, float]:
    """Loss, accuracy and macro F1 of the validation part; each worker looks at its share.

    Args:
        crops: the data.
        validation: indices of the validation part.
        predictor: the network as it is now.
        cache: features to use instead of images, or None.
        worker: this process.

    Returns:
        ``validation_loss``, the mean negative log probability of the true class, summed over tasks;
        ``validation_accuracy`` and ``validation_macro_f1`` of the first task. Nothing where there
        is no validation part.
    """
    if not len(validation):
        return {}
    start = worker.rank * len(validation) // worker.size
    stop = (worker.rank + 1) * len(validation) // worker.size
    found: dict[str, NDArray[np.float32]] = {}
    if start < stop:
        found = _probabilities(crops, validation[start:stop], predictor, cache)
    tasks = list(crops.tasks.items()) if len(crops.tasks) > 1 else [("class", crops.classes)]
    loss = 0.0
    scores: dict[str, float] = {}
    for number, (task, classes) in enumerate(tasks):
        whole = torch.zeros(len(validation), len(classes))
        if start < stop:
            whole[start:stop] = torch.from_numpy(found[task])
        if worker.size > 1:
            torch.distributed.all_reduce(whole)
        labels = crops.targets[validation, number]
        graded = labels != UNLABELLED
        if not graded.any():
            continue
        probabilities, labels = whole.numpy()[graded], labels[graded]
        true = np.take_along_axis(probabilities, labels[:, None], axis=1)
        loss += float(-np.log(np.maximum(true, 1e-12)).mean())
        if not scores:
            called = probabilities.argmax(1)
            scores = {
                "validation_accuracy": float((called == labels).mean()),
                "validation_macro_f1": float(f1_score(labels, called, average="macro")),
            }
    return {"validation_loss": loss, **scores}


def _probabilities(
    crops: LabelledCrops, picked: NDArray[np.int64], predictor: Predictor, cache: Cache | None
) -> dict[str, NDArray[np.float32]]:
    if cache is None:
        return predictor.by_task(crops.images[picked])
    cache.head.eval()
    with torch.inference_mode():
        logits = cache.head(cache.features[torch.from_numpy(picked)].to(predictor.device))
    probabilities: NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
    return {"class": probabilities}
