"""How far apart two looks are, and whether a translation left the heads where they were.

Shapes: N images of S x S pixels, uint8 RGB.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Images = NDArray[np.uint8]
FOLDS = 5
_GREY = np.linspace(0, 256, 17)
_LEVELS = len(_GREY) - 1
# Doubling steps in grey levels a pixel: noise lives in the first, edges of heads in the last. What
# is below the first step nobody sees.
_STEEPNESS = np.array([0.0, 4, 8, 16, 32, 64, 512])


@dataclass(frozen=True)
class DomainCheck:
    """A translation of laboratory images into the clinical look, measured without pairs.

    Attributes:
        auc_before: how well laboratory and clinical images are told apart, see :func:`domain_auc`.
        auc_after: the same of translated and clinical images; 0.5 is a perfect translation, 1 none.
        gap_before: distance of laboratory from clinical images, see :func:`domain_gap`.
        gap_after: the same of translated images; it still moves where the AUC does not.
        head_iou: median overlap of the dark part of an image before and after, in [0, 1].
        cycle_error: mean difference of an image and its translation there and back, grey levels.
        n: images of each look.
    """

    auc_before: float | None
    auc_after: float | None
    gap_before: float
    gap_after: float
    head_iou: float
    cycle_error: float
    n: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self) | {"n": list(self.n)}


def check_domains(source: Images, translated: Images, back: Images, target: Images) -> DomainCheck:
    """Measures a translation.

    Args:
        source: N x S x S x 3, before.
        translated: N x S x S x 3, the same images after.
        back: N x S x S x 3, translated back again.
        target: M x S x S x 3, real images of the other look.
    """
    changes = [cv2.absdiff(_grey(a), _grey(b)).mean() for a, b in zip(source, back, strict=True)]
    return DomainCheck(
        auc_before=domain_auc(source, target),
        auc_after=domain_auc(translated, target),
        gap_before=domain_gap(source, target),
        gap_after=domain_gap(translated, target),
        head_iou=float(np.median(dark_iou(source, translated))),
        cycle_error=float(np.mean(changes)),
        n=(len(source), len(target)),
    )


def domain_auc(one: Images, other: Images, seed: int = 0) -> float | None:
    """How well a plain classifier tells two sets of images apart by their look.

    A logistic regression (scikit-learn's) on :func:`look_features`, which know of brightness,
    contrast, noise and sharpness but not of where anything is. The area under the ROC curve is the
    mean over five held-out folds.

    Args:
        one: N x S x S x 3.
        other: M x S x S x 3.
        seed: of the folds.

    Returns:
        0.5 where they cannot be told apart, 1 where they always can; None with fewer than two
        images on a side. With few images it scatters about 0.5, also to below.
    """
    folds = min(FOLDS, len(one), len(other))
    if folds < 2:
        return None
    features = np.stack([look_features(image) for image in (*one, *other)])
    labels = np.repeat([0, 1], [len(one), len(other)])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(model, features, labels, cv=parts, scoring="roc_auc").mean())


def domain_gap(one: Images, other: Images) -> float:
    """Total variation between the mean :func:`look_features` of two sets of images, in [0, 1].

    The share of pixels that would have to change their grey level (or their gradient, whichever is
    more) for the two sets to look alike on average.

    Args:
        one: N x S x S x 3.
        other: M x S x S x 3.
    """
    means = [np.mean([look_features(image) for image in images], axis=0) for images in (one, other)]
    apart = np.abs(means[0] - means[1])
    return float(max(apart[:_LEVELS].sum(), apart[_LEVELS:].sum()) / 2)


def look_features(image: Images) -> NDArray[np.float64]:
    """Shares of 16 grey levels and of 6 steps of the gradient's magnitude, 22 float64."""
    level = _grey(image).astype(np.float32)
    across, down = np.gradient(level)
    levels = np.histogram(level, _GREY)[0] / level.size
    steep = np.histogram(np.hypot(across, down), _STEEPNESS)[0] / level.size
    return np.concatenate([levels, steep])


def dark_iou(one: Images, other: Images) -> NDArray[np.float64]:
    """Overlap of the dark parts (Otsu's threshold, each image's own) of each pair of images.

    Args:
        one: N x S x S x 3.
        other: N x S x S x 3.

    Returns:
        N float64: intersection over union, in [0, 1].
    """
    overlaps = []
    for pair in zip(one, other, strict=True):
        a, b = (_dark(image) for image in pair)
        overlaps.append((a & b).sum() / max(1, (a | b).sum()))
    return np.array(overlaps)


def grey(images: Images) -> Images:
    """N x S x S x 3 uint8 RGB to the same shape with three equal channels."""
    return np.stack([_grey(image) for image in images])[..., None].repeat(3, axis=-1)


def _grey(image: Images) -> Images:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _dark(image: Images) -> NDArray[np.bool_]:
    # Smoothed a little, or the threshold of a noisy image would cut through its noise.
    level = cv2.GaussianBlur(_grey(image), (0, 0), 1.0)
    threshold, _ = cv2.threshold(level, 0, 255, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)
    return np.asarray(level <= threshold)


def sample_sheet(rows: dict[str, Images], scale: int = 1) -> Images:
    """A picture of rows of images with their names.

    Args:
        rows: K x S x S x 3 by name; rows may differ in K.
        scale: every pixel becomes so many, each way.

    Returns:
        H x W x 3 uint8 RGB on white.
    """
    size = next(iter(rows.values())).shape[1] * scale
    gap, margin = 4, 100
    columns = max(len(images) for images in rows.values())
    height, width = gap + (size + gap) * len(rows), margin + (size + gap) * columns
    sheet: Images = np.full((height, width, 3), 255, np.uint8)
    for number, (name, images) in enumerate(rows.items()):
        top = gap + (size + gap) * number
        at = (6, top + size // 2)
        cv2.putText(sheet, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        for column, image in enumerate(images):
            left = margin + (size + gap) * column
            enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
            sheet[top : top + size, left : left + size] = enlarged
    return sheet
