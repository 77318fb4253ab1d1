"""MADRNet's parts against its equations, its totals against the paper, its switches one by one."""

import pytest
import torch
from torch.nn import functional as F

from fertiray.errors import InputError
from fertiray.models import build_model
from fertiray.models.madrnet import BilinearPooling, DualAttention, MADRNet
from fertiray.models.staged import WithIntermediates, intermediates
from fertiray.models.weights import parameter_count


def dual_attention(x, w, key=""):
    """Eq. 2 to 4."""
    pooled = x.flatten(2).mean(2)
    hidden = F.linear(pooled, w[f"{key}channel.0.weight"], w[f"{key}channel.0.bias"]).relu()
    a_c = torch.sigmoid(F.linear(hidden, w[f"{key}channel.2.weight"], w[f"{key}channel.2.bias"]))
    if f"{key}roi.weight" in w:
        a_c = a_c * torch.sigmoid(F.linear(pooled, w[f"{key}roi.weight"], w[f"{key}roi.bias"]))
    spatial = F.conv2d(x, w[f"{key}spatial.weight"], w[f"{key}spatial.bias"], padding=1)
    return x * a_c[:, :, None, None] + x * torch.sigmoid(spatial)


@pytest.mark.parametrize("acrosome", [True, False])
def test_dual_attention_equals_the_equations(seeded, picture, acrosome):
    model = seeded(DualAttention(16, acrosome))
    x = picture(2, 16, 6)
    with torch.no_grad():
        assert torch.allclose(model(x), dual_attention(x, model.state_dict()), atol=1e-5)
    assert ("roi.weight" in model.state_dict()) == acrosome


def test_bilinear_pooling_equals_the_equations(seeded, picture):
    model = seeded(BilinearPooling(16, True))
    w, x = model.state_dict(), picture(3, 16, 6)
    b1, b2 = (
        dual_attention(
            F.conv2d(x, w[f"branches.{n}.0.weight"], w[f"branches.{n}.0.bias"]),
            w,
            f"branches.{n}.1.",
        ).mean((2, 3))
        for n in (0, 1)
    )
    outer = torch.einsum("ni,nj->nij", b1, b2).flatten(1)  # Eq. 8
    root = torch.sign(outer) * torch.sqrt(outer.abs() + 1e-5)  # Eq. 9
    h = F.linear(root, w["output.0.weight"], w["output.0.bias"])
    h = (h - w["output.1.running_mean"]) / (w["output.1.running_var"] + 1e-5).sqrt()
    h = (h * w["output.1.weight"] + w["output.1.bias"]).relu()
    expected = F.linear(h, w["output.3.weight"], w["output.3.bias"])  # Eq. 10
    with torch.no_grad():
        assert torch.allclose(model(model.attended(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "reported"), [("madrnet", 44.35), ("madrnet_eb0", 12.34)])
def test_totals_are_the_papers_within_one_percent(name, reported):
    with torch.device("meta"):
        model = build_model(name, 4, in_channels=3, size=512, args={"pretrained": False})
    assert parameter_count(model) / 1e6 == pytest.approx(reported, rel=0.01)


def tiny(**args):
    return MADRNet(4, size=64, backbone="resnet18", pretrained=False, **args)


def test_n_changes_no_parameter():
    counts = {n: parameter_count(tiny(n=n)) for n in range(7)}
    assert len({counts[n] for n in range(1, 7)}) == 1
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    ("args", "names"),
    [  # Table IV, top to bottom; the fourth row differs in its loss only
        ({"n": 0, "bilinear": False}, ["backbone"]),
        ({"n": 3, "bilinear": False}, ["backbone", "reversible"]),
        ({"n": 3, "bilinear": True}, ["backbone", "reversible", "attention"]),
        ({"n": 0, "bilinear": True}, ["backbone", "attention"]),  # Fig. 10 at n = 0
    ],
)
def test_switches_leave_their_module_out(picture, args, names):
    model = tiny(**args).eval()
    with torch.no_grad():
        found = intermediates(model, picture(2, 3, 64))
    assert list(found) == [*names, "pooled", "embedding", "logits"]
    assert found["logits"].shape == (2, 4)
    assert found["embedding"].shape == (2, 128)


def test_acrosome_constraint_is_a_switch():
    """Table V: the constraint is a layer of every dual attention, in G and in both branches."""
    with_it, without = tiny().state_dict(), tiny(acrosome=False).state_dict()
    assert {key for key in with_it if key not in without} == {
        f"{place}.roi.{kind}"
        for place in ("reversible.g.attention", "pooling.branches.0.1", "pooling.branches.1.1")
        for kind in ("weight", "bias")
    }


def test_the_classifier_sees_what_is_named(seeded, picture):
    """Grad-CAM's need: a gradient of a logit reaches each named map."""
    model = seeded(tiny())
    found = intermediates(model, picture(2, 3, 64))
    for name in ("backbone", "reversible", "attention", "embedding"):
        logit = found["logits"][:, 0].sum()
        (gradient,) = torch.autograd.grad(logit, found[name], retain_graph=True)
        assert gradient.abs().max() > 0


def test_embedding_and_logits_from_one_forward(seeded, picture):
    model, x = seeded(tiny()), picture(2, 3, 64)
    with torch.no_grad():
        both = WithIntermediates(model)(x)
        assert torch.equal(both["logits"], model(x))
    assert both["embedding"].shape == (2, 128)


def test_n_is_bounded():
    with pytest.raises(InputError, match="n must be 0"):
        build_model("madrnet", 4, in_channels=3, size=64, args={"n": 7, "pretrained": False})
