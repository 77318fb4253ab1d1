"""Pretrained backbones: from timm or torchvision by name, or from a folder where there is no hub.

Grey input to an RGB backbone is handled in one way everywhere: the first convolution's weights are
summed over the three colours, which gives exactly the output of the grey channel repeated thrice.

``FERTIRAY_WEIGHTS`` names a folder of ``<architecture>.safetensors`` files with the keys of timm
(of torchvision for VGG13); :data:`LOCAL_FILES` lists those that go by another name.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import timm
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import nn
from torchvision.models.vgg import VGG

from fertiray.errors import InputError

# Architecture -> file below FERTIRAY_WEIGHTS.
LOCAL_FILES = {
    "resnet50": "resnet50_keras_imagenet_fp16.safetensors",
    "tf_efficientnet_lite0": "tf_efficientnet_lite0_imagenet_fp16.safetensors",
}
# Of these, the ones for ResNet v1, whose stages have their stride on the first 1 x 1 convolution.
STRIDE_V1 = {"resnet50_keras_imagenet_fp16.safetensors"}


def backbone(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool,
    stride_v1: bool = False,
    **options: object,
) -> nn.Module:
    """A timm classifier with a fresh classification layer.

    Args:
        name: timm's name of the architecture.
        num_classes: number of logits; 0 leaves the pooled features.
        in_channels: channels of the input, 1 or 3.
        pretrained: start from ImageNet: from ``FERTIRAY_WEIGHTS`` where that folder has the file,
            else from timm's hub.
        stride_v1: of a ResNet with bottlenecks: the stride on the first 1 x 1 convolution of a
            stage (He et al. 2016) instead of the 3 x 3 one. Set by itself when the weights in
            ``FERTIRAY_WEIGHTS`` were made for it; see :func:`settled_args`.
        options: further arguments of ``timm.create_model``.

    Raises:
        InputError: an unknown name, or ``pretrained`` where the weights are neither in the folder
            nor to be had from the hub.
    """
    if not timm.is_model(name):
        raise InputError(f"backbone {name!r} is not an architecture of timm {timm.__version__}")
    path = _local_file(name) if pretrained else None
    state = _read(path) if path is not None else None
    overlay = {"state_dict": dict(state)} if state is not None else None
    if pretrained and path is None:
        _require_hub(name)
    try:
        model: nn.Module = timm.create_model(
            name,
            pretrained=pretrained,
            pretrained_cfg_overlay=overlay,
            num_classes=num_classes,
            in_chans=in_channels,
            **options,
        )
    except Exception as error:  # the hub client raises another type for each way to be offline
        if not pretrained:
            raise
        raise _unusable(name, path, error) from error
    if state is not None:
        _require_keys(model, state, f"{path}: not the weights of {name}")
    if stride_v1 or (path is not None and path.name in STRIDE_V1):
        _stride_v1(model)
    return model


def feature_map(
    name: str, *, in_channels: int, pretrained: bool, stride_v1: bool = False
) -> tuple[nn.Module, int]:
    """A timm network that ends with its last feature map, and that map's number of channels."""
    model = backbone(
        name,
        0,
        in_channels=in_channels,
        pretrained=pretrained,
        stride_v1=stride_v1,
        global_pool="",
    )
    return model, int(model.num_features)  # type: ignore[arg-type]


def vgg(name: str, num_classes: int, *, in_channels: int, pretrained: bool) -> VGG:
    """A torchvision VGG whose last layer goes to ``num_classes`` instead of 1000.

    Raises:
        InputError: ``pretrained`` where the weights are neither in ``FERTIRAY_WEIGHTS`` nor to be
            had from torchvision's server.
    """
    path = _local_file(name) if pretrained else None
    try:
        weights = "DEFAULT" if pretrained and path is None else None
        model: VGG = torchvision.models.get_model(name, weights=weights)
        if path is not None:
            model.load_state_dict(_read(path))
    except Exception as error:  # torch.hub raises another type for each way to be offline
        if not pretrained:
            raise
        raise _unusable(name, path, error) from error
    if in_channels != 3:
        rgb = model.features[0]
        first = nn.Conv2d(in_channels, rgb.out_channels, 3, padding=1)
        first.weight.data = adapt_input_conv(in_channels, rgb.weight.data)
        first.bias = rgb.bias
        model.features[0] = first
    model.classifier[-1] = nn.Linear(model.classifier[-1].in_features, num_classes)
    return model


def settled_args(model: nn.Module) -> dict[str, bool]:
    """What the choice of weights settled about the architecture, as arguments that rebuild it."""
    return {"stride_v1": True} if any(hasattr(m, "stride_v1") for m in model.modules()) else {}


def _local_file(name: str) -> Path | None:
    folder = os.environ.get("FERTIRAY_WEIGHTS")
    path = Path(folder or ".") / LOCAL_FILES.get(name, f"{name}.safetensors")
    return path if folder and path.is_file() else None


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return {key: value.float() for key, value in load_file(path).items()}
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from error


def _require_hub(name: str) -> None:
    """Says at once what the hub's client says after a minute of retries: that there is no hub."""
    host = urlsplit(huggingface_hub.constants.ENDPOINT).hostname
    repository = timm.get_pretrained_cfg(name).hf_hub_id
    cached = huggingface_hub.try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(cached, str) or getproxies():
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise _unusable(name, None, error) from error


def _require_keys(model: nn.Module, state: dict[str, torch.Tensor], what: str) -> None:
    """Timm loads what fits and only warns of the rest; a wrong file must not pass for weights."""
    classifier: str = model.default_cfg["classifier"]  # type: ignore[assignment, index]
    own = {
        key
        for key in model.state_dict()
        if not key.startswith(f"{classifier}.") and not key.endswith("num_batches_tracked")
    }
    given = {key for key in state if not key.startswith(f"{classifier}.")}
    missing = sorted(own - given)
    unexpected = sorted(key for key in given - own if not key.endswith("num_batches_tracked"))
    if missing or unexpected:
        raise InputError(f"{what}: missing {missing[:3]}, unexpected {unexpected[:3]}")


def _unusable(name: str, path: Path | None, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    if path is not None:
        reason = " ".join(str(error).split())[:200]
        return InputError(f"{path}: not the weights of {name}: {reason}")
    return InputError(
        f"{name}: no ImageNet weights ({type(error).__name__}); connect to the internet, set"
        f" FERTIRAY_WEIGHTS to a folder with {LOCAL_FILES.get(name, name + '.safetensors')},"
        " or train from scratch with --set model_args.pretrained=false"
    )


def _stride_v1(model: nn.Module) -> None:
    """Moves the stride of each stage from the 3 x 3 to the first 1 x 1 convolution: ResNet v1."""
    if not hasattr(getattr(model, "layer2", [None])[0], "conv3"):
        raise InputError("stride_v1 is for a ResNet with bottlenecks, such as resnet50")
    for stage in (model.layer2, model.layer3, model.layer4):
        block = stage[0]  # type: ignore[index]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)  # type: ignore[union-attr]
    model.stride_v1 = True  # type: ignore[assignment]


def parameter_count(model: torch.nn.Module) -> int:
    """Number of parameters, trainable or not, buffers excluded."""
    return sum(parameter.numel() for parameter in model.parameters())
