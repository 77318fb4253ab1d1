"""MEmEBG: one embedding for several grades of a blastocyst (blastocyst_memebg).

"Multitasking embedding for embryo blastocyst grading prediction": a ResNet-18 (ImageNet) and a
DINOv2 image embedding feed one shared embedding, and each grade (expansion, inner cell mass,
trophectoderm) has a fully connected head. Left open by the paper and settled here: DINOv2 ViT-S/14,
frozen, its class token (384); concatenated with ResNet-18's pooled features (512) and projected to
256 with LayerNorm and GELU.

Shapes: N images, K_t classes of task t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fertiray.models.staged import Staged
from fertiray.models.weights import backbone

TASKS = {"EXP": 3, "ICM": 2, "TE": 2}
EMBEDDING = 256
UNLABELLED = -100  # the label of an image whose grade is not known


class MEmEBG(Staged):
    """Blastocyst images to one logits tensor per task.

    Named tensors: ``resnet`` (the ResNet-18 map, N x 512 x H/32 x W/32), ``dino`` (N x 384),
    ``embedding`` (N x 256), and ``logits.<task>`` for each task.

    Args:
        tasks: number of classes by task, in order.
        in_channels: 3 for RGB.
        size: height and width of the input in pixels, a multiple of 14.
        pretrained: start ResNet-18 from ImageNet and DINOv2 from its own training.
    """

    def __init__(
        self,
        tasks: Mapping[str, int] = TASKS,
        in_channels: int = 3,
        size: int = 224,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if size % 14:
            raise ValueError(f"size must be a multiple of DINOv2's 14-pixel patch, got {size}")
        if not tasks:
            raise ValueError("tasks must name at least one task")
        self.resnet = backbone("resnet18", 0, in_channels=in_channels, pretrained=pretrained)
        self.dino = backbone(
            "vit_small_patch14_dinov2",
            0,
            in_channels=in_channels,
            pretrained=pretrained,
            img_size=size,
        )
        width = int(self.resnet.num_features) + int(self.dino.num_features)  # type: ignore[arg-type]
        self.project = nn.Sequential(
            nn.Linear(width, EMBEDDING), nn.LayerNorm(EMBEDDING), nn.GELU()
        )
        self.heads = nn.ModuleDict({task: nn.Linear(EMBEDDING, k) for task, k in tasks.items()})
        self.frozen: list[nn.Module] = [self.dino.requires_grad_(False)]

    @property
    def classifier(self) -> nn.Module:
        """The heads: what a classification layer is to the other networks."""
        return self.heads

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x size x size float."""
        features = self.resnet.forward_features(x)  # type: ignore[operator]
        yield "resnet", features
        token = self.dino(x)
        yield "dino", token
        x = self.project(torch.cat([features.mean((2, 3)), token], dim=1))
        yield "embedding", x
        for task, head in self.heads.items():
            yield f"logits.{task}", head(x)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """N x C x size x size float to N x K_t logits by task."""
        found = dict(self.stages(x))
        return {task: found[f"logits.{task}"] for task in self.heads}

    def add_task(self, task: str, num_classes: int) -> None:
        """Adds a head to a trained network; what it predicts for the other tasks stays the same."""
        if task in self.heads:
            raise ValueError(f"task {task!r} is there already: {', '.join(self.heads)}")
        like = next(self.project.parameters())
        self.heads[task] = nn.Linear(EMBEDDING, num_classes, device=like.device, dtype=like.dtype)

    def train_only(self, task: str) -> None:
        """Leaves one head to be trained; everything else is frozen, BatchNorm statistics too."""
        self.requires_grad_(False)
        self.heads[task].requires_grad_(True)
        self.frozen = [self.resnet, self.dino, self.project]
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self


class SingleTask(MEmEBG):
    """The single-task twin (STL): the same network with one head, which gives plain logits.

    Args:
        num_classes: K of its only task.
        in_channels: as in :class:`MEmEBG`.
        size: as in :class:`MEmEBG`.
        pretrained: as in :class:`MEmEBG`.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, size: int = 224, pretrained: bool = True
    ) -> None:
        super().__init__({"grade": num_classes}, in_channels, size, pretrained)

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """As in :class:`MEmEBG`; the last name is ``logits``."""
        for name, value in super().stages(x):
            yield name.removesuffix(".grade"), value

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """N x C x size x size float to N x K logits."""
        return Staged.forward(self, x)


def joint_loss(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """The sum of the tasks' cross-entropies, each over the images that carry its label.

    A task without any label in the batch adds nothing and moves nothing.

    Args:
        logits: N x K_t float by task.
        labels: N int64 by task; :data:`UNLABELLED` where an image was not graded.

    Returns:
        A scalar.
    """
    total = torch.stack([values.sum() * 0 for values in logits.values()]).sum()
    for task, values in logits.items():
        target = labels[task]
        summed = F.cross_entropy(values, target, ignore_index=UNLABELLED, reduction="sum")
        total = total + summed / (target != UNLABELLED).sum().clamp(min=1)
    return total
