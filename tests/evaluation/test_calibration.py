"""Reliability and temperature against hand computations, torch's cross-entropy and known truth."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fertiray.evaluation.calibration import (
    LEAST,
    expected_calibration_error,
    fit_temperature,
    reliability,
    temper,
)


def test_ece_by_hand() -> None:
    # Confidences .9 .9 .6 .6, right in 1 of 2 and 2 of 2: |1 - 1.8| + |2 - 1.2| over 4 images.
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]
    found = reliability(probabilities, [0, 1, 0, 1], bins=10)
    assert found["ece"] == pytest.approx((0.8 + 0.8) / 4)
    full = {bin_["low"]: bin_ for bin_ in found["bins"] if bin_["n"]}
    assert [round(low, 1) for low in full] == [0.5, 0.8]
    assert full[0.5]["accuracy"] == 1.0
    assert full[0.5]["confidence"] == pytest.approx(0.6)
    assert found["bins"][0] | {"low": 0} == {
        "low": 0, "high": 0.1, "n": 0, "confidence": None, "accuracy": None,
    }  # fmt: skip


def test_certain_and_right_has_no_error() -> None:
    assert expected_calibration_error([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == 0
    assert expected_calibration_error([[1.0, 0.0]], [1]) == 1


def test_temper_is_the_softmax_of_divided_logits() -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for temperature in (0.5, 1.0, 3.0):
        expected = (logits / temperature).softmax(1).numpy()
        assert temper(logits.softmax(1).numpy(), temperature) == pytest.approx(expected, abs=1e-12)


@given(st.floats(0.3, 7.0), st.integers(0, 1000))
def test_temper_keeps_the_order(temperature: float, seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(5), 20)
    tempered = temper(probabilities, temperature)
    assert (tempered.argmax(1) == probabilities.argmax(1)).all()
    assert tempered.sum(1) == pytest.approx(np.ones(20))


def test_temperature_is_recovered() -> None:
    # Labels drawn from softmax(logits / 2.5), so 2.5 is the truth; 20,000 draws.
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(0, 4, (20_000, 3)))
    truth = (logits / 2.5).softmax(1).numpy()
    labels = (truth.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    said = logits.softmax(1).numpy()
    temperature = fit_temperature(said, labels)
    assert temperature == pytest.approx(2.5, rel=0.03)
    before, after = (
        expected_calibration_error(p, labels) for p in (said, temper(said, temperature))
    )
    assert before > 0.1
    assert after < 0.01
    # No other temperature does better in torch's cross-entropy.
    logs = torch.from_numpy(np.log(np.maximum(said, 1e-7)))
    losses = [
        torch.nn.functional.cross_entropy(logs / t, torch.from_numpy(labels)).item()
        for t in (temperature * 0.97, temperature, temperature * 1.03)
    ]
    assert losses[1] == min(losses)


def test_a_part_without_errors_stays_within_bounds() -> None:
    found = fit_temperature([[0.9, 0.1], [0.2, 0.8]], [0, 1])
    assert found == pytest.approx(LEAST, rel=1e-3)
    assert np.isfinite(temper([[1.0, 0.0]], found)).all()
