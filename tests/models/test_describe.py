"""The list of networks: counts that are known from elsewhere, and the papers' figures beside."""

import pytest
import torch

from fertiray.models import MODELS
from fertiray.models.describe import describe_models, models_table, multiply_adds


@pytest.fixture(scope="module")
def rows():
    return {row["name"]: row for row in describe_models()}


def test_every_network_has_a_row(rows):
    assert list(rows) == list(MODELS)
    assert [name for name in rows if "cyclegan" in name]
    for row in rows.values():
        assert {"name", "paper", "params", "gmacs", "input_shape", "outputs"} <= row.keys()
        assert row["params"] > 0
        assert row["gmacs"] > 0


@pytest.mark.parametrize(
    ("name", "params", "gmacs"),
    [
        ("msres", 2_244_616, 15.63),  # the paper's Table 2
        # torchvision's documentation of the ImageNet networks, GFLOPS as multiply-adds; the last
        # layer goes to 2 or 4 classes instead of 1000, and VGG13 and ResNet-34 are grey at 128
        ("resnet50", 25_557_032 - 998 * 2049, 4.09),
        ("densenet121", 7_978_856 - 998 * 1025, 2.83),
        ("efficientnet_b0", 5_288_548 - 996 * 1281, 0.39),
        ("vgg13", 133_047_848 - 998 * 4097 - 2 * 64 * 9, None),
        ("resnet34", 21_797_672 - 998 * 513 - 2 * 64 * 49, 3.66 * (128 / 224) ** 2),
    ],
)
def test_counts_known_from_elsewhere(rows, name, params, gmacs):
    assert rows[name]["params"] == params
    if gmacs is not None:
        assert rows[name]["gmacs"] == pytest.approx(gmacs, rel=0.03)


def test_the_papers_figures_stand_beside(rows):
    assert rows["msres"]["reported"] == {"params": 2_244_616, "gmacs": 15.63}
    assert rows["madrnet"]["reported"]["params"] == 44_350_000
    assert rows["madrnet_eb0"]["reported"]["params"] == 12_340_000
    assert rows["basic_cnn"]["reported"] == {"params": None, "gmacs": None}


def test_shapes(rows):
    assert rows["madrnet"]["input_shape"] == [1, 3, 512, 512]
    assert rows["vgg13"]["input_shape"] == [1, 1, 128, 128]
    assert rows["memebg"]["outputs"] == {"EXP": [1, 3], "ICM": [1, 2], "TE": [1, 2]}
    assert rows["cyclegan_generator"]["outputs"] == {"image": [1, 1, 128, 128]}
    assert rows["vgg13"]["trainable"] < rows["vgg13"]["params"]


def test_a_multiply_add_counts_once():
    gmacs, output = multiply_adds(torch.nn.Conv2d(3, 5, 3, padding=1), torch.zeros(1, 3, 10, 10))
    assert gmacs * 1e9 == 3 * 5 * 9 * 100
    assert output.shape == (1, 5, 10, 10)


def test_table_is_markdown_with_a_line_each(rows, monkeypatch):
    monkeypatch.setattr("fertiray.models.describe.describe_models", lambda: list(rows.values()))
    lines = models_table().splitlines()
    assert len(lines) == 2 + len(MODELS)
    assert len({line.count("|") for line in lines}) == 1
    line = next(line for line in lines if line.startswith("| `msres` "))
    assert "2.245 (2.244616)" in line
    assert "15.633 (15.63)" in line
