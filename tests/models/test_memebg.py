"""One embedding, any set of grades, partly labelled batches, and a grade added later."""

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from fertiray.errors import InputError
from fertiray.models import build_model
from fertiray.models.memebg import UNLABELLED, MEmEBG, SingleTask, joint_loss
from fertiray.models.predict import Predictor
from fertiray.models.preprocess import Normalise, Preprocessing
from fertiray.models.staged import intermediates


def tiny(tasks=None, **args):
    return MEmEBG(tasks or {"EXP": 3, "ICM": 2, "TE": 2}, size=28, pretrained=False, **args)


@pytest.fixture(scope="module")
def model(seeded):
    return seeded(tiny())


def test_equals_its_two_encoders_by_hand(model, picture):
    resnet = timm.create_model("resnet18", num_classes=0).eval()
    resnet.load_state_dict(model.resnet.state_dict())
    dino = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=28).eval()
    dino.load_state_dict(model.dino.state_dict())
    x, w = picture(2, 3, 28), model.state_dict()
    with torch.no_grad():
        both = torch.cat([resnet(x), dino(x)], 1)
        assert both.shape == (2, 512 + 384)
        h = F.linear(both, w["project.0.weight"], w["project.0.bias"])
        h = F.gelu(F.layer_norm(h, (256,), w["project.1.weight"], w["project.1.bias"]))
        found = model(x)
        for task, classes in {"EXP": 3, "ICM": 2, "TE": 2}.items():
            expected = F.linear(h, w[f"heads.{task}.weight"], w[f"heads.{task}.bias"])
            assert found[task].shape == (2, classes)
            assert torch.allclose(found[task], expected, rtol=1e-4, atol=1e-5)


def test_predictor_gives_probabilities_by_task(model):
    crops = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8)
    preprocessing = Preprocessing(28)
    found = Predictor(model, preprocessing, batch_size=2).by_task(crops)
    with torch.no_grad():
        logits = model(Normalise(preprocessing)(torch.from_numpy(crops)))
    assert list(found) == ["EXP", "ICM", "TE"]
    for task, values in found.items():
        assert values.dtype == np.float32
        assert np.allclose(values, logits[task].softmax(1).numpy(), atol=1e-5)


def test_names(model, picture):
    with torch.no_grad():
        found = intermediates(model, picture(1, 3, 28))
    assert list(found) == ["resnet", "dino", "embedding", "logits.EXP", "logits.ICM", "logits.TE"]
    assert found["embedding"].shape == (1, 256)


def test_the_single_task_twin_is_the_same_network(model, picture):
    twin = SingleTask(3, size=28, pretrained=False)
    state = {
        key.replace("heads.EXP", "heads.grade"): value
        for key, value in model.state_dict().items()
        if not key.startswith(("heads.ICM", "heads.TE"))
    }
    twin.load_state_dict(state)
    x = picture(2, 3, 28)
    with torch.no_grad():
        found = intermediates(twin.eval(), x)
        assert torch.equal(twin(x), model(x)["EXP"])
    assert list(found) == ["resnet", "dino", "embedding", "logits"]


def test_dinov2_is_frozen_and_the_rest_is_not():
    model = tiny().train()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"resnet", "project", "heads"}
    assert not model.dino.training
    assert model.resnet.training


def test_partly_labelled_batches(model, picture):
    """The loss by hand, and no gradient to a head from images without its label."""
    logits = model(picture(4, 3, 28))
    gone = UNLABELLED
    labels = {
        "EXP": torch.tensor([0, gone, 2, gone]),
        "ICM": torch.tensor([gone, gone, gone, gone]),
        "TE": torch.tensor([1, 0, gone, gone]),
    }
    loss = joint_loss(logits, labels)
    by_hand = F.cross_entropy(logits["EXP"][[0, 2]], torch.tensor([0, 2])) + F.cross_entropy(
        logits["TE"][:2], torch.tensor([1, 0])
    )
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
    gradients = torch.autograd.grad(loss, list(logits.values()))
    assert (gradients[1] == 0).all()
    assert (gradients[0][[1, 3]] == 0).all()
    assert (gradients[0][[0, 2]] != 0).all()


def test_a_batch_without_any_label_has_loss_zero(model, picture):
    logits = model(picture(2, 3, 28))
    labels = {task: torch.full((2,), UNLABELLED) for task in logits}
    assert joint_loss(logits, labels).item() == 0.0


def test_adding_a_task_leaves_the_others_as_they_are(seeded, picture):
    model, x = seeded(tiny({"EXP": 3, "TE": 2})), picture(4, 3, 28)
    with torch.no_grad():
        before = model(x)
    model.add_task("ICM", 2)
    model.train_only("ICM")
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "heads.ICM.weight",
        "heads.ICM.bias",
    ]
    labels = {
        "EXP": torch.full((4,), UNLABELLED),
        "TE": torch.full((4,), UNLABELLED),
        "ICM": torch.tensor([0, 1, 0, 1]),
    }
    optimizer = torch.optim.SGD(model.heads["ICM"].parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        model.train()
        loss = joint_loss(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        after = model.eval()(x)
    assert torch.equal(after["EXP"], before["EXP"])  # BatchNorm statistics did not move either
    assert torch.equal(after["TE"], before["TE"])
    with pytest.raises(ValueError, match="'ICM' is there already"):
        model.add_task("ICM", 2)


def test_any_set_of_tasks_by_name():
    args = {"tasks": {"viable": 2}, "pretrained": False}
    model = build_model("memebg", 2, in_channels=1, size=28, args=args)
    found = model.eval()(torch.zeros(1, 1, 28, 28))
    assert {task: tuple(values.shape) for task, values in found.items()} == {"viable": (1, 2)}


@pytest.mark.parametrize(
    ("size", "args", "message"), [(30, {}, "multiple of DINOv2's"), (28, {"tasks": {}}, "at least")]
)
def test_wrong_arguments_are_refused(size, args, message):
    with pytest.raises(InputError, match=message):
        build_model("memebg", 2, in_channels=3, size=size, args={**args, "pretrained": False})
