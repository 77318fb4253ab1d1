"""What a network costs: parameters by hand, memory as the reversible sequence promises."""

import dataclasses

import numpy as np
import pytest

from fertiray import config
from fertiray.data.labelled import LabelledCrops
from fertiray.papers import PAPERS
from fertiray.tuning.efficiency import efficiency

SMALL = ["preprocessing.size=32", 'model_args={"pretrained":false,"backbone":"resnet18"}']


@pytest.fixture(scope="module")
def heads() -> LabelledCrops:
    return LabelledCrops(
        images=np.zeros((4, 1, 1, 3), np.uint8),
        targets=np.arange(4)[:, None],
        tasks={"class": ("Normal", "Tapered", "Pyriform", "Amorphous")},
        names=("a", "b", "c", "d"),
        patients=(None,) * 4,
        digests=("a", "b", "c", "d"),
        groups=np.arange(4),
        facets={},
        aspects=np.full(4, np.nan, np.float32),
    )


def cost(heads, *settings):
    recipe = config.override(PAPERS["sperm_madrnet"].config(), [*SMALL, *settings])
    return efficiency(recipe, heads, "cpu")


def test_passes_cost_time_but_neither_parameters_nor_kept_memory(heads):
    """MADRNet's promise; BatchNorm's statistics, which grow with n, are buffers."""
    one, six = (cost(heads, f"model_args.n={n}") for n in (1, 6))
    assert one["params"] == six["params"]
    assert one["kept_mb"] == pytest.approx(six["kept_mb"], rel=1e-6)
    plain = cost(heads, "model_args.n=6", "model_args.recompute=false")
    assert plain["kept_mb"] > six["kept_mb"]
    assert cost(heads, "model_args.n=0")["params"] < one["params"]


def test_what_is_reported(heads):
    found = cost(heads, "model_args.n=1")
    assert found["peak_mb"] is None  # not measured on a CPU, which is not 0
    times = found["latency_ms"]
    assert 0 < times["q1"] <= times["median"] <= times["q3"]
    assert (found["size"], found["precision"]) == (32, "fp32")


def test_networks_of_several_tasks(heads):
    grades = {"EXP": ("0", "1", "2"), "ICM": ("A", "B"), "TE": ("A", "B")}
    graded = dataclasses.replace(heads, tasks=grades, targets=np.zeros((4, 3), np.int64))
    recipe = config.override(PAPERS["blastocyst_memebg"].config(), ["preprocessing.size=28"])
    assert efficiency(recipe, graded, "cpu")["params"] > 1e7


def test_the_callers_random_numbers_stay(heads):
    import torch

    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    cost(heads, "model_args.n=0")
    assert torch.equal(torch.rand(1), before)
