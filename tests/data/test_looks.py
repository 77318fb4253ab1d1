"""Tests of the latent looks of synthetic sperm."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fertiray.data.looks import (
    BOUND,
    FEATURES,
    UNBOUND,
    bayes_error,
    sample_features,
    sample_sperm,
)
from fertiray.errors import InputError


def test_features_follow_the_stated_distributions() -> None:
    """Mean within 5 standard errors of the stated one, where clipping does not reach."""
    rng = np.random.default_rng(0)
    for label, look in (("bound", BOUND), ("unbound", UNBOUND)):
        drawn = np.array([sample_features(label, rng) for _ in range(2000)])
        for column, name in enumerate(FEATURES):
            mean, deviation = getattr(look, name)
            if name in ("vacuoles", "irregularity"):  # clipped at 0: the mean rises
                assert drawn[:, column].min() >= 0
                assert mean <= drawn[:, column].mean() + 5 * deviation / np.sqrt(2000)
            else:
                assert drawn[:, column].mean() == pytest.approx(mean, abs=5 * deviation / 44.7)
                assert drawn[:, column].std() == pytest.approx(deviation, rel=0.12)


def test_classes_overlap_but_can_be_told_apart() -> None:
    """The design: a Bayes error near 1%; a linear rule fitted to a sample comes close to it."""
    assert 0.007 < bayes_error(60_000) < 0.013
    rng = np.random.default_rng(1)
    labels = np.arange(4000) % 2
    drawn = np.array([sample_features(("unbound", "bound")[i], rng) for i in labels])
    rule = LinearDiscriminantAnalysis().fit(drawn[:2000], labels[:2000])
    assert 0.96 < rule.score(drawn[2000:], labels[2000:]) < 0.995


def test_outline_has_the_stated_length_and_width() -> None:
    rng = np.random.default_rng(2)
    for label in ("bound", "unbound") * 20:
        sperm = sample_sperm(label, rng)
        low, high = sperm.outline.min(axis=0), sperm.outline.max(axis=0)
        across, along = high - low
        assert along == pytest.approx(sperm.length, rel=1e-5)
        assert across == pytest.approx(sperm.width, rel=1e-5)
        np.testing.assert_allclose(
            sperm.outline.max(axis=0) + sperm.outline.min(axis=0), 0, atol=1e-5
        )


def test_unknown_label_is_the_users_mistake() -> None:
    with pytest.raises(InputError, match="'alive'"):
        sample_sperm("alive", np.random.default_rng(0))
