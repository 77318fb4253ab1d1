"""Groups, rates and schedules as the papers print them."""

from dataclasses import replace

import pytest
import torch

from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import build_model
from fertiray.papers.embryo_msres import MSRES
from fertiray.papers.sperm_madrnet import MADRNET
from fertiray.training.config import Loss, TrainConfig
from fertiray.training.losses import Objective
from fertiray.training.optim import body_and_head, make_optimizer, make_schedule


def network(name, classes=4, size=32, channels=3, **args):
    return build_model(name, classes, in_channels=channels, size=size, args=args)


def test_madrnet_trains_backbone_and_rest_at_the_papers_rates():
    """Table I: 3e-4 for the backbone, 1e-3 for the reversible sequence and the classifier."""
    model = network("madrnet", pretrained=False)
    objective = Objective(MADRNET.loss, normal=0)
    optimizer = make_optimizer(model, objective, MADRNET, head_only=False)
    backbone, rest, weights = optimizer.param_groups
    assert backbone["lr"] == 3e-4
    assert rest["lr"] == weights["lr"] == 1e-3
    assert sum(map(len, (backbone["params"], rest["params"]))) == len(list(model.parameters()))
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.backbone.parameters()}
    assert len(weights["params"]) == 2  # alpha and beta, which the published code leaves out
    assert weights["weight_decay"] == 0
    schedule = make_schedule(optimizer, MADRNET, steps=10)
    rates = []
    for _ in range(10):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert max(rate[0] for rate in rates) == pytest.approx(3e-4, rel=0.02)
    assert max(rate[1] for rate in rates) == pytest.approx(1e-3, rel=0.02)
    assert rates[-1][0] < 1e-6


def test_plateau_halves_after_two_epochs_without_a_lower_loss():
    """embryo_msres: ReduceLROnPlateau, factor 0.5, patience 2."""
    model = network("basic_cnn", 2, channels=1)
    optimizer = make_optimizer(model, Objective(Loss()), MSRES, head_only=False)
    schedule = make_schedule(optimizer, MSRES, steps=5)
    rates = []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.95):
        schedule.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1e-4, 1e-4, 1e-4, 1e-4, 5e-5, 5e-5]


def test_cosine_ends_at_zero_after_all_steps():
    model = network("basic_cnn", 2, channels=1)
    config = replace(MSRES, schedule="cosine")
    optimizer = make_optimizer(model, Objective(Loss()), config, head_only=False)
    schedule = make_schedule(optimizer, config, steps=4)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_the_head_only_phase_trains_the_last_layer_at_its_own_rate():
    model = network("effnet_cbam", pretrained=False)
    config = TrainConfig(
        "effnet_cbam", Preprocessing(32), epochs=2, batch_size=4, optimizer="adamw", lr=1e-4,
        head_lr=1e-4, freeze_epochs=1, freeze_lr=1e-3,
    )  # fmt: skip
    (group,) = make_optimizer(model, Objective(Loss()), config, head_only=True).param_groups
    assert group["lr"] == 1e-3
    assert {id(p) for p in group["params"]} == {id(p) for p in model.classifier.parameters()}


@pytest.mark.parametrize(
    ("name", "channels", "behind"),
    [("resnet50", 3, 2), ("effnet_cbam", 3, 5), ("vgg13", 1, 6), ("msres", 3, 6)],
)
def test_what_counts_as_behind_the_backbone(name, channels, behind):
    """Counted by hand: a linear layer or norm has two tensors, CBAM three."""
    args = {} if name == "msres" else {"pretrained": False}
    body, head = body_and_head(network(name, channels=channels, **args))
    assert len(head) == behind
    assert all(isinstance(p, torch.nn.Parameter) for p in body)
