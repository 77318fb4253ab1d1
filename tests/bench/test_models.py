"""Engines take turns; what a row says comes from the rounds."""

import json

import numpy as np
import pytest
import torch

from fertiray.bench import models
from fertiray.bench.memory import training_memory
from fertiray.bench.networks import pictures, preprocessing_of, random_network
from fertiray.bench.ways import Way, rates_by_batch, summary
from fertiray.errors import InputError
from fertiray.evaluation import results
from fertiray.evaluation.bench_tables import COLUMNS, memory_cells, model_cells, paper_cell
from fertiray.models.predict import Predictor
from fertiray.models.registry import MODELS


@pytest.mark.parametrize(
    ("rates", "seconds", "tried"),
    [
        ({1: 10, 2: 18, 4: 30, 8: 45}, 9, [1, 2, 4, 8]),
        ({1: 10, 2: 18, 4: 17, 8: 16, 16: 99}, 9, [1, 2, 4, 8]),  # two that are no faster
        ({1: 10, 2: 9, 4: 30, 8: 29}, 9, [1, 2, 4, 8]),  # one alone may be chance
        ({1: 10, 2: 18, 4: 17, 8: 16}, 0.2, [1, 2]),  # 4 images at 18/s take 0.22 s
        ({1: 0.1, 2: 9}, 1, [1]),  # the smallest is always measured
    ],
)
def test_batches_are_tried_as_long_as_they_may_help(rates, seconds, tried):
    assert list(rates_by_batch(rates.__getitem__, list(rates), seconds)) == tried


def test_a_batch_that_does_not_fit_ends_the_search():
    def rate(batch: int) -> float:
        if batch > 8:
            raise torch.OutOfMemoryError
        return 1000.0 * batch

    assert list(rates_by_batch(rate, [1, 8, 32], 9)) == [1, 8]
    with pytest.raises(torch.OutOfMemoryError):
        rates_by_batch(rate, [32], 9)


def test_ratios_are_taken_within_rounds():
    def way(rates: list[float], peaks: list[float]) -> Way:
        return Way("engine", None, "fp32", {1: 9.0, 4: 12.0}, {}, rates, peaks, [1.0, 2.0, 6.0])

    # The machine halves its speed in the second round: medians of each side would say 8/20.
    eager = way([20.0, 10.0, 20.0], [4.0, 2.0, 4.0])
    found = summary(way([60.0, 30.0, 80.0], [40.0, 20.0, 20.0]), eager, gmacs=0.5)
    assert found["ratio_to_eager"] == pytest.approx(3)  # of 3, 3, 4
    assert found["ratio_range"] == pytest.approx([3, 4])
    assert found["ratio_of_fastest"] == pytest.approx(4)  # 80 / 20
    assert (found["throughput"], found["batch"], found["peak_gmacs_per_s"]) == (60, 4, 40)
    assert found["peak_share"] == pytest.approx(0.75)  # of 30/40, 15/20, 40/20
    latency = found["latency_ms"]
    assert (latency["mean"], latency["min"], latency["max"], latency["n"]) == (3, 1, 6, 3)
    assert latency["sd"] == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2


def test_the_papers_figures():
    msres = models.printed("msres")  # Table 2
    assert (msres["latency_ms"], msres["images_per_s"]) == (10.185, 98.19)
    assert "A100" in msres["protocol"]
    assert models.printed("madrnet")["latency_ms"] == 32  # Section IV-F
    assert models.printed("vgg13") == {}
    assert set(models.MEASURED) <= set(MODELS)


def test_a_network_in_two_engines():
    steps = []
    rows = models.bench_models(
        ["basic_cnn"],
        ["bf16", "eager"],
        "cpu",
        seconds=0.2,
        threads=1,
        report=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(0, 1), (1, 1)]
    assert [row["engine"] for row in rows] == ["eager", "bf16"]
    reference, other = rows
    assert reference["ratio_to_eager"] == 1
    pairs = zip(other["rates"], reference["rates"], strict=True)
    assert other["ratio_to_eager"] == pytest.approx(np.median([a / b for a, b in pairs]))
    assert [row["arithmetic"] for row in rows] == ["fp32", "bf16"]
    for row in rows:
        assert {"command", "machine", "versions", "paper"} <= row.keys()
        assert (row["failed"], row["roofline"], row["threads"]) == (None, None, 1)
        assert row["params"] == 60_290  # as ``fertiray models``
        assert len(row["rates"]) == models.ROUNDS
        assert row["latency_ms"]["min"] <= row["latency_ms"]["mean"] <= row["latency_ms"]["max"]
        assert row["peak_share"] > 0
        assert row["parity"]["agreement"] == 1
        assert row["parity"]["largest_dp"] < 0.02
    json.dumps(rows)


def test_an_engine_that_fails_has_a_row_that_says_why(monkeypatch):
    def use(predictor: Predictor, engine: str) -> None:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(models, "use", use)
    rows = models.bench_models(
        ["basic_cnn"], ["compile"], "cpu", seconds=0.1, threads=1, report=lambda *_: None
    )
    assert [row["failed"] for row in rows] == [None, "RuntimeError: no compiler"]
    assert rows[1].keys() == rows[0].keys()
    assert (rows[1]["throughput"], rows[1]["params"]) == (None, 60_290)
    assert model_cells(rows[1])[3:5] == ["compile", "RuntimeError: no compiler"]


@pytest.mark.parametrize(
    ("model", "engine", "message"),
    [
        ("nothing", "eager", "--model nothing: no such classifier"),
        ("cyclegan_generator", "eager", "no such classifier"),
        ("basic_cnn", "fast", "--engine fast: unknown"),
    ],
)
def test_mistakes(model, engine, message):
    threads = torch.get_num_threads()
    with pytest.raises(InputError, match=message):
        models.bench_models(
            [model], [engine], "cpu", seconds=0.1, threads=2, report=lambda *_: None
        )
    assert torch.get_num_threads() == threads


def test_a_random_network_tells_pictures_apart():
    """With the initial statistics EfficientNet's probabilities are the same for every picture."""
    spec = MODELS["efficientnet_b0"]
    crops = pictures(4, 64)
    model = random_network("efficientnet_b0", crops)
    assert not model.training
    predictor = Predictor(model, preprocessing_of(spec))
    found = predictor(crops)
    assert found.std(axis=0).min() > 0.01
    again = Predictor(random_network("efficientnet_b0", crops), preprocessing_of(spec))
    np.testing.assert_array_equal(found, again(crops))


def row(**values):
    return {
        "name": "msres",
        "params": 2_244_616,
        "gmacs": 15.6312,
        "engine": "eager",
        "arithmetic": "fp32",
        "throughput": 8.912,
        "batch": 4,
        "ratio_to_eager": 1.0,
        "ratio_range": [1.0, 1.0],
        "latency_ms": {"mean": 301.5, "sd": 12.34, "min": 290.0, "max": 333.0, "n": 20},
        "peak_share": 0.456,
        "peak_gmacs_per_s": 123.4,
        "paper": models.printed("msres"),
        "failed": None,
        "device": "cpu",
        "threads": 2,
        **values,
    }


def test_the_table(tmp_path):
    other = row(
        engine="openvino-bf16", arithmetic="bf16", ratio_to_eager=2.876, ratio_range=[2.5, 3.1]
    )
    kept = {key: other[key] for key in ("name", "params", "gmacs")}
    failed = {**dict.fromkeys(other), **kept, "engine": "compile", "failed": "E: why"}
    place = tmp_path / "bench_models.json"
    place.write_text(json.dumps({"result": {"rows": [row(), other, failed]}, "origin": ORIGIN}))
    lines = results.render("bench_models", tmp_path).splitlines()
    assert lines[2] == (
        "| msres | 2.245 | 15.63 | eager | 8.91 | 4 | 1 | 302 ± 12 (290 to 333) | 46% of fp32"
        " | 2.244616 M parameters, 15.63 GMACs, 10.185 ± 0.082 (9.967 to 10.618) ms,"
        " 98.19 images/s; NVIDIA A100, one image at a time, 224 x 224 |"
    )
    assert lines[3].startswith(
        "| msres | 2.245 | 15.63 | openvino-bf16 | 8.91 | 4 | 2.88 (2.50 to 3.10) |"
    )
    assert lines[4] == "| msres | 2.245 | 15.63 | compile | E: why |" + "  |" * (len(COLUMNS) - 5)
    assert "2 threads. GEMM peak, 10^9 multiply-adds a second: fp32 123.4, bf16 123.4." in lines
    assert paper_cell({}) == ""


ORIGIN = {
    "command": "fertiray bench models",
    "date": "2026-01-01T00:00:00",
    "machine": {"processor": "P", "cores": 2},
    "commit": "c",
}


def test_what_is_kept_does_not_grow_with_passes_that_are_rebuilt():
    rows = training_memory("cpu", model="madrnet_eb0", size=64, passes=(0, 1, 2))
    kept = {(row["passes"], row["recompute"]): row["kept_mb"] for row in rows}
    assert list(kept) == [(0, None), (1, True), (1, False), (2, True), (2, False)]
    assert kept[1, True] == kept[2, True]
    assert kept[1, True] < kept[1, False] < kept[2, False]
    assert all(row["paper"]["params"] == 12_340_000 for row in rows)
    assert memory_cells(rows[1])[:2] == ["1", "rebuilds the maps"]
