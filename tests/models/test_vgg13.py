"""VGG13 is torchvision's, the same as timm's, with the paper's parts frozen."""

import pytest
import timm
import torch

from fertiray.errors import InputError
from fertiray.models import build_model
from fertiray.models.staged import intermediates
from fertiray.models.vgg13 import VGG13


@pytest.fixture(scope="module")
def model(seeded):
    return seeded(VGG13(2, pretrained=False))


def test_equals_timms_vgg13(model, picture):
    """timm writes the linear layers as convolutions; the numbers are the same."""
    theirs = timm.create_model("vgg13", num_classes=2, in_chans=1).eval()
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
    names["classifier.6"] = "head.fc"
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    state = {}
    for key, value in model.state_dict().items():
        layer, _, kind = key.rpartition(".")
        there = f"{names.get(layer, layer)}.{kind}"
        state[there] = value.reshape(shapes[there])
    theirs.load_state_dict(state)
    x = picture(2, 1, 128)
    with torch.no_grad():
        assert torch.allclose(model(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_ten_convolutions_and_three_linear_layers(model):
    kinds = [type(m).__name__ for m in model.modules()]
    assert kinds.count("Conv2d") == 10
    assert [type(m).__name__ for m in model.classifier] == [
        *("Linear", "ReLU", "Dropout") * 2,
        "Linear",
    ]
    assert model.classifier[-1].weight.shape == (2, 4096)


def test_names(model, picture):
    with torch.no_grad():
        found = intermediates(model, picture(1, 1, 128))
    shapes = {name: tuple(value.shape[1:]) for name, value in found.items()}
    assert shapes == {
        "block1": (64, 128, 128),
        "block2": (128, 64, 64),
        "block3": (256, 32, 32),
        "block4": (512, 16, 16),
        "block5": (512, 8, 8),
        "features": (25088,),
        "embedding": (4096,),
        "logits": (2,),
    }


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        ("features", {"classifier.0", "classifier.3", "classifier.6"}),
        ("all_but_last", {"classifier.6"}),
        ("nothing", None),
    ],
)
def test_what_is_frozen(frozen, trained):
    with torch.device("meta"):
        model = VGG13(2, pretrained=False, frozen=frozen)
    names = {n.rpartition(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    everything = {n.rpartition(".")[0] for n, _ in model.named_parameters()}
    assert names == (everything if trained is None else trained)


@pytest.mark.parametrize(
    ("size", "args", "message"), [(16, {}, "at least 32"), (128, {"frozen": "all"}, "frozen must")]
)
def test_wrong_arguments_are_refused(size, args, message):
    with torch.device("meta"), pytest.raises(InputError, match=message):
        build_model("vgg13", 2, in_channels=1, size=size, args={**args, "pretrained": False})
