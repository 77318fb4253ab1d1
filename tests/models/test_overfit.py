"""Every classifier can learn eight images by heart: its gradients reach what they should."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fertiray.models import MODELS, build_model
from fertiray.models.memebg import joint_loss
from fertiray.models.staged import intermediates

# Covered by another row, or (vgg13) by the shorter test below; run with -m slow.
SLOW = {"msres_a1", "msres_a2", "msres_a3", "msres_a4", "memebg_single", "efficientnet_b0"}
SLOW |= {"madrnet", "vgg13"}
CLASSIFIERS = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name, spec in MODELS.items()
    if spec.classes is not None
]
LOSS = 0.1


def learn(model, x, labels, optimizer, steps):
    """Trains on one batch until the loss is small; the last loss and its logits."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.train()
    for _ in range(steps):
        output = model(x)
        if isinstance(output, dict):
            loss = joint_loss(output, dict.fromkeys(output, labels)) / len(output)
        else:
            loss = F.cross_entropy(output, labels)
        if loss < LOSS:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss, output if isinstance(output, dict) else {"logits": output}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_overfits_eight_images(name, small, picture):
    torch.manual_seed(0)
    model, channels, size = small(name)
    x, labels = picture(8, channels, size), torch.arange(8) % 2
    trained = [p for p in model.parameters() if p.requires_grad]
    lr = 1e-4 if name == "vgg13" else 1e-3
    loss, logits = learn(model, x, labels, torch.optim.AdamW(trained, lr=lr), steps=40)
    assert loss < LOSS
    assert all((values.argmax(1) == labels).all() for values in logits.values())


def test_vgg13_overfits_with_its_last_layer_alone(picture):
    """What feeds it is frozen and computed once; the untrained features of images are much alike,
    so a second-order optimiser it is. The whole classifier learns in the slow test."""
    torch.manual_seed(0)
    args = {"pretrained": False, "frozen": "all_but_last"}
    model = build_model("vgg13", 2, in_channels=1, size=64, args=args).eval()
    x, labels = picture(8, 1, 64), torch.arange(8) % 2
    with torch.no_grad():
        embedding = intermediates(model, x)["embedding"]
    last = model.classifier[-1]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert [id(p) for p in trained] == [id(p) for p in last.parameters()]
    optimizer = torch.optim.LBFGS(trained, max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(last(embedding), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        assert F.cross_entropy(model(x), labels) < LOSS


def test_cyclegan_overfits_eight_pairs(small, picture):
    """Generator and discriminator play least squares; the cycle's L1 falls as well."""
    torch.manual_seed(0)
    generator, channels, size = small("cyclegan_generator")
    discriminator, _, _ = small("cyclegan_discriminator")
    fake, real = picture(8, channels, 64).tanh(), picture(8, channels, 64, seed=1).tanh()
    optimizer = torch.optim.Adam(discriminator.parameters(), 2e-3, (0.5, 0.999))
    for _ in range(30):
        scores = discriminator(real), discriminator(fake)
        loss = (scores[0] - 1).square().mean() + scores[1].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1  # 0.5 when it cannot tell them apart
    x = picture(8, channels, size).tanh()
    optimizer = torch.optim.Adam(generator.parameters(), 2e-3, (0.5, 0.999))
    first = last = 0.0
    for _ in range(30):
        loss = (generator(x) - x).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = first or loss.item(), loss.item()
    assert last < 0.35 * first
