"""CBAM against the equations of Woo et al. 2018, and timm's version of it."""

import timm
import torch
from timm.layers.cbam import CbamModule
from torch import nn
from torch.nn import functional as F

from fertiray.models import build_model
from fertiray.models.effnet_cbam import CBAM
from fertiray.models.staged import intermediates


def by_hand(x, w):
    """Eq. 2 and 3 of the paper, with the MLP as two matrices."""
    w0, w1 = w["channel.fc1.weight"][:, :, 0, 0], w["channel.fc2.weight"][:, :, 0, 0]
    average = x.flatten(2).mean(2) @ w0.T
    maximum = x.flatten(2).max(2).values @ w0.T
    channel = torch.sigmoid(average.relu() @ w1.T + maximum.relu() @ w1.T)
    x = channel[:, :, None, None] * x
    summary = torch.stack([x.mean(1), x.max(1).values], 1)
    return torch.sigmoid(F.conv2d(summary, w["spatial.conv.weight"], padding=3)) * x


def test_equals_the_equations(seeded, picture):
    model = seeded(CBAM(32))
    x = picture(2, 32, 9)
    with torch.no_grad():
        _, mask, ours = model(x)
        assert torch.allclose(ours, by_hand(x, model.state_dict()), rtol=1e-5, atol=1e-6)
    assert mask.std() > 0.01
    assert (ours / x).std() > 0.01


def test_equals_timms_module_without_its_batchnorm(seeded, picture):
    ours, theirs = seeded(CBAM(32)), CbamModule(32).eval()
    theirs.channel.load_state_dict(ours.channel.state_dict())
    theirs.spatial.conv.conv.load_state_dict(ours.spatial.conv.state_dict())
    theirs.spatial.conv.bn = nn.Identity()
    x = picture(2, 32, 9)
    with torch.no_grad():
        assert torch.allclose(ours(x)[2], theirs(x), rtol=1e-5, atol=1e-6)


def test_backbone_is_timms_and_attention_comes_last(seeded, picture):
    model = seeded(build_model("effnet_cbam", 4, in_channels=3, size=64, args=OFFLINE))
    reference = timm.create_model("efficientnet_b0", num_classes=0, global_pool="")
    reference.load_state_dict(model.backbone.state_dict())
    x = picture(2, 3, 64)
    with torch.no_grad():
        found = intermediates(model, x)
        features = reference.eval()(x)
        attended = by_hand(features, model.cbam.state_dict())
        logits = F.linear(attended.mean((2, 3)), model.classifier.weight, model.classifier.bias)
    assert features.shape == (2, 1280, 2, 2)
    assert torch.allclose(found["features"], features, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["attention"], attended, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["logits"], logits, rtol=1e-4, atol=1e-5)


OFFLINE = {"pretrained": False}
