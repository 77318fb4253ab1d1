"""Pretrained weights: from a folder, from the hub, or a clear word about where to get them."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from fertiray.errors import InputError
from fertiray.models import build_model, weights
from fertiray.models.vgg13 import VGG13
from fertiray.models.weights import backbone


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FERTIRAY_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_hub(monkeypatch):
    """A machine that reaches no hub: the clients' own errors, without waiting for the network."""

    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", offline)


def stored(seeded, path, name="resnet18", **options):
    """A file as FERTIRAY_WEIGHTS holds them: ImageNet's 1000 classes, float16."""
    model = seeded(timm.create_model(name, num_classes=1000, **options))
    state = {
        key: value.half().contiguous()
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    save_file(state, path)
    return {key: value.float() for key, value in state.items()}


def test_weights_come_from_the_folder(folder, seeded):
    state = stored(seeded, folder / "resnet18.safetensors")
    model = backbone("resnet18", 3, pretrained=True)
    own = model.state_dict()
    assert own["fc.weight"].shape == (3, 512)  # a fresh layer for our classes
    for key, value in state.items():
        if not key.startswith("fc."):
            assert torch.equal(own[key], value)


def test_grey_equals_the_grey_channel_repeated_thrice(folder, seeded, picture):
    stored(seeded, folder / "resnet18.safetensors")
    rgb = backbone("resnet18", 0, pretrained=True).eval()
    grey = backbone("resnet18", 0, in_channels=1, pretrained=True).eval()
    x = picture(2, 1, 64)
    with torch.no_grad():
        assert torch.allclose(grey(x), rgb(x.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-5)


def test_vgg13_from_the_folder_in_grey(folder, seeded, picture):
    with torch.device("meta"):
        shapes = {key: v.shape for key, v in VGG13(1000, 3, pretrained=False).state_dict().items()}
    state = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}
    first = torch.randn(64, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    state["features.0.weight"] = first.half()
    save_file(state, folder / "vgg13.safetensors")
    model = VGG13(2, 1, pretrained=True)
    found = model.features[0].weight
    assert torch.allclose(found[:, 0], first.half().float().sum(1), atol=1e-6)
    assert (model.classifier[3].weight == 0).all()
    assert model.classifier[6].weight.shape == (2, 4096)
    assert (model.classifier[6].weight != 0).any()


def test_keras_resnet50_moves_its_stride_and_says_so(folder, seeded, picture):
    stored(seeded, folder / weights.LOCAL_FILES["resnet50"], "resnet50")
    model = backbone("resnet50", 2, pretrained=True).eval()
    for layer in (model.layer2, model.layer3, model.layer4):
        assert layer[0].conv1.stride == (2, 2)
        assert layer[0].conv2.stride == (1, 1)
    assert weights.settled_args(model) == {"stride_v1": True}
    again = build_model(
        "resnet50", 2, in_channels=3, size=64, args={"pretrained": False, "stride_v1": True}
    )
    again.load_state_dict(model.state_dict())
    plain = backbone("resnet50", 2, pretrained=False)
    plain.load_state_dict(model.state_dict())
    x = picture(1, 3, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model(x))
        assert not torch.allclose(plain.eval()(x), model(x), atol=1e-3)
    assert weights.settled_args(plain) == {}


def test_stride_of_another_network_is_refused():
    with pytest.raises(InputError, match="ResNet with bottlenecks"):
        backbone("resnet18", 2, pretrained=False, stride_v1=True)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("resnet50", "resnet50_keras_imagenet_fp16.safetensors"),
        ("efficientnet_b0", "efficientnet_b0.safetensors"),
        ("effnet_cbam", "efficientnet_b0.safetensors"),
        ("memebg", "resnet18.safetensors"),
        ("vgg13", "vgg13.safetensors"),
    ],
)
def test_a_missing_weight_says_where_to_get_it(folder, model, file):
    with pytest.raises(InputError) as caught:
        build_model(model, 2, in_channels=3, size=56, args={})
    message = str(caught.value)
    assert file in message
    assert "FERTIRAY_WEIGHTS" in message
    assert "pretrained=false" in message
    assert "\n" not in message


def test_a_wrong_file_is_named(folder, seeded):
    stored(seeded, folder / "resnet18.safetensors", "resnet34")
    with pytest.raises(InputError, match=r"resnet18.safetensors: not the weights of resnet18"):
        backbone("resnet18", 2, pretrained=True)
    (folder / "resnet18.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(InputError, match="not a safetensors file"):
        backbone("resnet18", 2, pretrained=True)


def test_an_unknown_backbone_is_named():
    with pytest.raises(InputError, match="'resnet51' is not an architecture"):
        build_model("madrnet", 2, in_channels=3, size=64, args={"backbone": "resnet51"})
