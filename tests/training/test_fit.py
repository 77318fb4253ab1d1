"""The loop learns, is deterministic, keeps its best epoch, resumes exactly and refuses nonsense."""

import dataclasses

import numpy as np
import pytest
import torch

from fertiray.data.splits import Parts
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing
from fertiray.models.staged import intermediates
from fertiray.training import fit as fit_module
from fertiray.training.config import Augmentation, Loss, TrainConfig
from fertiray.training.fit import fit
from fertiray.training.inputs import Cache
from fertiray.training.start import Start
from fertiray.training.worker import LocalWorker

HUSHEM = ("Normal", "Tapered", "Pyriform", "Amorphous")

TINY = TrainConfig(
    model="basic_cnn",
    preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.25,)),
    epochs=4,
    batch_size=8,
    optimizer="sgd",
    lr=0.02,
    augmentation=Augmentation(rotation=10, hflip=True, noise=0.05),
    seed=1,
)
PARTS = Parts(np.arange(96), np.arange(96, 120), np.arange(0))
RGB = Preprocessing(32)


class Interrupted(Exception):
    pass


class Interrupting(LocalWorker):
    """Dies after the state of an epoch was kept."""

    def __init__(self, folder, after):
        super().__init__(folder=str(folder))
        self.after = after

    def report(self, metrics, state):
        super().report(metrics, state)
        if metrics["epoch"] == self.after:
            raise Interrupted


def test_learns_and_is_deterministic(crops):
    before = torch.get_rng_state()
    first = fit(TINY, crops, PARTS)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.best["validation_accuracy"] == 1.0
    assert first.history[-1]["training_loss"] < first.history[0]["training_loss"]
    again = fit(TINY, crops, PARTS)
    assert again.history == first.history
    assert fit(dataclasses.replace(TINY, seed=2), crops, PARTS).history != first.history


def test_best_epoch_is_the_lowest_validation_loss_and_is_kept(crops):
    fitted = fit(dataclasses.replace(TINY, epochs=5, lr=0.08), crops, PARTS)
    assert fitted.best == min(fitted.history, key=lambda line: line["validation_loss"])
    validation = crops.images[PARTS.validation]
    found = fit_module.Predictor(fitted.model, TINY.preprocessing)(validation)
    own = found[np.arange(24), crops.labels[PARTS.validation]]
    assert float(-np.log(own).mean()) == pytest.approx(fitted.best["validation_loss"], rel=1e-5)


def test_the_last_epoch_needs_no_validation_part(crops):
    nothing = np.arange(0)
    config = dataclasses.replace(TINY, epochs=2, keep="last")
    fitted = fit(config, crops, Parts(np.arange(120), nothing, nothing))
    assert fitted.best["epoch"] == 2
    assert "validation_loss" not in fitted.best
    with pytest.raises(InputError, match="keep=loss needs a validation part"):
        fit(TINY, crops, Parts(np.arange(120), nothing, nothing))


def test_patience_stops_early(crops):
    config = dataclasses.replace(TINY, epochs=30, lr=1e-9, patience=2, keep="accuracy")
    assert len(fit(config, crops, PARTS).history) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "lr": 1e-3, "schedule": "onecycle", "clip": 1.0},
        {"ema": 0.9, "loss": Loss(label_smoothing=0.1, class_weights=True)},
        {"augmentation": Augmentation(mixup=0.2), "head_lr": 0.05},
        {"loss": Loss(kind="focal"), "schedule": "cosine", "lr": 0.1},
        {"accumulate": 3, "channels_last": True, "schedule": "plateau"},
        {"precision": "bf16", "views": "dihedral"},
        {"parity": True, "augmentation": Augmentation(gamma=(0.8, 1.5), blur=0.5, vflip=True)},
    ],
)
def test_every_option_still_learns(crops, changes):
    fitted = fit(dataclasses.replace(TINY, epochs=6, **changes), crops, PARTS)
    assert fitted.best["validation_accuracy"] >= 0.9


def test_pieces_of_a_batch_add_up_to_the_batch(crops):
    plain = dataclasses.replace(TINY, epochs=1, augmentation=Augmentation())
    whole = fit(plain, crops, PARTS).history[0]
    pieces = fit(dataclasses.replace(plain, accumulate=4), crops, PARTS).history[0]
    assert pieces["training_loss"] == pytest.approx(whole["training_loss"], rel=1e-4)


RESUMED = {
    "plateau, parity, focal, dropout": TrainConfig(
        model="msres", preprocessing=RGB, epochs=4, batch_size=8, optimizer="adamw", lr=1e-3,
        schedule="plateau", loss=Loss(kind="focal", class_weights=(0.8, 2.5)), parity=True,
        augmentation=Augmentation(gamma=(0.8, 1.5), blur=0.5, hflip=True),
        model_args={"width": 0.25},
    ),
    "two phases, cosine, MixUp, average": TrainConfig(
        model="efficientnet_lite0", preprocessing=RGB, epochs=4, freeze_epochs=2, batch_size=8,
        optimizer="adamw", lr=1e-3, schedule="cosine", ema=0.9, loss=Loss(label_smoothing=0.1),
        augmentation=Augmentation(rotation=10, mixup=0.2), model_args={"pretrained": False},
    ),
    "momentum, cached features": dataclasses.replace(
        TINY, freeze_epochs=4, augmentation=Augmentation(), keep="last"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, discs, name, after):
    config = RESUMED[name]
    crops, parts = discs(40), Parts(np.arange(32), np.arange(32, 40), np.arange(0))
    whole = fit(config, crops, parts)
    with pytest.raises(Interrupted):
        fit(config, crops, parts, Interrupting(tmp_path, after))
    resumed = fit(config, crops, parts, LocalWorker(folder=str(tmp_path)))
    assert resumed.history == whole.history
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    finished = fit(config, crops, parts, LocalWorker(folder=str(tmp_path)))  # nothing left to do
    assert finished.history == whole.history


def test_learned_loss_weights_resume_too(tmp_path, discs):
    config = TrainConfig(
        model="madrnet", preprocessing=Preprocessing(64), epochs=2, batch_size=8,
        optimizer="adamw", lr=1e-3, schedule="onecycle", clip=1.0,
        loss=Loss(triplet=0.4, harc="effective", weights="bounded"),
        model_args={"pretrained": False, "backbone": "resnet18"},
    )  # fmt: skip
    crops, parts = discs(24, HUSHEM, 64), Parts(np.arange(16), np.arange(16, 24), np.arange(0))
    whole = fit(config, crops, parts)
    with pytest.raises(Interrupted):
        fit(config, crops, parts, Interrupting(tmp_path, 1))
    resumed = fit(config, crops, parts, LocalWorker(folder=str(tmp_path)))
    assert resumed.history == whole.history
    weights = [line["weight_triplet"] for line in whole.history]
    assert weights[0] != weights[1]
    assert all(0.01 < weight < 1 for weight in weights)


def test_a_state_of_another_training_is_refused(tmp_path, crops):
    with pytest.raises(Interrupted):
        fit(TINY, crops, PARTS, Interrupting(tmp_path, 1))
    other = dataclasses.replace(TINY, lr=0.5)
    with pytest.raises(InputError, match="other settings or data: give another --out"):
        fit(other, crops, PARTS, LocalWorker(folder=str(tmp_path)))


def test_frozen_batchnorm_keeps_its_statistics(crops):
    config = dataclasses.replace(
        RESUMED["two phases, cosine, MixUp, average"], epochs=1, freeze_epochs=0, ema=0.0,
        freeze_batchnorm=True,
    )  # fmt: skip
    state = fit(config, crops, PARTS).model.state_dict()
    assert all((state[key] == 0).all() for key in state if key.endswith("running_mean"))
    moved = fit(dataclasses.replace(config, freeze_batchnorm=False), crops, PARTS)
    state = moved.model.state_dict()
    assert any((state[key] != 0).any() for key in state if key.endswith("running_mean"))


def test_layers_behind_a_frozen_backbone_gather_their_own_statistics(discs):
    config = TrainConfig(
        model="madrnet", preprocessing=Preprocessing(64), epochs=1, batch_size=8,
        optimizer="adamw", lr=1e-3, freeze_batchnorm=True, keep="last",
        model_args={"backbone": "resnet18", "n": 1, "pretrained": False},
    )  # fmt: skip
    parts = Parts(np.arange(16), np.arange(16, 24), np.arange(0))
    state = fit(config, discs(24, HUSHEM, 64), parts).model.state_dict()
    moved = {
        key.split(".")[0]: bool((state[key] != 0).any())
        for key in state if key.endswith("running_mean")
    }  # fmt: skip
    assert moved == {"backbone": False, "reversible": True, "pooling": True}


def test_the_first_phase_trains_the_classification_layer_alone(crops):
    config = dataclasses.replace(RESUMED["two phases, cosine, MixUp, average"], ema=0.0, lr=0.01)

    def trained(epochs, freeze):
        torch.manual_seed(0)
        settings = dataclasses.replace(config, epochs=epochs, freeze_epochs=freeze, keep="last")
        return fit(settings, crops, PARTS).model.state_dict()

    start, first, second = trained(1, 1), trained(2, 2), trained(2, 1)
    same = {key for key in start if torch.equal(start[key], first[key])}
    assert {key for key in start if key not in same} == {"classifier.weight", "classifier.bias"}
    assert not torch.equal(first["conv_stem.weight"], second["conv_stem.weight"])
    assert not torch.equal(first["bn1.running_mean"], second["bn1.running_mean"])


def test_frozen_parts_stay_as_they_are(crops):
    config = dataclasses.replace(
        RESUMED["two phases, cosine, MixUp, average"], epochs=1, freeze_epochs=0, ema=0.0,
        frozen=("conv_stem", "bn1", "blocks.0"),
    )  # fmt: skip
    state = fit(config, crops, PARTS).model.state_dict()
    assert (state["bn1.running_mean"] == 0).all()
    assert (state["blocks.0.0.bn1.running_mean"] == 0).all()
    assert (state["blocks.1.0.bn1.running_mean"] != 0).any()
    with pytest.raises(InputError, match="the network has no part 'layer9'; it has conv_stem"):
        fit(dataclasses.replace(config, frozen=("layer9",)), crops, PARTS)


@pytest.mark.parametrize("model", ["basic_cnn", "msres", "vgg13"])
def test_cached_features_train_as_the_whole_network_does(crops, model, monkeypatch):
    """Every network's head takes the tensor that the cache holds."""
    config = dataclasses.replace(
        TINY, model=model, epochs=1, freeze_epochs=1, augmentation=Augmentation(), keep="last",
        model_args={"pretrained": False} if model == "vgg13" else {}, batch_size=32, lr=0.001,
    )  # fmt: skip
    crops, parts = crops.take(np.arange(20)), Parts(np.arange(16), np.arange(16, 20), np.arange(0))
    if model == "vgg13":
        config = dataclasses.replace(config, freeze_epochs=0)
    calls = []
    plain = Cache.make

    def watched(*args):
        calls.append(plain(*args))
        return calls[-1]

    monkeypatch.setattr(Cache, "make", watched)
    cached = fit(config, crops, parts)
    assert calls[0] is not None
    monkeypatch.setattr(Cache, "make", lambda *args: None)
    uncached = fit(config, crops, parts)
    assert cached.history[0]["training_loss"] == pytest.approx(
        uncached.history[0]["training_loss"], rel=1e-4
    )
    for key, value in uncached.model.state_dict().items():
        assert torch.allclose(value, cached.model.state_dict()[key], atol=1e-5), key


def test_features_are_not_cached_where_something_before_them_changes(crops):
    predictor = fit_module.Predictor(
        fit_module.build_model("basic_cnn", 2, in_channels=1, size=32, args={}), TINY.preprocessing
    )
    constant = dataclasses.replace(TINY, augmentation=Augmentation())
    assert Cache.make(constant, crops, predictor) is None  # the convolutions learn
    for part in (predictor.model.conv1, predictor.model.conv2):
        part.requires_grad_(False)
    cache = Cache.make(constant, crops, predictor)
    assert cache is not None
    batch = predictor.program.normalise(torch.from_numpy(crops.images[:4]))
    expected = intermediates(predictor.model, batch)["embedding"]
    assert torch.allclose(cache.features[:4], expected, atol=1e-6)
    assert Cache.make(TINY, crops, predictor) is None  # crops are augmented


def test_several_grades_are_learned_together(graded):
    crops = graded()
    config = TrainConfig(
        model="memebg", preprocessing=Preprocessing(28), epochs=6, batch_size=16,
        optimizer="adamw", lr=1e-3, model_args={"pretrained": False},
    )  # fmt: skip
    parts = Parts(np.arange(36), np.arange(36, 48), np.arange(0))
    fitted = fit(config, crops, parts)
    assert fitted.history[-1]["training_loss"] < fitted.history[0]["training_loss"]
    assert {"training_EXP", "training_ICM", "training_TE"} <= fitted.best.keys()


def test_a_student_follows_its_teacher(crops):
    teacher = fit(TINY, crops, PARTS).model
    # The student sees wrong labels and the teacher's opinion; it goes with the teacher.
    wrong = dataclasses.replace(crops, targets=1 - crops.targets)
    student = dataclasses.replace(
        TINY, loss=Loss(distil=0.95, temperature=2.0), teacher="given", keep="last", epochs=6
    )
    fitted = fit(student, wrong, PARTS, start=Start(teacher=teacher))
    found = fit_module.Predictor(fitted.model, TINY.preprocessing)(crops.images[96:])
    assert (found.argmax(1) == crops.labels[96:]).mean() > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"validation": 0.9},
        {"ema": 1.0},
        {"freeze_epochs": 99},
        {"head_lr": -1.0},
        {"accumulate": 99},
    ],
)
def test_nonsense_is_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": Loss(class_weights=(1.0, 2.0, 3.0))}, "3 numbers for 2 classes"),
        ({"loss": Loss(harc="effective")}, "none of the classes unbound, bound is a normal head"),
        ({"loss": Loss(distil=0.5)}, "needs a trained network: --set teacher"),
        ({"model": "memebg"}, "takes grades for several tasks"),
        ({"model": "banana"}, "'banana' is unknown; choose one of"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(crops, changes, message):
    with pytest.raises(InputError, match=message):
        fit(dataclasses.replace(TINY, **changes), crops, PARTS)


def test_an_empty_class_is_refused(crops):
    only = np.flatnonzero(crops.labels == 0)
    with pytest.raises(InputError, match="class 'bound' has no crop in the training part"):
        fit(TINY, crops, Parts(only, PARTS.validation, np.arange(0)))


def test_a_diverging_training_says_so(crops):
    with pytest.raises(InputError, match="not a finite number: lower lr"):
        fit(dataclasses.replace(TINY, lr=1e30), crops, PARTS)
