"""Faster ways of execution say the same as the reference, or are not used."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fertiray import checkpoint
from fertiray.errors import InputError
from fertiray.models.ood import fit_detector, summarise
from fertiray.models.predict import Predictor
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import build_model
from fertiray.scoring import engine
from fertiray.scoring.engine import EAGER, choose, compare, use

GREY = Preprocessing(32, "grey", mean=(0.5,), std=(0.5,))
WAYS = ["bf16", "openvino-fp32", "openvino-mixed", "openvino-bf16"]


def needs(way):
    if way.startswith("openvino"):
        pytest.importorskip("openvino")


def network(seed=0):
    torch.manual_seed(seed)
    return build_model("basic_cnn", 2, in_channels=1, size=32, args={}).eval()


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def predictor(**options):
    return Predictor(network(), GREY, **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("views", ["one", "swing", "dihedral"])
def test_every_way_says_what_eager_says(way, views):
    needs(way)
    crops = pictures(41)
    plain, model = predictor(views=views), network()
    detector = fit_detector(summarise(model, GREY, pictures(60, 1)), np.arange(60))
    other = Predictor(model, GREY, views=views, detector=detector)
    reference = Predictor(network(), GREY, views=views, detector=detector).predict(crops)
    use(other, way)
    found = other.predict(crops)
    near = 1e-4 if way == "openvino-fp32" else 0.02
    assert np.allclose(found.probabilities["class"], plain(crops), atol=near)
    assert np.allclose(found.ood, reference.ood, rtol=0.05 if near > 0.01 else 1e-3)
    if views != "one":
        assert np.allclose(found.spread["class"], reference.spread["class"], atol=near)


def test_what_is_not_sure_is_done_again_exactly():
    sure, calls = torch.tensor([0.99, 0.5, 0.9499, 0.95]), []

    def quick(crops):
        p = sure[: len(crops)]
        return {"views/class": torch.stack([p, 1 - p], 1)[None], "seen/x": torch.zeros(4, 1)}

    def exact(crops):
        calls.append(crops.flatten().tolist())
        n = len(crops)
        return {"views/class": torch.full((1, n, 2), 0.25), "seen/x": torch.ones(n, 1)}

    found = engine._mixed(quick, exact)(torch.arange(4)[:, None])
    assert calls == [[1, 2]]
    assert found["views/class"][0, :, 0].tolist() == pytest.approx([0.99, 0.25, 0.25, 0.95])
    assert found["seen/x"][:, 0].tolist() == [0, 1, 1, 0]


def test_openvino_tells_nobody(tmp_path):
    """Its package for telemetry would keep a number for this machine in the home folder."""
    pytest.importorskip("openvino")
    code = """
import sys, numpy as np, torch
from fertiray.models.predict import Predictor
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import build_model
from fertiray.scoring.engine import use
network = build_model("basic_cnn", 2, in_channels=1, size=32, args={}).eval()
predictor = Predictor(network, Preprocessing(32, "grey", mean=(0.5,), std=(0.5,)))
use(predictor, "openvino-fp32")
predictor.predict(np.zeros((2, 32, 32, 3), np.uint8))
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""
    # CI would be a reason of its own for it to be silent.
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.rglob("openvino*"))


@pytest.mark.parametrize("way", ["eager", *WAYS])
def test_neighbours_and_batch_size_do_not_matter(way):
    needs(way)
    crops, one = pictures(37), predictor()
    use(one, way)
    together = one(crops)
    alone = np.concatenate([one(crops[i : i + 1]) for i in range(5)])
    turned = one(crops[::-1].copy())[::-1]
    near = {"eager": 1e-6, "openvino-fp32": 1e-5}.get(way, 0.01)
    assert np.allclose(alone, together[:5], atol=near)
    assert np.allclose(turned, together, atol=near)


def test_openvino_serves_several_threads():
    needs("openvino")
    shared = predictor()
    use(shared, "openvino-fp32", streams=2)
    parts = [pictures(9, seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(shared, parts))
    for part, values in zip(parts, found, strict=True):
        assert np.allclose(values, predictor()(part), atol=1e-4)


def test_programs_are_freed_while_their_requests_end():
    """With callbacks in Python the streams' threads could wait for its lock for ever, while a
    program was freed by the thread that held it: within 9 to 28 of these rounds."""
    needs("openvino")
    code = """
import numpy as np, torch
from fertiray.models.predict import Predictor
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import build_model
from fertiray.scoring.engine import use
network = build_model("basic_cnn", 2, in_channels=1, size=32, args={}).eval()
crops = np.zeros((37, 32, 32, 3), np.uint8)
for _ in range(50):
    predictor = Predictor(network, Preprocessing(32, "grey", mean=(0.5,), std=(0.5,)))
    use(predictor, "openvino-fp32")
    predictor(crops)
    predictor(crops[:3])
    del predictor
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


def test_the_gate_by_hand():
    """10 crops: one label of ten changes, two probabilities move by more than 0.02."""
    expected = torch.tensor([[0.9, 0.1]] * 9 + [[0.51, 0.49]])
    found = expected.clone()
    found[0] = torch.tensor([0.87, 0.13])
    found[9] = torch.tensor([0.47, 0.53])
    differences = compare({"class": expected}, {"class": found})
    assert differences["agreement"] == pytest.approx(0.9)
    assert differences["beyond"] == pytest.approx(0.2)
    assert differences["largest_dp"] == pytest.approx(0.04)
    assert differences["fraction_difference"] == pytest.approx(0.1)
    assert not engine._verdict(differences)["passed"]
    assert engine._verdict(compare({"class": expected}, {"class": expected}))["passed"]


def test_the_gate_asks_what_scoring_calls(tmp_path, monkeypatch):
    """A crop on the other side of the operating threshold counts, whichever class is likelier."""
    expected = torch.tensor([[0.9, 0.1]] * 99 + [[0.701, 0.299]])
    found = expected.clone()
    found[99] = torch.tensor([0.699, 0.301])
    assert engine._verdict(compare({"class": expected}, {"class": found}))["passed"]
    seen = []
    monkeypatch.setattr(engine, "choose", lambda make, crops, calls: seen.append(calls))
    meta = checkpoint.Meta(
        name="zona",
        paper="zona_vgg13",
        model="basic_cnn",
        task="zona",
        classes=("unbound", "bound"),
        positive="bound",
        preprocessing=GREY,
        operating=checkpoint.Operating(0.3, 0.9, 0.95, 500, 500),
        data_digest="drawn",
    )
    checkpoint.save(str(tmp_path / "zona"), network(), meta)
    engine._chosen(str(tmp_path / "zona"), "cpu", pictures(2))
    (calls,) = seen
    differences = compare({"class": expected}, {"class": found}, calls)
    assert differences["agreement"] == pytest.approx(0.99)
    assert not engine._verdict(differences)["passed"]


def test_a_value_that_is_no_number_never_passes():
    expected = torch.full((400, 2), 0.5)
    found = expected.clone()
    found[3, 0] = torch.nan
    assert not engine._verdict(compare({"class": expected}, {"class": found}))["passed"]


def test_a_way_that_says_something_else_is_not_taken(monkeypatch):
    monkeypatch.setattr(engine, "candidates", lambda device: ["bf16", "openvino-none"])
    made = iter([Predictor(network(seed), GREY) for seed in (0, 7, 0)])
    choice = choose(lambda: next(made), pictures(64))
    assert choice.engine == EAGER
    _, other, unknown = choice.tried
    assert not other["passed"]
    assert "differ by more than" in other["why"]
    assert "unknown" in unknown["why"]


def test_the_fastest_that_passes_is_taken(monkeypatch):
    monkeypatch.setattr(engine, "candidates", lambda device: ["bf16"])
    choice = choose(predictor, pictures(64))
    rates = {row["engine"]: row["crops_per_s"] for row in choice.tried if row["passed"]}
    assert choice.engine == max(rates, key=rates.__getitem__)
    json.dumps(choice.tried)


def test_an_unknown_way_is_refused():
    with pytest.raises(InputError, match="--engine warp: unknown; choose one of: auto, eager"):
        engine.choose_engines(["nowhere"], "warp", "cpu", [])
