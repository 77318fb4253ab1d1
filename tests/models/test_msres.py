"""MS-Res against the paper's numbers and against its equations written out."""

import pytest
import torch
from torch.nn import functional as F

from fertiray.errors import InputError
from fertiray.models import build_model
from fertiray.models.describe import multiply_adds
from fertiray.models.msres import MSRes, MSResBlock
from fertiray.models.staged import intermediates
from fertiray.models.weights import parameter_count


def batch_norm(x, w, key):
    return F.batch_norm(
        x,
        w[f"{key}.running_mean"],
        w[f"{key}.running_var"],
        w[f"{key}.weight"],
        w[f"{key}.bias"],
    )


def cbm(x, w, key):
    """Eq. 1: ReLU(BN(Conv3x3(x)))."""
    return batch_norm(F.conv2d(x, w[f"{key}.0.weight"], padding=1), w, f"{key}.1").relu()


def ms_res(x, w, key):
    """Algorithm 2, line by line."""
    y_cbm = cbm(x, w, f"{key}.conv")
    depthwise = F.conv2d(x, w[f"{key}.depthwise.0.weight"], padding=2, groups=x.shape[1])
    y_dw = batch_norm(depthwise, w, f"{key}.depthwise.1").relu()
    y_pw = F.conv2d(y_dw, w[f"{key}.pointwise.0.weight"])
    y_pw = batch_norm(y_pw, w, f"{key}.pointwise.1").relu()
    fuse = F.conv2d(torch.cat([y_cbm, y_pw], 1), w[f"{key}.fuse.0.weight"])
    fuse = batch_norm(fuse, w, f"{key}.fuse.1")
    summary = torch.stack([fuse.mean(1), fuse.max(1).values], 1)
    mask = torch.sigmoid(F.conv2d(summary, w[f"{key}.attention.conv.weight"], padding=3))
    shortcut = w.get(f"{key}.shortcut.weight")
    residual = x if shortcut is None else F.conv2d(x, shortcut)
    return F.relu(fuse * mask + residual)


def by_hand(x, w, repetitions):
    """Algorithm 1 with the stem as the first repetition of stage 0."""
    x = cbm(x, w, "stem")
    for stage, count in enumerate(repetitions):
        for number in range(count - (stage == 0)):
            x = cbm(x, w, f"cbm.{stage}.{number}")
        x = ms_res(x, w, f"msres.{stage}")
        if stage < len(repetitions) - 1:
            x = F.max_pool2d(x, kernel_size=3, stride=2)
    h = F.linear(x.mean((2, 3)), w["classifier.1.weight"], w["classifier.1.bias"])
    h = F.layer_norm(h, h.shape[1:], w["classifier.2.weight"], w["classifier.2.bias"]).relu()
    return F.linear(h, w["classifier.4.weight"], w["classifier.4.bias"])


@pytest.mark.parametrize("repetitions", [(1, 1, 1), (3, 2, 1), (3, 2, 2), (3,), (3, 2, 2, 2)])
def test_equals_the_equations(seeded, picture, repetitions):
    model = seeded(MSRes(2, repetitions=repetitions, width=0.25))
    x = picture(2, 3, 33)
    with torch.no_grad():
        ours, theirs = model(x), by_hand(x, model.state_dict(), repetitions)
    assert ours.std() > 0.01
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_parameters_and_multiply_adds_are_the_papers():
    """Table 2: 2,244,616 parameters, 15.63 G at 1 x 3 x 224 x 224."""
    with torch.device("meta"):
        model = MSRes(2).eval()
        gmacs, _ = multiply_adds(model, torch.empty(1, 3, 224, 224))
    assert parameter_count(model) == 2_244_616
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2_244_616
    assert f"{gmacs:.2f}" == "15.63"


def block(c_in, c):
    """Parameters of a CBM, by hand: the convolution, and BatchNorm's scale and offset."""
    return 9 * c_in * c + 2 * c


A4 = 2_244_616 - block(256, 256)
A3 = A4 - block(64, 64)
A2 = A3 - block(128, 128)
# A1 also loses 32 -> 64, and its first MS-Res starts from 32 channels: a narrower 3 x 3, depthwise
# 5 x 5 with BatchNorm and pointwise convolution, and a 1 x 1 shortcut.
A1 = A2 - block(32, 64) - 9 * 32 * 64 - (25 + 2) * 32 - 32 * 64 + 32 * 64


@pytest.mark.parametrize(
    ("name", "repetitions", "count"),
    [
        ("msres_a1", (1, 1, 1), A1),
        ("msres_a2", (2, 1, 1), A2),
        ("msres_a3", (2, 2, 1), A3),
        ("msres_a4", (3, 2, 1), A4),
        ("msres", (3, 2, 2), 2_244_616),
    ],
)
def test_ablations(name, repetitions, count):
    with torch.device("meta"):
        model = build_model(name, 2, in_channels=3, size=224, args={})
        same = build_model(
            "msres", 2, in_channels=3, size=224, args={"repetitions": list(repetitions)}
        )
    assert parameter_count(model) == parameter_count(same) == count
    assert model.msres[0].shortcut.__class__.__name__ == (
        "Conv2d" if repetitions[0] == 1 else "Identity"
    )


def test_maps_have_the_papers_sizes():
    """Section 4.4: 32 and 64 channels at 224, 128 at 111, 256 at 55."""
    with torch.device("meta"):
        found = intermediates(MSRes(2).eval(), torch.empty(1, 3, 224, 224))
    shapes = {name: tuple(value.shape[1:]) for name, value in found.items()}
    assert shapes == {
        "stem": (32, 224, 224),
        "cbm0": (64, 224, 224),
        "mask0": (1, 224, 224),
        "msres0": (64, 224, 224),
        "cbm1": (128, 111, 111),
        "mask1": (1, 111, 111),
        "msres1": (128, 111, 111),
        "cbm2": (256, 55, 55),
        "mask2": (1, 55, 55),
        "msres2": (256, 55, 55),
        "pooled": (256,),
        "embedding": (128,),
        "logits": (2,),
    }


def test_block_with_another_width_has_a_projection():
    block = MSResBlock(3, 5)
    assert block(torch.zeros(1, 3, 4, 4))[0].shape == (1, 5, 4, 4)
    assert block.shortcut.bias is None  # Eq. 6: a convolution, as bias-free as the others


@pytest.mark.parametrize("repetitions", [[], [0, 1, 1], [1] * 5])
def test_wrong_repetitions_are_refused(repetitions):
    with pytest.raises(InputError, match="one to four numbers of at least 1"):
        build_model("msres", 2, in_channels=3, size=32, args={"repetitions": repetitions})
