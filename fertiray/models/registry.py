"""Every network by name, read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from fertiray.errors import InputError
from fertiray.models.basic_cnn import BasicCNN
from fertiray.models.cyclegan import CycleGANGenerator, PatchGANDiscriminator
from fertiray.models.effnet_cbam import EffNetCBAM
from fertiray.models.madrnet import MADRNet
from fertiray.models.memebg import TASKS, MEmEBG, SingleTask
from fertiray.models.msres import MSRes
from fertiray.models.simple_cnn import SimpleCNN
from fertiray.models.vgg13 import VGG13
from fertiray.models.weights import backbone


@dataclass(frozen=True)
class ModelSpec:
    """A network and the paper it belongs to.

    Attributes:
        build: called with ``num_classes``, ``in_channels``, ``size`` and the model's own arguments.
        papers: keys of the papers that use it, as the model or as a baseline.
        note: what a reader of a table should know.
        pretrained: takes ``pretrained``, true by default.
        classes: number of classes in its first paper, or by task for a multi-task network; ``None``
            where the output is not classes.
        in_channels: of the paper's input.
        size: height and width of the paper's input in pixels.
        output: what its one output is; a multi-task network names each by its task.
        reported_params: millions of parameters, as its paper prints them.
        reported_gmacs: G multiply-adds, as its paper prints them.
    """

    build: Callable[..., nn.Module]
    papers: tuple[str, ...]
    note: str
    pretrained: bool = False
    classes: int | Mapping[str, int] | None = 2
    in_channels: int = 3
    size: int = 224
    output: str = "logits"
    reported_params: float | None = None
    reported_gmacs: float | None = None


def _timm(
    architecture: str,
    num_classes: int,
    *,
    in_channels: int,
    size: int,
    pretrained: bool = True,
    stride_v1: bool = False,
) -> nn.Module:
    del size  # fully convolutional up to the global average pool
    return backbone(
        architecture,
        num_classes,
        in_channels=in_channels,
        pretrained=pretrained,
        stride_v1=stride_v1,
    )


def _memebg(num_classes: int, **args: Any) -> nn.Module:
    del num_classes  # each task has its own
    return MEmEBG(**args)


def _generator(num_classes: int, *, in_channels: int, size: int, **args: Any) -> nn.Module:
    del num_classes
    return CycleGANGenerator(in_channels, size, **args)


def _discriminator(num_classes: int, *, in_channels: int, size: int, **args: Any) -> nn.Module:
    del num_classes, size
    return PatchGANDiscriminator(in_channels, **args)


EMBRYO, BLASTOCYST = "embryo_msres", "blastocyst_memebg"
CBAM, MADR, ZONA = "sperm_effnet_cbam", "sperm_madrnet", "zona_vgg13"

MODELS: dict[str, ModelSpec] = {
    "msres": ModelSpec(
        MSRes,
        (EMBRYO,),
        "proposed: 3, 2, 2 convolution blocks",
        reported_params=2.244616,
        reported_gmacs=15.63,
    ),
    "msres_a1": ModelSpec(partial(MSRes, repetitions=(1, 1, 1)), (EMBRYO,), "ablation: 1, 1, 1"),
    "msres_a2": ModelSpec(partial(MSRes, repetitions=(2, 1, 1)), (EMBRYO,), "ablation: 2, 1, 1"),
    "msres_a3": ModelSpec(partial(MSRes, repetitions=(2, 2, 1)), (EMBRYO,), "ablation: 2, 2, 1"),
    "msres_a4": ModelSpec(partial(MSRes, repetitions=(3, 2, 1)), (EMBRYO,), "ablation: 3, 2, 1"),
    "densenet121": ModelSpec(partial(_timm, "densenet121"), (EMBRYO,), "baseline", pretrained=True),
    "resnet50": ModelSpec(
        partial(_timm, "resnet50"), (EMBRYO, MADR), "baseline and backbone", pretrained=True
    ),
    "memebg": ModelSpec(
        _memebg,
        (BLASTOCYST,),
        "ResNet-18 and frozen DINOv2 ViT-S/14, one head per task",
        pretrained=True,
        classes=TASKS,
    ),
    "memebg_single": ModelSpec(
        SingleTask, (BLASTOCYST,), "single-task twin", pretrained=True, classes=3
    ),
    "simple_cnn": ModelSpec(SimpleCNN, (CBAM,), "baseline from scratch", classes=4),
    "efficientnet_b0": ModelSpec(
        partial(_timm, "efficientnet_b0"),
        (CBAM, EMBRYO, MADR),
        "baseline and backbone",
        pretrained=True,
        classes=4,
    ),
    "effnet_cbam": ModelSpec(
        EffNetCBAM, (CBAM,), "EfficientNet-B0 and CBAM", pretrained=True, classes=4
    ),
    "efficientnet_lite0": ModelSpec(
        partial(_timm, "tf_efficientnet_lite0"),
        (CBAM,),
        "stand-in for EfficientNet-B0 where only its weights are at hand: no squeeze-excite, ReLU6",
        pretrained=True,
        classes=4,
    ),
    "madrnet": ModelSpec(
        MADRNet,
        (MADR,),
        "ResNet-50, reversible n = 3, bilinear pooling",
        pretrained=True,
        classes=4,
        size=512,
        reported_params=44.35,
    ),
    "madrnet_eb0": ModelSpec(
        partial(MADRNet, backbone="efficientnet_b0"),
        (MADR,),
        "MADRNet-EB0: the same on EfficientNet-B0",
        pretrained=True,
        classes=4,
        size=512,
        reported_params=12.34,
    ),
    "vgg13": ModelSpec(
        VGG13,
        (ZONA,),
        "frozen features, three-layer classifier",
        pretrained=True,
        in_channels=1,
        size=128,
    ),
    "resnet34": ModelSpec(
        partial(_timm, "resnet34"), (ZONA,), "baseline", pretrained=True, in_channels=1, size=128
    ),
    "basic_cnn": ModelSpec(
        BasicCNN, (ZONA,), "baseline: two convolutions, one max-pool", in_channels=1, size=128
    ),
    "cyclegan_generator": ModelSpec(
        _generator,
        (ZONA,),
        "laboratory look to clinical look: 6 residual blocks",
        classes=None,
        in_channels=1,
        size=128,
        output="image",
    ),
    "cyclegan_discriminator": ModelSpec(
        _discriminator,
        (ZONA,),
        "PatchGAN: a score for each 70 x 70 patch",
        classes=None,
        in_channels=1,
        size=128,
    ),
}


def build_model(
    name: str, num_classes: int, *, in_channels: int, size: int, args: Mapping[str, Any]
) -> nn.Module:
    """A network by its registered name.

    Args:
        name: a key of :data:`MODELS`.
        num_classes: number of logits; multi-task and image networks have their own.
        in_channels: channels of the input, 1 or 3.
        size: height and width of the input in pixels.
        args: the network's own arguments, such as ``pretrained``.

    Raises:
        InputError: an unknown name, or an argument that the network does not take.
    """
    spec = MODELS.get(name)
    if spec is None:
        raise InputError(f"model {name!r} is unknown; choose one of: {', '.join(MODELS)}")
    try:
        return spec.build(num_classes=num_classes, in_channels=in_channels, size=size, **args)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"model {name!r}: {error}; see model_args") from error
