"""What each recipe minimises, as named terms that add up to ``loss``.

N crops of this worker, K classes, D entries of the embedding. Sums run over this worker's crops and
are divided by counts of the whole batch, so that the terms of all workers add up to those of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fertiray.models.memebg import UNLABELLED
from fertiray.training.config import Loss
from fertiray.training.sharing import rows_of_all

WHO_ASPECT, WHO_TOLERANCE = 1.5, 0.3  # head length over width of a normal head
LIGHTEST, HEAVIEST = 0.01, 1.0  # limits of a learned, bounded weight
_MIDDLE = (math.log(LIGHTEST) + math.log(HEAVIEST)) / 2
_HALF = (math.log(HEAVIEST) - math.log(LIGHTEST)) / 2


@dataclass(frozen=True)
class Targets:
    """What a worker's crops ought to be.

    Attributes:
        labels: N x T int64 by task; :data:`UNLABELLED` where not graded.
        soft: N x K float class probabilities of the first task, after MixUp.
        graded: for each task, how many crops of the whole batch carry its label; at least 1.
        batch: crops of the whole batch.
        aspects: N float head aspect ratios; NaN where not measured.
        teacher: N x K logits of the teacher, or None.
        start: place of the first crop in the batch, where the other crops are on other workers;
            None where all are here, or where the batch is gone through in pieces.
    """

    labels: Tensor
    soft: Tensor
    graded: tuple[int, ...]
    batch: int
    aspects: Tensor
    teacher: Tensor | None = None
    start: int | None = None


class Objective(nn.Module):
    """The loss of a recipe, with the weights that it learns.

    Args:
        settings: the recipe's.
        class_weights: K weights of the classes, or None.
        normal: index of the normal class, for the head-aspect-ratio term.
    """

    class_weights: Tensor | None

    def __init__(
        self, settings: Loss, class_weights: Tensor | None = None, normal: int | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.normal = normal
        self.register_buffer("class_weights", class_weights, persistent=False)
        initial = {}
        if settings.triplet:
            initial["triplet"] = settings.triplet
        if settings.harc != "none":
            initial["harc"] = settings.harc_weight
        learned = settings.weights != "fixed"
        self.terms = nn.ParameterDict(
            {
                name: nn.Parameter(torch.tensor(self._inner(weight)), requires_grad=learned)
                for name, weight in initial.items()
            }
        )

    def _inner(self, weight: float) -> float:
        """What is learned for a weight; see :meth:`weight`."""
        if self.settings.weights != "bounded":
            return weight
        return math.atanh((math.log(weight) - _MIDDLE) / _HALF)

    def weight(self, term: str) -> Tensor:
        """The present weight of ``triplet`` or ``harc``, a scalar.

        A bounded one is squashed into its limits, since a clamp would stop its gradient for good.
        """
        inner: Tensor = self.terms[term]
        if self.settings.weights != "bounded":
            return inner
        return (_MIDDLE + _HALF * inner.tanh()).exp()

    def forward(self, values: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The terms of a batch, scalars by name; ``loss`` is what is minimised.

        Args:
            values: ``logits`` (N x K), or ``logits.<task>`` of a multi-task network, and
                ``embedding`` (N x D) where the recipe has a triplet term.
            targets: see :class:`Targets`.
        """
        if "logits" not in values:
            return self._joint(values, targets)
        logits = values["logits"].float()
        terms = {"classification": self._classification(logits, targets)}
        extras = {}
        if "triplet" in self.terms:
            embedding, labels = values["embedding"].float(), targets.labels[:, 0]
            if targets.start is not None:
                embedding = rows_of_all(embedding, targets.start, targets.batch)
                labels = rows_of_all(labels, targets.start, targets.batch)
            share = len(logits) / targets.batch
            extras["triplet"] = triplet(embedding, labels, self.settings.margin) * share
        if "harc" in self.terms:
            extras["harc"] = self._harc(logits, targets)
        loss = terms["classification"]
        for name, value in extras.items():
            loss = loss + self.weight(name) * value
            if self.settings.weights == "bounded":
                # Kendall et al. 2018, Eq. 10, with the weight for 1 / sigma^2: without log(sigma)
                # the best weight of a loss would be zero.
                penalty = -0.5 * self.weight(name).log()
                loss = loss + penalty * (len(logits) / targets.batch)
        return {"loss": loss, **terms, **extras}

    def _classification(self, logits: Tensor, targets: Targets) -> Tensor:
        settings = self.settings
        soft = targets.soft
        if settings.label_smoothing:
            smooth = settings.label_smoothing
            soft = soft * (1 - smooth) + smooth / soft.shape[1]
        log_p = logits.log_softmax(1)
        each = -soft * log_p  # N x K
        if settings.kind == "focal":
            each = (1 - log_p.exp()) ** settings.gamma * each
        if self.class_weights is not None:
            each = each * self.class_weights
        total = each.sum() / targets.batch
        if targets.teacher is not None and settings.distil:
            t = settings.temperature
            gap = F.kl_div(
                (logits / t).log_softmax(1),
                (targets.teacher.float() / t).log_softmax(1),
                reduction="sum",
                log_target=True,
            )
            gap = gap * t**2 / targets.batch  # Hinton et al. 2015, section 2
            total = (1 - settings.distil) * total + settings.distil * gap
        return total

    def _harc(self, logits: Tensor, targets: Targets) -> Tensor:
        penalty = head_ratio_penalty(targets.aspects)
        if self.settings.harc == "effective":
            assert self.normal is not None
            penalty = penalty * logits.softmax(1)[:, self.normal]
        return penalty.sum() / targets.batch

    def _joint(self, values: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Sum of the tasks' cross-entropies, each over the crops that carry its label."""
        terms: dict[str, Tensor] = {}
        tasks = [name for name in values if name.startswith("logits.")]
        for number, name in enumerate(tasks):
            logits = values[name].float()
            summed = F.cross_entropy(
                logits,
                targets.labels[:, number],
                ignore_index=UNLABELLED,
                reduction="sum",
                label_smoothing=self.settings.label_smoothing,
            )
            # The sum of the logits times 0: a head without labels still takes part in DDP.
            terms[name.removeprefix("logits.")] = summed / targets.graded[number] + logits.sum() * 0
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def head_ratio_penalty(aspects: Tensor) -> Tensor:
    """``max(|ratio - 1.5| - 0.3, 0)`` (MADRNet, Eq. 14); 0 where the ratio is not known."""
    return ((aspects - WHO_ASPECT).abs() - WHO_TOLERANCE).clamp(min=0).nan_to_num(0.0)


def triplet(embedding: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of ``max(d(a, p) - d(a, n) + margin, 0)`` over all valid triplets, with cosine distance.

    MADRNet, Eq. 13. The text calls d the cosine *similarity*, with which the formula would push
    crops of one class apart; it is one minus that here.

    Args:
        embedding: N x D float.
        labels: N int64.
        margin: m, in [0, 2].

    Returns:
        A scalar; 0 where no triplet is valid.
    """
    unit = F.normalize(embedding, dim=1)
    distance = 1 - unit @ unit.T
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=same.device)
    valid = positive[:, :, None] & ~same[:, None, :]  # anchor, positive, negative
    each = (distance[:, :, None] - distance[:, None, :] + margin).clamp(min=0)
    return (each * valid).sum() / valid.sum().clamp(min=1)
