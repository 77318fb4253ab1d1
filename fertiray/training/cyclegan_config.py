"""The settings of a CycleGAN training, frozen and strict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fertiray.models.preprocess import Preprocessing

SMALLEST = 24  # pixels: below, the discriminator's last map has no two values to normalise


def _grey_128() -> Preprocessing:
    return Preprocessing(size=128, colour="grey", mean=(0.5,), std=(0.5,))


@dataclass(frozen=True)
class CycleGANConfig:
    """One CycleGAN training; the defaults are those of the zona-pellucida paper.

    The paper gives Adam at 0.0002 with a first momentum of 0.5, 200 epochs of which the last 100
    decay linearly, the least-squares loss, grey crops of 128 x 128, and for the rest says "adapted
    from the original implementation by Zhu et al. (2017)". So the rest is the default of that
    implementation (junyanz/pytorch-CycleGAN-and-pix2pix): batch 1, second momentum 0.999, cycle
    weight 10, identity weight 0.5 of it, a pool of 50 fakes, 64 channels, horizontal flips. Its
    enlarging before a random crop is ``load_size``, which is off here: crops of heads are centred
    and aligned, and the paper names no jitter for this step. The paper also speaks of a decay
    "applied every 50 iterations": that is the implementation's ``lr_decay_iters``, which its linear
    policy does not read.

    Attributes:
        preprocessing: from image to generator input; mean and standard deviation 0.5 give the
            range [-1, 1] of the generator's tanh.
        epochs: passes over the larger domain; the smaller one is repeated.
        decay_epochs: of these, the last ones, over which the learning rate falls linearly towards
            zero; ``None`` for the second half.
        batch_size: images of each domain a step, over all workers.
        lr: learning rate of both optimisers.
        beta1: Adam's first momentum.
        cycle: weight of the cycle loss, both ways.
        identity: weight of the identity loss, as a share of ``cycle``; 0 for none.
        pool: past fakes kept for each discriminator; 0 for none.
        width: channels after the first convolution of every network.
        blocks: residual blocks of a generator; ``None`` for 6 up to 128 pixels and 9 above.
        hflip: mirror left and right with probability one half.
        load_size: enlarge to this size and cut a random window, 143 for Zhu's ratio at 128;
            ``None`` for neither.
        precision: ``fp32``, or ``bf16`` for automatic mixed precision.
        held_out: share of each domain that is not trained on but shown and measured.
        seed: of the initial weights, the order, the changes, the pools and the held-out images.
    """

    preprocessing: Preprocessing = field(default_factory=_grey_128)
    epochs: int = 200
    decay_epochs: int | None = None
    batch_size: int = 1
    lr: float = 2e-4
    beta1: float = 0.5
    cycle: float = 10.0
    identity: float = 0.5
    pool: int = 50
    width: int = 64
    blocks: int | None = None
    hflip: bool = True
    load_size: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        size = self.preprocessing.size
        if size % 4 or size < SMALLEST:
            raise ValueError(
                f"preprocessing.size must be a multiple of 4 from {SMALLEST} on, got {size}"
            )
        if self.preprocessing.colour == "density" or {
            *self.preprocessing.mean,
            *self.preprocessing.std,
        } != {0.5}:
            raise ValueError(
                "preprocessing must be grey or rgb with means and deviations of 0.5, so that images"
                " have the range of the generator's tanh"
            )
        if min(self.epochs, self.batch_size, self.width) < 1:
            raise ValueError("epochs, batch_size and width must be at least 1")
        if self.decay_epochs is not None and not 0 <= self.decay_epochs <= self.epochs:
            raise ValueError(f"decay_epochs must be from 0 to epochs, got {self.decay_epochs}")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"beta1 must be in [0, 1), got {self.beta1}")
        if not (0 <= self.cycle < float("inf") and 0 <= self.identity < float("inf")):
            raise ValueError("cycle and identity must be 0 or more")
        if self.pool < 0 or (self.blocks is not None and self.blocks < 1):
            raise ValueError("pool must be 0 or more and blocks at least 1")
        if self.load_size is not None and self.load_size < size:
            raise ValueError(f"load_size must be at least preprocessing.size ({size})")
        if not 0 <= self.held_out <= 0.5:
            raise ValueError(f"held_out must be in [0, 0.5], got {self.held_out}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1.

        Constant, then falling by equal steps such that the epoch after the last would have zero.
        """
        decay = self.epochs // 2 if self.decay_epochs is None else self.decay_epochs
        return self.lr * (1 - max(0, epoch - (self.epochs - decay)) / (decay + 1))
