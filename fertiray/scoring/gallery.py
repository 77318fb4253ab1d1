"""Pictures for the report, chosen while the crops are at hand: the most and the least certain.

Each shard keeps a few per patient, model and class; the report picks the best of all shards. So a
run never reads its images twice, and what it keeps does not grow with a patient's crops.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fertiray.checkpoint import Meta
from fertiray.scoring.scorer import ScoredBatch

GALLERY_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("model", "patient_id", "slide_id", "crop_id", "label")),
        ("confidence", pa.float32()),
        ("kind", pa.string()),
        ("image", pa.binary()),
    ]
)
CONFIDENT_PER_CLASS = 4
UNCERTAIN = 6
THUMBNAIL = 96  # pixels, the longer side
QUALITY = 85  # JPEG

# (sort key, crop_id, row, crop): a heap keeps the largest keys; crop_id breaks ties for good.
Entry = tuple[float, str, dict[str, Any], NDArray[np.uint8]]


class Gallery:
    """Keeps the most certain crops of each class and the least certain ones, per patient and model.

    Args:
        metas: the checkpoints, in the order of a ScoredBatch's models.
    """

    def __init__(self, metas: Sequence[Meta]) -> None:
        self._metas = metas
        self._heaps: dict[tuple[str, str, str, str], list[Entry]] = {}

    def add(self, columns: dict[str, list[str]], batch: ScoredBatch) -> None:
        """Considers every scored crop of a batch.

        Args:
            columns: ``crop_id``, ``patient_id`` and ``slide_id`` of each crop.
            batch: their scores and pixels.
        """
        for place, image in enumerate(batch.images):
            if image is None or batch.stages[place] is not None:
                continue
            for meta, model in zip(self._metas, batch.models, strict=True):
                index = int(model.labels[place])
                confidence = float(model.probabilities[place, index])
                row = {
                    "model": model.name,
                    **{name: columns[name][place] for name in ("patient_id", "slide_id")},
                    "crop_id": columns["crop_id"][place],
                    "label": meta.classes[index],
                    "confidence": confidence,
                }
                self._offer("confident", CONFIDENT_PER_CLASS, confidence, row, image)
                self._offer("uncertain", UNCERTAIN, -confidence, row, image)

    def _offer(
        self, kind: str, limit: int, key: float, row: dict[str, Any], image: NDArray[np.uint8]
    ) -> None:
        group = row["label"] if kind == "confident" else ""
        heap = self._heaps.setdefault((kind, row["model"], row["patient_id"], group), [])
        entry = (key, row["crop_id"], {**row, "kind": kind}, image)
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        elif entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)

    def rows(self) -> list[dict[str, Any]]:
        """The kept crops as rows of :data:`GALLERY_SCHEMA`, with JPEG thumbnails."""
        return [
            {**row, "image": _thumbnail(image)}
            for heap in self._heaps.values()
            for _, _, row, image in sorted(heap, key=lambda entry: entry[:2], reverse=True)
        ]


def _thumbnail(image: NDArray[np.uint8]) -> bytes:
    scale = THUMBNAIL / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done  # an in-memory JPEG of a valid array
    return bytes(data)
