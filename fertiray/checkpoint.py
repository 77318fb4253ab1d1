"""The checkpoint folder: ``weights.safetensors``, ``meta.json`` and a model card; nothing pickled.

The folder holds all that scoring needs: the architecture and its arguments, the classes in the
order of the logits, the preprocessing, the temperature of the probabilities, the operating
threshold, the sensitivity and specificity measured on the validation set, and in
``ood.safetensors`` what tells unlike crops. It may lie on local disk or on S3. See
:mod:`fertiray.sealed` for how a changed file is noticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from fertiray import config, sealed, storage
from fertiray.errors import InputError
from fertiray.evaluation.calibration import LEAST, MOST
from fertiray.model_card import model_card
from fertiray.models.device import usable
from fertiray.models.ood import Detector
from fertiray.models.predict import Predictor, Views
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import MODELS, build_model
from fertiray.models.weights import settled_args
from fertiray.sealed import META

WEIGHTS, OOD, CARD = "weights.safetensors", "ood.safetensors", "README.md"
FORMAT = 1
GENERATOR = "cyclegan_generator"  # a folder of :mod:`fertiray.generator_checkpoint`

Task = Literal["zona", "morphology", "viability", "grading"]


@dataclass(frozen=True)
class Operating:
    """The operating point of the positive class against all others, on the validation set.

    Attributes:
        threshold: a crop is positive when its probability is at least this.
        sensitivity: share of positive crops called positive, in [0, 1].
        specificity: share of other crops not called positive, in [0, 1].
        n_positive: positive crops behind the sensitivity.
        n_negative: other crops behind the specificity.
        sensitivity_sd: standard deviation of the sensitivity between validation patients.
        specificity_sd: the same for the specificity.
        n_patients: validation patients; 0 where they are not known.
    """

    threshold: float
    sensitivity: float
    specificity: float
    n_positive: int
    n_negative: int
    sensitivity_sd: float = 0.0
    specificity_sd: float = 0.0
    n_patients: int = 0

    def __post_init__(self) -> None:
        for name in (
            *("threshold", "sensitivity", "specificity"),
            *("sensitivity_sd", "specificity_sd"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if min(self.n_positive, self.n_negative) < 1:
            raise ValueError("n_positive and n_negative must be at least 1")


@dataclass(frozen=True)
class Meta:
    """What ``meta.json`` holds.

    Attributes:
        name: the name under which scores of this checkpoint are reported.
        paper: key of the paper whose protocol trained it.
        model: registered name of the network.
        model_args: the network's own arguments.
        task: ``zona`` (binding), ``morphology``, ``viability`` or ``grading``.
        classes: class names in the order of the logits.
        tasks: of a multi-task network, the class names of every task in the order of its heads;
            ``classes``, ``positive`` and ``operating`` are then those of the first one.
        positive: the class that a patient's fraction counts.
        preprocessing: from crop to network input.
        operating: the operating point on the validation set.
        temperatures: of the probabilities by task (``class`` where there is one), fitted on the
            validation set; see :func:`fertiray.evaluation.calibration.temper`.
        metrics: validation metrics by name.
        validation_scores: crops of the validation set, ``positive`` and ``other``, by tenths of
            the positive class's probability; see :mod:`fertiray.evaluation.drift`.
        config: the training configuration.
        data_digest: identifies the training images and labels.
        weights_sha256: of ``weights.safetensors``.
        ood_sha256: of ``ood.safetensors``; empty where there is none.
        provenance: versions, commit, command and date.
        format: version of this layout.
    """

    name: str
    paper: str
    model: str
    task: Task
    classes: tuple[str, ...]
    positive: str
    preprocessing: Preprocessing
    operating: Operating
    data_digest: str
    model_args: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    temperatures: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    validation_scores: dict[str, tuple[int, ...]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    ood_sha256: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format} is not {FORMAT}: written by another version")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be two or more different names, got {self.classes}")
        if self.positive not in self.classes:
            raise ValueError(f"positive class {self.positive!r} is not one of {self.classes}")
        if self.tasks and next(iter(self.tasks.values())) != self.classes:
            raise ValueError(f"classes {self.classes} are not those of the first of {self.tasks}")
        if not all(LEAST <= value <= MOST for value in self.temperatures.values()):
            raise ValueError(f"temperatures {self.temperatures} are not within {LEAST}, {MOST}")


def save(folder: str, model: nn.Module, meta: Meta, detector: Detector | None = None) -> Meta:
    """Writes the checkpoint folder; ``meta.json`` comes last, so a folder with it is whole.

    Args:
        folder: local path or ``s3://`` URI.
        model: the trained network; its state is stored as it is, on the CPU.
        meta: everything else; the digests are filled in, and ``model_args`` gains what the
            pretrained weights settled about the architecture.
        detector: of unlike crops, if there is one.

    Returns:
        The description as written.

    Raises:
        InputError: a weight is not a finite number.
    """
    meta = dataclasses.replace(meta, model_args={**meta.model_args, **settled_args(model)})
    digest = _save_detector(folder, detector)
    meta = dataclasses.replace(meta, ood_sha256=digest)
    meta = sealed.seal(storage.join(folder, WEIGHTS), model.state_dict(), meta)
    description = dataclasses.asdict(meta)
    storage.write_bytes(storage.join(folder, CARD), model_card(description, model).encode())
    sealed.write_description(storage.join(folder, META), description)
    return meta


def read_meta(folder: str) -> Meta:
    """The description of a checkpoint, without its weights.

    Raises:
        InputError: no checkpoint there, or its description is not usable; the message says why.
    """
    return config.load(Meta, _read_description(folder), storage.join(folder, META))


def _read_description(folder: str) -> dict[str, Any]:
    where = storage.join(folder, META)
    if not storage.exists(where):
        raise InputError(f"{folder}: no checkpoint here ({META} is missing); train one first")
    description = sealed.read_description(where)
    if description.get("model") == GENERATOR:
        raise InputError(
            f"{folder}: a generator of images, which says nothing of classes; give a classifier's"
            " checkpoint, or use this one with `fertiray data translate`"
        )
    return description


def load(folder: str) -> tuple[nn.Module, Meta]:
    """The network in evaluation mode on the CPU, and its description.

    Raises:
        InputError: a missing, truncated, tampered or mismatched file; the message says what
            differs.
    """
    description = _read_description(folder)
    meta = config.load(Meta, description, storage.join(folder, META))
    where = storage.join(folder, WEIGHTS)
    state, weights = sealed.read_weights(where, description)
    spec = MODELS.get(meta.model)
    args = dict(meta.model_args)
    if spec is not None and spec.pretrained:
        args["pretrained"] = False
    if meta.tasks:
        args["tasks"] = {task: len(classes) for task, classes in meta.tasks.items()}
    try:
        model = build_model(
            meta.model,
            len(meta.classes),
            in_channels=meta.preprocessing.channels,
            size=meta.preprocessing.size,
            args=args,
        )
    except InputError as error:
        raise InputError(f"{storage.join(folder, META)}: {error}") from error
    _load_state(model, state, where)
    sealed.require_finite(state, where)
    sealed.require_unaltered(description, weights, folder)
    return model.eval(), meta


def load_predictor(
    folder: str, *, device: str = "cpu", batch_size: int = 64, views: Views | None = None
) -> tuple[Predictor, Meta]:
    """The network as its checkpoint says that it is to be used, and its description.

    Args:
        folder: local path or ``s3://`` URI.
        device: a torch device, or ``auto``.
        batch_size: crops that go through the network at a time.
        views: test-time views; the training's own by default.

    Raises:
        InputError: as :func:`load`, or an ``ood.safetensors`` that is missing or altered.
    """
    device = usable(device)
    model, meta = load(folder)
    predictor = Predictor(
        model,
        meta.preprocessing,
        device,
        batch_size,
        views or meta.config.get("views", "one"),
        temperatures=meta.temperatures,
        detector=_load_detector(folder, meta),
    )
    return predictor, meta


def _save_detector(folder: str, detector: Detector | None) -> str:
    if detector is None:
        return ""
    content = save_tensors(detector.state())
    storage.write_bytes(storage.join(folder, OOD), content)
    return hashlib.sha256(content).hexdigest()


def _load_detector(folder: str, meta: Meta) -> Detector | None:
    if not meta.ood_sha256:
        return None
    where = storage.join(folder, OOD)
    if not storage.exists(where):
        raise InputError(f"{where}: missing; copy the whole checkpoint folder again")
    content = storage.read_bytes(where)
    if hashlib.sha256(content).hexdigest() != meta.ood_sha256:
        raise InputError(f"{where}: not the file that {META} names; copy the checkpoint again")
    try:
        return Detector.from_state(load_tensors(content))
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{where}: not a detector ({error}); copy the checkpoint again") from error


def _load_state(model: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    expected = model.state_dict()
    differences = [f"{key} is missing" for key in expected if key not in state]
    differences += [f"{key} is not expected" for key in state if key not in expected]
    differences += [
        f"{key} is {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if differences:
        shown = "; ".join(differences[:3])
        raise InputError(f"{where}: does not fit the architecture in {META}: {shown}")
    model.load_state_dict(state)
