"""One step of CycleGAN: the losses of Zhu et al. 2017, on one device or on several.

With ``G`` from the laboratory to the clinical look, ``F`` back, ``D_C`` and ``D_L`` the judges of
clinical and laboratory images, ``l`` and ``c`` an image of each:

    generators      (D_C(G(l)) - 1)^2 + (D_L(F(c)) - 1)^2
                    + cycle * (|F(G(l)) - l| + |G(F(c)) - c|)
                    + cycle * identity * (|G(c) - c| + |F(l) - l|)
    discriminators  ((D_C(c) - 1)^2 + D_C(G(l)')^2) / 2 + ((D_L(l) - 1)^2 + D_L(F(c)')^2) / 2

each term a mean over images and pixels (or patches); the primed fakes come from the pools. The
halves slow the discriminators down, as in section 4 of the paper.

No network mixes images (instance normalisation), so images that go through the same network are
put through together. Several workers share one batch: the pools hold the fakes of all of them and
are the same everywhere, which makes N workers the same training as one, up to the order of sums.

Shapes: n images of this worker, N of the batch, C x H x W each, float in [-1, 1].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from fertiray.models.cyclegan import CycleGANGenerator, ImagePool, PatchGANDiscriminator
from fertiray.training.cyclegan_config import CycleGANConfig

GENERATOR_LOSSES = (
    "adversarial_clinical",
    "adversarial_lab",
    "cycle_lab",
    "cycle_clinical",
    "identity_clinical",
    "identity_lab",
)
LOSSES = (*GENERATOR_LOSSES, "discriminator_clinical", "discriminator_lab")


class CycleGANStep:
    """The four networks with their optimisers and pools, and how they are updated.

    Args:
        config: the recipe.
        device: a torch device.
        rank: of this worker.
        size: number of workers.
    """

    def __init__(self, config: CycleGANConfig, device: str, rank: int = 0, size: int = 1) -> None:
        channels, pixels = config.preprocessing.channels, config.preprocessing.size
        # Initial weights come from torch's global generator, which is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.to_clinical, self.to_lab = (
                CycleGANGenerator(channels, pixels, config.blocks, config.width).to(device)
                for _ in range(2)
            )
            self.judge_clinical, self.judge_lab = (
                PatchGANDiscriminator(channels, config.width).to(device) for _ in range(2)
            )
        self.networks: tuple[nn.Module, ...] = (
            *(self.to_clinical, self.to_lab),
            *(self.judge_clinical, self.judge_lab),
        )
        judges = (self.judge_clinical, self.judge_lab)
        generator = _GeneratorLosses(self.to_clinical, self.to_lab, judges, config)
        discriminator = _DiscriminatorLosses(*judges, config)
        self.optimizers = tuple(
            torch.optim.Adam(part.parameters(), config.lr, (config.beta1, 0.999))
            for part in (generator, discriminator)
        )
        self.pools = tuple(ImagePool(config.pool, config.seed + 1 + i) for i in range(2))
        weights = [1.0, 1.0, *[config.cycle] * 2, *[config.cycle * config.identity] * 2]
        self.weights = torch.tensor(weights, device=device)
        self.size = size
        self.batch = config.batch_size
        self.part = slice(self.batch * rank // size, self.batch * (rank + 1) // size)
        self._generator_losses = _shared(generator, size)
        self._discriminator_losses = _shared(discriminator, size)

    def __call__(self, lab: Tensor, clinical: Tensor) -> Tensor:
        """Updates the generators, then the discriminators.

        Args:
            lab: n x C x H x W laboratory images, this worker's ``part`` of the batch.
            clinical: n x C x H x W clinical images.

        Returns:
            This worker's mean of each of :data:`LOSSES`, before their weights, float32.
        """
        # DistributedDataParallel averages the workers' gradients as if their parts were equal.
        share = len(lab) * self.size / self.batch
        generators, discriminators = self.optimizers
        for judge in (self.judge_clinical, self.judge_lab):
            judge.requires_grad_(False)
        losses, fake_clinical, fake_lab = self._generator_losses(lab, clinical)
        generators.zero_grad(set_to_none=True)
        (share * (losses @ self.weights)).backward()
        generators.step()
        for judge in (self.judge_clinical, self.judge_lab):
            judge.requires_grad_(True)
        pooled = (
            pool.query(self._all(fakes))[self.part]
            for pool, fakes in zip(self.pools, (fake_clinical, fake_lab), strict=True)
        )
        judged = self._discriminator_losses(clinical, lab, *pooled)
        discriminators.zero_grad(set_to_none=True)
        (share * judged.sum()).backward()
        discriminators.step()
        return torch.cat([losses, judged]).detach()

    def set_rate(self, lr: float) -> None:
        """The learning rate of the next steps."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "networks": [network.state_dict() for network in self.networks],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "pools": [
                {"images": pool.images, "generator": pool.generator.get_state()}
                for pool in self.pools
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what :meth:`state` gave."""
        for network, kept in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(kept)
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        for pool, kept in zip(self.pools, state["pools"], strict=True):
            pool.images = [image.to(self.weights.device) for image in kept["images"]]
            pool.generator.set_state(kept["generator"])

    def _all(self, fakes: Tensor) -> Tensor:
        """N x C x H x W: the fakes of every worker, in the order of the batch."""
        if self.size == 1:
            return fakes
        gathered = fakes.new_zeros(self.batch, *fakes.shape[1:])
        gathered[self.part] = fakes.detach()
        dist.all_reduce(gathered)  # the others' places are zero
        return gathered


class _GeneratorLosses(nn.Module):
    """Its parameters are the generators'; the judges are held without being part of it."""

    def __init__(
        self,
        to_clinical: CycleGANGenerator,
        to_lab: CycleGANGenerator,
        judges: tuple[PatchGANDiscriminator, PatchGANDiscriminator],
        config: CycleGANConfig,
    ) -> None:
        super().__init__()
        self.to_clinical, self.to_lab = to_clinical, to_lab
        self.judges = judges
        self.identity = config.identity > 0
        self.mixed = config.precision == "bf16"

    def forward(self, lab: Tensor, clinical: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean of each of :data:`GENERATOR_LOSSES`, and both fakes."""
        with torch.autocast(lab.device.type, torch.bfloat16, enabled=self.mixed):
            if self.identity:
                fake_clinical, same_clinical = _both(self.to_clinical, lab, clinical)
                fake_lab, same_lab = _both(self.to_lab, clinical, lab)
                identity = [F.l1_loss(same_clinical, clinical), F.l1_loss(same_lab, lab)]
            else:
                fake_clinical, fake_lab = self.to_clinical(lab), self.to_lab(clinical)
                fake_clinical, fake_lab = fake_clinical.float(), fake_lab.float()
                identity = [lab.new_zeros(())] * 2
            judge_clinical, judge_lab = self.judges
            adversarial = [
                _least_squares(judge_clinical(fake_clinical), 1.0),
                _least_squares(judge_lab(fake_lab), 1.0),
            ]
            cycle = [
                F.l1_loss(self.to_lab(fake_clinical).float(), lab),
                F.l1_loss(self.to_clinical(fake_lab).float(), clinical),
            ]
        return torch.stack([*adversarial, *cycle, *identity]), fake_clinical, fake_lab


class _DiscriminatorLosses(nn.Module):
    """Its parameters are the discriminators'."""

    def __init__(
        self,
        judge_clinical: PatchGANDiscriminator,
        judge_lab: PatchGANDiscriminator,
        config: CycleGANConfig,
    ) -> None:
        super().__init__()
        self.judge_clinical, self.judge_lab = judge_clinical, judge_lab
        self.mixed = config.precision == "bf16"

    def forward(
        self, clinical: Tensor, lab: Tensor, fake_clinical: Tensor, fake_lab: Tensor
    ) -> Tensor:
        """The loss of the judge of clinical and of that of laboratory images."""
        losses = []
        with torch.autocast(lab.device.type, torch.bfloat16, enabled=self.mixed):
            for judge, real, fake in (
                (self.judge_clinical, clinical, fake_clinical),
                (self.judge_lab, lab, fake_lab),
            ):
                on_real, on_fake = _both(judge, real, fake)
                losses.append((_least_squares(on_real, 1.0) + _least_squares(on_fake, 0.0)) / 2)
        return torch.stack(losses)


def _both(network: nn.Module, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of images through a network at once, in float32."""
    result: Tensor = network(torch.cat([one, other])).float()
    return result[: len(one)], result[len(one) :]


def _least_squares(scores: Tensor, wanted: float) -> Tensor:
    return (scores.float() - wanted).square().mean()


def _shared(losses: nn.Module, size: int) -> nn.Module:
    """The losses, their gradients averaged over the workers; one forward pass, one backward."""
    return DistributedDataParallel(losses) if size > 1 else losses
