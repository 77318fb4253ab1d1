"""CycleGAN's networks against the numbers of Zhu et al. 2017, and the pool of past fakes."""

import pytest
import torch

from fertiray.errors import InputError
from fertiray.models import build_model
from fertiray.models.cyclegan import CycleGANGenerator, ImagePool, PatchGANDiscriminator
from fertiray.models.weights import parameter_count


@pytest.mark.parametrize(
    ("size", "blocks", "count"),
    # The authors' training script prints 11.378 M for 9 blocks, RGB to RGB; three blocks of two
    # 3 x 3 convolutions with bias fewer for 6.
    [(256, 9, 11_378_179), (128, 6, 11_378_179 - 3 * 2 * (9 * 256 * 256 + 256))],
)
def test_generator_has_the_papers_blocks_and_size(size, blocks, count):
    with torch.device("meta"):
        model = CycleGANGenerator(3, size)
        assert model(torch.empty(1, 3, size, size)).shape == (1, 3, size, size)
    assert len(model.blocks) == blocks
    assert parameter_count(model) == count


def test_discriminator_has_the_papers_size():
    """2.765 M as the authors' script prints it; 30 x 30 scores of a 256-pixel image."""
    with torch.device("meta"):
        model = PatchGANDiscriminator(3)
        assert model(torch.empty(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    assert round(parameter_count(model) / 1e6, 3) == 2.765


def test_a_score_sees_70_by_70_pixels():
    torch.manual_seed(0)
    # Without instance normalisation, which looks at the whole map.
    model = PatchGANDiscriminator(1, width=8).double()
    for block in model.blocks:
        for layer in block:
            if isinstance(layer, torch.nn.InstanceNorm2d):
                layer.forward = lambda x: x
    x = torch.randn(1, 1, 128, 128, dtype=torch.float64).requires_grad_()
    score = model(x)[0, 0, 7, 7]
    (gradient,) = torch.autograd.grad(score, x)
    rows, columns = (gradient[0, 0] != 0).nonzero().T
    assert rows.max() - rows.min() + 1 == 70
    assert columns.max() - columns.min() + 1 == 70


def test_weights_are_drawn_as_in_the_paper():
    torch.manual_seed(0)
    weights = torch.cat([p.flatten() for p in CycleGANGenerator(1).parameters() if p.ndim == 4])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert weights.mean().item() == pytest.approx(0.0, abs=1e-4)


def test_image_is_in_the_range_of_tanh(picture):
    torch.manual_seed(0)
    image = CycleGANGenerator(1, 32, blocks=1, width=8)(picture(2, 1, 32) * 10)
    assert image.shape == (2, 1, 32, 32)
    assert image.abs().max() <= 1


def test_pool_hands_back_old_fakes():
    pool = ImagePool(50, seed=0)
    first = torch.arange(50.0).reshape(50, 1, 1, 1)
    assert torch.equal(pool.query(first), first)  # filling: every fake as it is
    new = torch.arange(50.0, 1050.0).reshape(1000, 1, 1, 1).requires_grad_()
    given = pool.query(new)
    assert not given.requires_grad
    older = (given != new.detach()).float().mean().item()
    assert 0.45 < older < 0.55  # one half, 1000 draws: 3 standard deviations are 0.047
    assert (given <= new.detach()).all()  # an exchanged one is older, never newer
    values = [*given.flatten().tolist(), *(float(image) for image in pool.images)]
    assert sorted(values) == [float(v) for v in range(1050)]  # nothing is lost or doubled
    assert len(pool.images) == 50


def test_pool_of_size_zero_passes_through():
    fakes = torch.randn(3, 1, 2, 2)
    assert torch.equal(ImagePool(0).query(fakes), fakes)


def test_by_name():
    for name, channels in (("cyclegan_generator", 3), ("cyclegan_discriminator", 1)):
        model = build_model(name, 2, in_channels=channels, size=128, args={"width": 4})
        assert model(torch.zeros(1, channels, 32, 32)).shape[1] == channels
    with pytest.raises(InputError, match="multiple of 4"):
        build_model("cyclegan_generator", 2, in_channels=1, size=30, args={})
