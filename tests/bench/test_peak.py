"""Ceilings: products and copies are measured, traffic is counted."""

import time

import pytest
import torch
from torch import nn

from fertiray.bench.peak import (
    SIZES,
    copy_rate,
    gemm_rate,
    per_second,
    roofline,
    saturating_size,
    traffic,
)


def test_calls_are_counted_to_their_end():
    # A call of 20 ms: at most 50 a second, and one call at least.
    assert 10 < per_second(lambda: time.sleep(0.02), "cpu", 0.1) <= 50
    assert 10 < per_second(lambda: time.sleep(0.02), "cpu", 0) <= 50


def test_a_product_has_side_cubed_multiply_adds():
    side, a = 256, torch.randn(256, 256)
    torch.mm(a, a)
    own = per_second(lambda: torch.mm(a, a), "cpu", 0.1) * side**3 / 1e9
    found = gemm_rate("cpu", "fp32", side, 0.1)
    assert own / 20 < found < own * 20  # the machine may be busy; units would be off by 1000
    assert gemm_rate("cpu", "bf16", side, 0.05) > 0
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_fastest_side_is_taken(monkeypatch):
    monkeypatch.setitem(SIZES, "cpu", (2, 128))
    # A product of 2 x 2 is all overhead.
    assert saturating_size("cpu", "fp32", 0.02) == 128


def test_traffic_is_what_products_read_and_write():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5, bias=False)
    )
    # By hand: 3 x 16 in, 8 x 16 out, 128 in, 5 out; 3 x 8 x 9 + 8 and 128 x 5 weights.
    assert traffic(model, torch.zeros(1, 3, 4, 4)) == (48 + 128 + 128 + 5, 224 + 640)
    assert not any(layer._forward_hooks for layer in model.modules())


def test_the_roof_is_the_lower_ceiling():
    # 2 GMACs at 1000 GMACs/s: 500 images/s. 10 M numbers an image and 40 M weights over 4 images,
    # 2 bytes each: 40 MB an image, at 10 GB/s 250 images/s.
    found = roofline(2.0, 1000.0, (10_000_000, 40_000_000), 4, "bf16", 10.0)
    assert found["arithmetic_bound"] == pytest.approx(500)
    assert found["traffic_mb"] == pytest.approx(40)
    assert found["bound"] == found["memory_bound"] == pytest.approx(250)


@pytest.mark.gpu
def test_on_a_gpu():
    side = saturating_size("cuda", "tf32")
    assert gemm_rate("cuda", "tf32", side, 0.2) > gemm_rate("cuda", "fp32", side, 0.2)
    assert copy_rate("cuda", 0.2) > 100
