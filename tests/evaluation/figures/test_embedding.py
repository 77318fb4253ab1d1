"""t-SNE with the paper's settings, from the tensor that the last layer takes."""

import numpy as np
import pytest
import torch
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from fertiray.errors import InputError
from fertiray.evaluation.figures.embedding import embedding_figure, embeddings, tsne
from fertiray.models.preprocess import Normalise, Preprocessing
from fertiray.models.registry import build_model
from fertiray.models.staged import intermediates


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(20, 6)), 5 + rng.normal(size=(20, 6))])


def test_tsne_is_scikit_learns_with_the_papers_settings(points):
    with threadpool_limits(1):
        expected = TSNE(perplexity=15, init="pca", random_state=42).fit_transform(
            points.astype(np.float32)
        )
    assert tsne(points).tolist() == expected.tolist()


def test_too_few_images_for_the_perplexity_are_named(points):
    with pytest.raises(InputError, match="15 images are too few for a perplexity of 15"):
        tsne(points[:15])
    assert tsne(points[:16]).shape == (16, 2)


def test_embeddings_that_are_no_numbers_are_counted(points):
    broken = points.copy()
    broken[3, 2], broken[7] = np.nan, np.inf
    with pytest.raises(InputError, match="2 of 40 images are not finite"):
        tsne(broken)


@pytest.mark.parametrize(("name", "tensor"), [("basic_cnn", "embedding"), ("msres", "pooled")])
def test_embeddings_are_what_the_last_layer_takes(name, tensor):
    torch.manual_seed(0)
    model = build_model(name, 2, in_channels=1, size=64, args={})
    preprocessing = Preprocessing(64, "grey", mean=(0.5,), std=(0.25,))
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    found = embeddings(model, preprocessing, crops, batch_size=2)
    with torch.no_grad():
        x = Normalise(preprocessing)(torch.from_numpy(crops))
        expected = intermediates(model.eval(), x)[tensor].flatten(1)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


def test_classes_have_their_own_colour_and_marker_and_ungraded_images_are_not_drawn():
    places = np.arange(12.0).reshape(6, 2)
    figure = embedding_figure(places, [0, 0, 1, -1, 1, 1], ("a", "b", "never"))
    (axes,) = figure.axes
    first, second = axes.collections
    assert first.get_offsets().tolist() == places[:2].tolist()
    assert second.get_offsets().tolist() == places[[2, 4, 5]].tolist()
    assert first.get_facecolor().tolist() != second.get_facecolor().tolist()
    assert len(first.get_paths()[0]) != len(second.get_paths()[0])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["a (n = 2)", "b (n = 3)"]
