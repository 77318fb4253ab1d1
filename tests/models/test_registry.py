"""Every registered network: its golden outputs, and its names on the way to them."""

import json
import os
from pathlib import Path

import pytest
import torch

from fertiray.errors import InputError
from fertiray.models import MODELS, build_model
from fertiray.models.staged import intermediates

GOLDEN = Path(__file__).parents[1] / "golden" / "models.json"
# Float32 sums in another order, on another processor or number of threads, move the deepest of
# these networks by about 1e-5 of its largest output; a changed layer moves it by far more.
TOLERANCE = 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_accepted_ones(name, small, seeded, picture):
    """Weights and input from seeds; FERTIRAY_ACCEPT_GOLDEN=1 writes the file anew."""
    model, channels, size = small(name)
    x = picture(2, channels, size)
    with torch.no_grad():
        output = seeded(model)(x)
        names = intermediates(model, x)
    outputs = output if isinstance(output, dict) else {"output": output}
    # What forward gives is what comes last by name.
    last = list(names.values())[-len(outputs) :]
    for value, named in zip(outputs.values(), last, strict=True):
        assert torch.allclose(value, named, rtol=1e-4, atol=1e-5)
    # An image is summed up in its first row.
    found = {key: value.flatten(1)[:, :8].tolist() for key, value in outputs.items()}
    accepted = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("FERTIRAY_ACCEPT_GOLDEN"):
        accepted[name] = {"names": list(names), "outputs": found}
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(accepted, indent=1) + "\n")
    assert list(names) == accepted[name]["names"]
    assert found.keys() == accepted[name]["outputs"].keys()
    for key, rows in accepted[name]["outputs"].items():
        ours, theirs = torch.tensor(found[key]), torch.tensor(rows)
        scale = theirs.abs().max()
        assert scale > 1e-3  # a golden zero would accept anything
        assert (theirs[0] - theirs[1]).abs().max() > 1e-3 * scale  # and so would a constant
        assert (ours - theirs).abs().max() <= TOLERANCE * scale


def test_golden_file_has_no_more_and_no_less():
    assert list(json.loads(GOLDEN.read_text())) == list(MODELS)


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "efficientnet_b0"])
def test_timm_networks_name_their_stages(name, small, seeded, picture):
    model, channels, size = small(name)
    x = picture(2, channels, size)
    found = intermediates(seeded(model), x)
    assert list(found) == [
        *("stem", "stage1", "stage2", "stage3", "stage4", "features", "embedding", "logits")
    ]
    sides = [value.shape[-1] for value in list(found.values())[:6]]
    assert sides == [size // 2, size // 4, size // 8, size // 16, size // 32, size // 32]
    (gradient,) = torch.autograd.grad(found["logits"].sum(), found["stage3"])
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("vgg14", {}, "model 'vgg14' is unknown; choose one of: msres, "),
        ("msres", {"depth": 3}, "model 'msres': .*depth.*see model_args"),
        ("resnet50", {"n": 3}, "model 'resnet50': .*'n'"),
    ],
)
def test_wrong_names_and_arguments_are_refused(name, args, message):
    with pytest.raises(InputError, match=message):
        build_model(name, 2, in_channels=3, size=32, args=args)
