"""The training loop: one for every recipe, device and number of workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fertiray import config as configs
from fertiray import work
from fertiray.data.labelled import LabelledCrops
from fertiray.data.splits import Parts
from fertiray.errors import InputError
from fertiray.models.predict import Predictor, autocast
from fertiray.models.registry import build_model
from fertiray.models.staged import intermediates
from fertiray.training.batches import Batch, batches, steps_per_epoch
from fertiray.training.checks import check, normal_class
from fertiray.training.config import TrainConfig
from fertiray.training.inputs import Cache, Inputs
from fertiray.training.losses import Objective, Targets
from fertiray.training.optim import backbone, classifier, make_optimizer, make_schedule
from fertiray.training.sharing import WholeBatch, looks_at_batch
from fertiray.training.start import Start
from fertiray.training.state import pack, unpack
from fertiray.training.validation import validate
from fertiray.training.worker import STATE_FILE, LocalWorker, Worker

Line = dict[str, float]

_SIGN = {"loss": -1.0, "accuracy": 1.0, "macro_f1": 1.0}


@dataclass(frozen=True)
class Fitted:
    """A trained network.

    Attributes:
        model: with the parameters of the epoch that was kept, in evaluation mode, on the CPU.
        history: one line an epoch: ``epoch`` (from 1), ``lr``, ``training_loss`` and its terms,
            and ``validation_loss``, ``validation_accuracy`` and ``validation_macro_f1`` (of the
            first task) where there is a validation part.
        best: the line of the epoch that was kept.
    """

    model: nn.Module
    history: list[Line]
    best: Line


def fit(
    config: TrainConfig,
    crops: LabelledCrops,
    parts: Parts,
    worker: Worker | None = None,
    *,
    start: Start | None = None,
    on_step: Callable[[float], None] | None = None,
) -> Fitted:
    """Trains one network and keeps the epoch that the recipe chooses.

    The same configuration, crops, device and number of threads give the same network, bit for bit
    on a CPU, interrupted and resumed or not; and the same with several workers, within rounding.
    All random draws come from ``config.seed`` and the epoch's number.

    Args:
        config: the recipe.
        crops: labelled crops at ``config.preprocessing.size``.
        parts: the training part is learned from, the validation part chooses the epoch, the test
            part is not looked at.
        worker: the process that this loop runs in; one on the CPU that keeps nothing by default.
        start: weights to start from and the teacher, where the recipe has them.
        on_step: called with the loss of each step.

    Raises:
        InputError: settings and data that do not fit, or a kept state of another training.
    """
    with _reproducible(config):
        training = _Training(config, crops, parts, worker or LocalWorker(), start or Start())
        return training.run(on_step or (lambda loss: None))


class _Step(nn.Module):
    """A forward pass with its loss, as one module, so that DDP sees all that is learned."""

    def __init__(self, network: nn.Module, objective: Objective, embedding: bool) -> None:
        super().__init__()
        self.network, self.objective, self.embedding = network, objective, embedding

    def forward(self, x: Tensor, targets: Targets) -> dict[str, Tensor]:
        if self.embedding:
            values = intermediates(self.network, x)
        else:
            output = self.network(x)
            values = {"logits": output}
            if isinstance(output, dict):
                values = {f"logits.{task}": logits for task, logits in output.items()}
        terms: dict[str, Tensor] = self.objective(values, targets)
        return terms


class _Training:
    """The state of a training, and the loop over it."""

    def __init__(
        self,
        config: TrainConfig,
        crops: LabelledCrops,
        parts: Parts,
        worker: Worker,
        start: Start,
    ) -> None:
        check(config, crops, parts, worker.size)
        self.config, self.crops, self.parts, self.worker = config, crops, parts, worker
        self.device = worker.device
        self.labels = crops.labels[parts.training]
        self.steps = steps_per_epoch(self.labels, config, worker.size)
        torch.manual_seed(config.seed)  # of the initial weights; the caller's state is restored
        self.model = build_network(config, crops)
        start.into(self.model)
        self.frozen = [_part(self.model, name) for name in config.frozen]
        for part in self.frozen:
            part.requires_grad_(False)
        self.trainable = [parameter.requires_grad for parameter in self.model.parameters()]
        self.model.to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        weights = self._class_weights()
        self.objective = Objective(config.loss, weights, normal_class(crops.classes))
        self.objective.to(self.device)
        self.ema = ModelEmaV3(self.model, decay=config.ema, use_warmup=True) if config.ema else None
        self.average: nn.Module = self.model if self.ema is None else self.ema.module
        self.predictor = Predictor(
            self.average,
            config.preprocessing,
            self.device,
            views=config.views,
            precision=config.precision,
        )
        self.inputs = Inputs(config, crops, self.predictor, start.teacher)
        half = config.precision == "fp16"
        self.scaler = torch.amp.GradScaler(torch.device(self.device).type, enabled=half)
        lists = [part.tolist() for part in (parts.training, parts.validation)]
        self.identity = configs.digest([configs.digest(config), crops.digest, *lists])
        self.epoch = self.updates = 0
        self.history: list[Line] = []
        self.best: Line | None = None
        self.kept: dict[str, Tensor] = {}

    def run(self, on_step: Callable[[float], None]) -> Fitted:
        """All epochs that are still to do."""
        saved = self.worker.resume()
        state = unpack(saved, f"the kept state, {STATE_FILE}") if saved is not None else None
        if state is not None:
            self._load(state)
        frozen_until, end = self.config.freeze_epochs, self.config.epochs
        for first, last in ((0, frozen_until), (frozen_until, end)):
            if self.epoch < last and not self._out_of_patience():
                self._phase(first, last, state if self.epoch > first else None, on_step)
        assert self.best is not None  # epochs >= 1
        self.average.load_state_dict(self.kept)
        return Fitted(self.average.cpu().eval(), self.history, self.best)

    def _phase(
        self, first: int, last: int, state: dict[str, Any] | None, on_step: Callable[[float], None]
    ) -> None:
        """The epochs from ``first`` to before ``last``, which train the same layers."""
        head_only = last <= self.config.freeze_epochs
        self._set_trained(head_only)
        self.optimizer = make_optimizer(
            self.model, self.objective, self.config, head_only=head_only
        )
        self.schedule = make_schedule(self.optimizer, self.config, (last - first) * self.steps)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        cache = Cache.make(self.config, self.crops, self.predictor)
        network = self.model if cache is None else cache.head
        step = _Step(network, self.objective, embedding="triplet" in self.objective.terms)
        learner: nn.Module = step
        if self.worker.size > 1:
            learner = DistributedDataParallel(step, broadcast_buffers=False)
        while self.epoch < last and not self._out_of_patience():
            began = time.perf_counter()
            self._set_mode(head_only)
            totals: dict[str, float] = {}
            for batch in batches(
                self.parts.training,
                self.labels,
                self.config,
                self.epoch,
                self.worker.rank,
                self.worker.size,
            ):
                stepped = time.perf_counter()
                terms = self._summed(self._update(learner, batch, cache))
                # Of all workers together: one alone would leave the others waiting for it.
                if not math.isfinite(terms["loss"]):
                    raise InputError(
                        f"epoch {self.epoch + 1}: the loss is not a finite number: lower lr"
                        f" (now {self.optimizer.param_groups[0]['lr']:g}) or set clip=1.0"
                    )
                on_step(terms["loss"])
                work.training_step(
                    terms["loss"],
                    images=batch.stop - batch.start,
                    seconds=time.perf_counter() - stepped,
                    first=self.worker.rank == 0,
                )
                for name, value in terms.items():
                    totals[name] = totals.get(name, 0.0) + value / self.steps
            self.epoch += 1
            self._close_epoch(totals, cache, began)

    def _update(self, learner: nn.Module, batch: Batch, cache: Cache | None) -> dict[str, float]:
        """One step of the optimiser; this worker's share of the loss and its terms."""
        size = self.worker.size
        shared = looks_at_batch(self.model, size)
        found: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        pieces = list(batch.pieces(self.config.accumulate))
        for start, stop in pieces:
            x, targets = self.inputs(batch, start, stop, cache)
            # The same dropout masks in every worker, every piece and every run.
            generator = torch.Generator().manual_seed(int(batch.draws.noise[0]))
            whole = WholeBatch(size, generator, start, len(batch.whole))
            last = stop == batch.stop
            ddp = isinstance(learner, DistributedDataParallel)
            with learner.no_sync() if ddp and not last else nullcontext():  # type: ignore[operator]
                with (
                    whole if shared else nullcontext(),
                    autocast(self.device, self.config.precision),
                ):
                    terms: dict[str, Tensor] = learner(x, targets)
                # DDP averages over the workers, and the terms are shares of a sum.
                self.scaler.scale(terms["loss"] * size).backward()
            for name, value in terms.items():
                found[name] = found.get(name, 0.0) + value.item()
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        self.updates += 1
        if self.ema is not None:
            self.ema.update(self.model, self.updates)
        return found

    def _summed(self, terms: dict[str, float]) -> dict[str, float]:
        """Adds the shares of all workers."""
        if self.worker.size == 1:
            return terms
        values = torch.tensor(list(terms.values()), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(values)
        return dict(zip(terms, values.tolist(), strict=True))

    def _close_epoch(self, totals: dict[str, float], cache: Cache | None, began: float) -> None:
        """Validates, chooses, reports and keeps the state."""
        line: Line = {
            "epoch": self.epoch,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            **{f"training_{name}": value for name, value in totals.items()},
            **validate(self.crops, self.parts.validation, self.predictor, cache, self.worker),
            **{
                f"weight_{name}": self.objective.weight(name).item()
                for name in self.objective.terms
            },
        }
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(line.get("validation_loss", line["training_loss"]))
        self.history.append(line)
        if self._is_better(line):
            self.best = line
            state = self.average.state_dict()
            self.kept = {key: value.detach().cpu().clone() for key, value in state.items()}
        seconds = time.perf_counter() - began
        self.worker.report({**line, "seconds": seconds}, lambda: pack(self._state()))

    def _is_better(self, line: Line) -> bool:
        keep = self.config.keep
        if keep == "last" or self.best is None:
            return True
        key = f"validation_{keep}"
        return (line[key] - self.best[key]) * _SIGN[keep] > 0

    def _out_of_patience(self) -> bool:
        patience = self.config.patience
        if patience is None or self.best is None:
            return False
        return self.history[-1]["epoch"] - self.best["epoch"] >= patience

    def _set_trained(self, head_only: bool) -> None:
        for parameter, trained in zip(self.model.parameters(), self.trainable, strict=True):
            parameter.requires_grad_(trained and not head_only)
        if head_only:
            classifier(self.model).requires_grad_(True)

    def _set_mode(self, head_only: bool) -> None:
        """Training mode; what is frozen stays in evaluation mode, BatchNorm statistics too."""
        self.model.train(not head_only)
        classifier(self.model).train()
        for part in self.frozen:
            part.eval()
        if self.config.freeze_batchnorm:
            pretrained = backbone(self.model)
            for module in (self.model if pretrained is None else pretrained).modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _class_weights(self) -> Tensor | None:
        chosen = self.config.loss.class_weights
        if chosen is False:
            return None
        if chosen is True:
            labels = torch.from_numpy(self.labels)
            counts = torch.bincount(labels, minlength=len(self.crops.classes))
            return len(labels) / (len(counts) * counts.float())
        return torch.tensor(chosen)

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "epoch": self.epoch,
            "updates": self.updates,
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "history": self.history,
            "best": self.best,
            "kept": self.kept,
        }

    def _load(self, state: dict[str, Any]) -> None:
        if state.get("identity") != self.identity:
            raise InputError(
                "the state kept here belongs to a training with other settings or data: give"
                " another --out, or delete that folder to start afresh"
            )
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.updates = int(state["epoch"]), int(state["updates"])
        self.history, self.best, self.kept = state["history"], state["best"], state["kept"]


def build_network(config: TrainConfig, crops: LabelledCrops) -> nn.Module:
    """The recipe's network for the classes, or tasks, of the data.

    Raises:
        InputError: an unknown network, an argument that it does not take, or no weights for it.
    """
    args = dict(config.model_args)
    if len(crops.tasks) > 1:
        args["tasks"] = {task: len(classes) for task, classes in crops.tasks.items()}
    return build_model(
        config.model,
        len(crops.classes),
        in_channels=config.preprocessing.channels,
        size=config.preprocessing.size,
        args=args,
    )


def _part(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(child for child, _ in model.named_children())
        raise InputError(f"frozen: the network has no part {name!r}; it has {children}") from error


@contextmanager
def _reproducible(config: TrainConfig) -> Iterator[None]:
    """Deterministic algorithms, and torch's global generator left as it was."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not config.deterministic
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
