"""What a training starts from beside its data: earlier weights, and a teacher."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fertiray import checkpoint
from fertiray.errors import InputError
from fertiray.training.config import TrainConfig


@dataclass(frozen=True)
class Start:
    """Loaded checkpoints.

    Attributes:
        initial: parameters and buffers by name, or None for the network's own beginning.
        teacher: a network to distil from, or None.
        name: the checkpoint that ``initial`` is from.
    """

    initial: dict[str, Tensor] | None = None
    teacher: nn.Module | None = None
    name: str = ""

    def into(self, model: nn.Module) -> None:
        """Copies what fits the network: all but layers of another shape, such as the classifier.

        Raises:
            InputError: less than half of the network's numbers come from the checkpoint.
        """
        if self.initial is None:
            return
        own = model.state_dict()
        fitting = {
            key: value
            for key, value in self.initial.items()
            if key in own and own[key].shape == value.shape
        }
        numbers = sum(value.numel() for value in own.values())
        if sum(value.numel() for value in fitting.values()) < numbers / 2:
            raise InputError(
                f"initial={self.name}: a checkpoint of another network; give one of the same model"
            )
        model.load_state_dict({**own, **fitting})


def starting_point(config: TrainConfig, classes: tuple[str, ...]) -> Start:
    """Loads the checkpoints that a recipe names.

    Args:
        config: the recipe; ``initial`` and ``teacher`` are checkpoint folders.
        classes: class names of the training data, which the teacher's must be.

    Raises:
        InputError: no such checkpoint, or one that does not fit.
    """
    initial: dict[str, Tensor] | None = None
    teacher: nn.Module | None = None
    if config.initial is not None:
        initial = checkpoint.load(config.initial)[0].state_dict()
    if config.teacher is not None:
        teacher, meta = checkpoint.load(config.teacher)
        if meta.classes != classes:
            raise InputError(
                f"teacher={config.teacher}: its classes are {', '.join(meta.classes)}, the data's"
                f" {', '.join(classes)}"
            )
        if meta.preprocessing != config.preprocessing:
            raise InputError(
                f"teacher={config.teacher}: sees crops as {meta.preprocessing}, the student as"
                f" {config.preprocessing}: set preprocessing to the teacher's"
            )
    return Start(initial, teacher, config.initial or "")
