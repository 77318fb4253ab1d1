"""The Scorer gives one row per crop, always, and the same row whatever stands beside it."""

import numpy as np
import pytest

from fertiray import checkpoint
from fertiray.data.images import encode_png
from fertiray.errors import InputError
from fertiray.models import build_model
from fertiray.models.preprocess import Preprocessing
from fertiray.scoring.scorer import Scorer, class_columns


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    """A binding and a morphology checkpoint with seeded weights."""
    import torch

    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("checkpoints")
    made = []
    for name, task, classes, positive, colour in (
        ("zona", "zona", ("unbound", "bound"), "bound", "grey"),
        ("shape", "morphology", ("Normal", "Tapered", "Amorphous"), "Normal", "density"),
    ):
        meta = checkpoint.Meta(
            name=name,
            paper="zona_vgg13",
            model="basic_cnn",
            task=task,
            classes=classes,
            positive=positive,
            preprocessing=Preprocessing(32, colour, mean=(0.5,), std=(0.5,)),
            operating=checkpoint.Operating(0.5, 0.9, 0.9, 10, 10),
            data_digest="0",
        )
        model = build_model("basic_cnn", len(classes), in_channels=1, size=32, args={})
        made.append(str(base / name))
        checkpoint.save(made[-1], model, meta)
    return made


def crops(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (40 + i, 44, 3), dtype=np.uint8) for i in range(count)]


def test_bytes_and_arrays_score_alike(folders):
    scorer = Scorer.from_checkpoint(folders[0])
    images = crops(5)
    from_arrays = scorer(images).models[0].probabilities
    from_bytes = scorer([encode_png(image) for image in images]).models[0].probabilities
    assert np.array_equal(from_arrays, from_bytes)
    assert np.allclose(from_arrays.sum(1), 1, atol=1e-6)


def test_one_row_per_crop_good_or_bad(folders):
    good = [encode_png(image) for image in crops(3)]
    batch = Scorer(folders)([good[0], b"", good[1], b"not an image", good[2][:-30], good[2]])
    assert batch.stages == (None, "decode", None, "decode", "decode", None)
    assert [error.split(":")[0] if error else None for error in batch.errors] == [
        None,
        "empty",
        None,
        "not-an-image",
        "truncated",
        None,
    ]
    for model in batch.models:
        assert model.labels.tolist().count(-1) == 3
        assert np.isnan(model.probabilities[[1, 3, 4]]).all()
        assert np.isfinite(model.probabilities[[0, 2, 5]]).all()


def test_neighbours_do_not_matter(folders):
    scorer = Scorer(folders, threads=1)
    images = crops(70)
    together = scorer(images)
    for place in (0, 33, 69):
        alone = scorer([images[place]])
        for one, many in zip(alone.models, together.models, strict=True):
            assert np.allclose(one.probabilities[0], many.probabilities[place], atol=1e-6)


def test_a_batch_without_any_good_crop_and_an_empty_one(folders):
    scorer = Scorer(folders)
    assert scorer([b"", b"x"]).stages == ("decode", "decode")
    assert scorer([]).stages == ()


def test_numbers_that_are_not_finite_are_rejected_not_averaged(folders, monkeypatch):
    scorer = Scorer(folders)
    real = scorer._predictors[1].predict

    def broken(images):
        out = real(images)
        out.probabilities["class"][1] = np.nan
        return out

    monkeypatch.setattr(scorer._predictors[1], "predict", broken)
    scorer._predictors = scorer._predictors[1:]
    scorer.metas = scorer.metas[1:]
    batch = scorer(crops(3))
    assert batch.stages == (None, "score", None)
    assert "not_finite" in batch.errors[1]


def test_columns_of_all_classes_without_repetition(folders):
    names = class_columns(Scorer(folders).metas)
    assert names == ["p_unbound", "p_bound", "p_Normal", "p_Tapered", "p_Amorphous"]


def test_same_name_twice_and_unknown_engine_are_refused(folders):
    with pytest.raises(InputError, match="two checkpoints are named 'zona'"):
        Scorer([folders[0], folders[0]])
    with pytest.raises(InputError, match="--engine warp: unknown"):
        Scorer(folders, engines=["warp", "eager"])
