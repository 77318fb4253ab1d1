"""Each term against a hand computation or the library that has it."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fertiray.models.memebg import UNLABELLED, joint_loss
from fertiray.training.config import Loss
from fertiray.training.losses import Objective, Targets, head_ratio_penalty, triplet


def targets(labels, classes=3, aspects=None, teacher=None):
    labels = torch.tensor(labels)
    columns = labels[:, None] if labels.ndim == 1 else labels
    return Targets(
        labels=columns,
        soft=F.one_hot(columns[:, 0].clamp(min=0), classes).float(),
        graded=tuple((columns != UNLABELLED).sum(0).clamp(min=1).tolist()),
        batch=len(columns),
        aspects=torch.tensor(aspects or [math.nan] * len(columns)),
        teacher=teacher,
    )


LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-2.0, 1.0, 4.0], [0.0, 3.0, 0.0]])
LABELS = [0, 2, 1, 1]


def test_cross_entropy_is_torchs_with_smoothing_and_weights():
    loss = Objective(Loss(label_smoothing=0.1))({"logits": LOGITS}, targets(LABELS))["loss"]
    expected = F.cross_entropy(LOGITS, torch.tensor(LABELS), label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    weights = torch.tensor([0.5, 1.0, 2.0])
    weighted = Objective(Loss(), weights)({"logits": LOGITS}, targets(LABELS))["loss"]
    # torch divides by the sum of the weights, the papers' mini-batch mean by the number of crops.
    summed = F.cross_entropy(LOGITS, torch.tensor(LABELS), weights, reduction="sum")
    assert weighted.item() == pytest.approx(summed.item() / 4, rel=1e-6)


def test_focal_loss_by_hand():
    """Eq. 18-20 of the MS-Res paper: mean of (1 - p)^2 w CE; p and CE written out."""
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    objective = Objective(
        Loss(kind="focal", gamma=2.0), class_weights=torch.tensor([0.822884, 2.5485437])
    )
    found = objective({"logits": logits}, targets([1, 1], classes=2))["loss"].item()
    first = (1 - 0.75) ** 2 * 2.5485437 * -math.log(0.75)  # p(1) = 3 / 4
    second = (1 - 0.2) ** 2 * 2.5485437 * -math.log(0.2)  # p(1) = 1 / 5
    assert found == pytest.approx((first + second) / 2, rel=1e-6)
    assert Objective(Loss(kind="focal", gamma=0.0))({"logits": LOGITS}, targets(LABELS))[
        "loss"
    ].item() == pytest.approx(F.cross_entropy(LOGITS, torch.tensor(LABELS)).item())


def test_triplet_by_hand():
    """Unit vectors at 0, 90 and 0 degrees: d(0, 90) = 1, d(0, 0) = 0."""
    embedding = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    # Classes a, a, b. Triplets: (0, 1, 2): 1 - 0 + m; (1, 0, 2): 1 - 1 + m.
    found = triplet(embedding, torch.tensor([0, 0, 1]), margin=0.3)
    assert found.item() == pytest.approx((1.3 + 0.3) / 2)
    # Classes a, b, a: (0, 2, 1): 0 - 1 + m < 0; (2, 0, 1) the same.
    assert triplet(embedding, torch.tensor([0, 1, 0]), margin=0.3).item() == 0
    assert triplet(embedding, torch.tensor([0, 1, 2]), margin=0.3).item() == 0  # no pair


def test_triplet_is_that_of_torch_on_every_triplet():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(8, 5, generator=generator)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0])
    term = torch.nn.TripletMarginWithDistanceLoss(
        distance_function=lambda a, b: 1 - F.cosine_similarity(a, b), margin=0.3
    )
    each = [
        term(embedding[a : a + 1], embedding[p : p + 1], embedding[n : n + 1]).item()
        for a in range(8)
        for p in range(8)
        for n in range(8)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    assert triplet(embedding, labels, 0.3).item() == pytest.approx(np.mean(each), rel=1e-5)


def test_triplet_pulls_a_class_together():
    """With the text's cosine similarity the gradient would push it apart."""
    embedding = torch.tensor([[1.0, 0.1], [0.6, 0.8], [0.8, 0.6]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    before = F.cosine_similarity(embedding[0], embedding[1], dim=0).item()
    triplet(embedding, labels, 0.3).backward()
    moved = embedding.detach() - 0.1 * embedding.grad
    assert F.cosine_similarity(moved[0], moved[1], dim=0).item() > before


def test_head_ratio_penalty_is_outside_1_2_to_1_8():
    ratios = torch.tensor([1.5, 1.8, 1.2, 2.2, 1.0, math.nan])
    expected = [0, 0, 0, 0.4, 0.2, 0]  # FACTS: max(|ratio - 1.5| - 0.3, 0)
    assert head_ratio_penalty(ratios).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("kind", "moves"), [("paper", False), ("effective", True)])
def test_only_the_effective_head_ratio_term_trains(kind, moves):
    logits = LOGITS.clone().requires_grad_()
    objective = Objective(Loss(harc=kind, harc_weight=1.0), normal=0)
    terms = objective({"logits": logits}, targets(LABELS, aspects=[2.2, 1.5, 2.8, 1.5]))
    assert terms["harc"].item() > 0
    gradient = (
        torch.autograd.grad(terms["harc"], logits, allow_unused=True)[0]
        if terms["harc"].requires_grad
        else None
    )
    assert (gradient is not None and gradient.abs().sum().item() > 0) == moves
    if moves:  # a head that is too long to be normal is moved away from Normal
        assert gradient[0, 0] > 0
        assert gradient[1].abs().sum() == 0


def test_bounded_weights_start_where_the_paper_does_and_stay_positive():
    settings = Loss(triplet=0.4, harc="effective", harc_weight=0.3, weights="bounded")
    objective = Objective(settings, normal=0)
    assert objective.weight("triplet").item() == pytest.approx(0.4, rel=1e-5)
    assert objective.weight("harc").item() == pytest.approx(0.3, rel=1e-5)
    for extreme in (-50.0, 50.0):
        objective.terms["triplet"].data.fill_(extreme)
        assert 0.009 < objective.weight("triplet").item() < 1.01
    free = Objective(Loss(triplet=0.4, weights="paper"))
    assert free.weight("triplet").item() == pytest.approx(0.4)
    free.terms["triplet"].data.fill_(-1.0)
    assert free.weight("triplet").item() == -1.0  # as written: nothing keeps it above zero


def test_learned_weights_reach_the_optimiser_and_fixed_ones_do_not():
    def trained(kind):
        objective = Objective(Loss(triplet=0.4, weights=kind))
        return [p for p in objective.parameters() if p.requires_grad]

    assert len(trained("bounded")) == len(trained("paper")) == 1
    assert not trained("fixed")


def test_joint_loss_is_that_of_the_network_and_masks_ungraded_images():
    labels = [[0, 1], [2, UNLABELLED], [UNLABELLED, UNLABELLED], [1, 0]]
    values = {
        "logits.EXP": LOGITS.clone().requires_grad_(),
        "logits.TE": LOGITS[:, :2].clone().requires_grad_(),
    }
    found = Objective(Loss())(values, targets(labels))
    columns = torch.tensor(labels)
    expected = joint_loss(
        {"EXP": LOGITS, "TE": LOGITS[:, :2]}, {"EXP": columns[:, 0], "TE": columns[:, 1]}
    )
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    found["loss"].backward()
    assert values["logits.TE"].grad[1:3].abs().sum() == 0


def test_distillation_of_the_teacher_itself_is_free():
    objective = Objective(Loss(distil=1.0, temperature=3.0))
    same = objective({"logits": LOGITS}, targets(LABELS, teacher=LOGITS))["loss"].item()
    assert same == pytest.approx(0, abs=1e-6)
    teacher = LOGITS.flip(1)
    found = objective({"logits": LOGITS}, targets(LABELS, teacher=teacher))["loss"].item()
    p, q = (teacher / 3).softmax(1).numpy(), (LOGITS / 3).softmax(1).numpy()
    assert found == pytest.approx(9 * (p * np.log(p / q)).sum(1).mean(), rel=1e-5)


def test_shares_of_two_workers_add_up():
    whole = targets(LABELS)
    objective = Objective(Loss(label_smoothing=0.1))
    total = objective({"logits": LOGITS}, whole)["loss"]
    halves = []
    for part in (slice(0, 1), slice(1, 4)):
        own = Targets(whole.labels[part], whole.soft[part], whole.graded, 4, whole.aspects[part])
        halves.append(objective({"logits": LOGITS[part]}, own)["loss"])
    assert sum(halves).item() == pytest.approx(total.item(), rel=1e-6)
