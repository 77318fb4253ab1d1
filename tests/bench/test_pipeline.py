"""``bench pipeline`` and ``bench scale``: the arithmetic by hand, and both end to end, small."""

import json
import sys
from contextlib import nullcontext

import pytest

from fertiray.bench import material
from fertiray.bench.pipeline import bench_pipeline, interpreters
from fertiray.bench.scale import bench_scale, growth, scale_figure
from fertiray.cli import main
from fertiray.errors import InputError
from fertiray.scoring.shards import score_locally


@pytest.fixture(autouse=True, scope="module")
def few_crops():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "DRAWN", 64)
        yield


@pytest.fixture(scope="module")
def measured(zona_checkpoint):
    said = []
    values = bench_pipeline(
        given=zona_checkpoint,
        crops=1100,
        peer_crops=64,
        rounds=1,
        workers=2,
        engine="eager",
        device="cpu",
        peers={"plain": sys.executable, "daft": "/nowhere/python"},
        say=said.append,
    )
    return values, said


def test_the_ceiling_is_said_first_and_follows_from_the_stages(measured):
    values, said = measured
    assert [line.split()[0] for line in said] == ["engine", "round", "local:", "plain:", "daft:"]
    stages = ("decode_per_core", "preprocess_per_core", "model_rate")
    decode, preprocess, model = (values[name] for name in stages)
    # Two cores: each does all three, the network's rate is that of both together.
    assert values["ceiling"] == pytest.approx(2 / (1 / decode + 1 / preprocess + 2 / model), 1e-3)
    assert values["ratio"] == pytest.approx(values["local_rate"] / values["ceiling"], abs=2e-3)
    assert json.loads(json.dumps(values))["engine"] == "eager"
    assert values["model"] == "zona"  # a name, never a path of this machine


def test_a_peer_gives_the_same_labels_or_says_why_not(measured):
    values, _ = measured
    plain = values["peers"]["plain"]
    assert plain["agreement"] == 1.0
    assert plain["speedup"] == pytest.approx(values["local_rate"] / plain["rate"], abs=0.01)
    assert values["speedup_vs_plain"] == plain["speedup"]
    daft = values["peers"]["daft"]
    assert (daft["rate"], daft["speedup"]) == (None, None)
    assert "/nowhere/python" in daft["why"]


def test_a_peers_interpreter_must_exist():
    assert interpreters([])["plain"] == sys.executable
    for text in ("daft=/nowhere", "nobody=/bin/sh", "daft"):
        with pytest.raises(InputError, match="--peer-python"):
            interpreters([text])


def test_scale(zona_checkpoint):
    values = bench_scale(
        given=zona_checkpoint,
        crops=(100, 1100, 2100),
        workers=(1, 2),
        engine="eager",
        device="cpu",
        runner=score_locally,
        session=nullcontext,
        say=lambda _: None,
    )
    found = [(point["crops"], point["workers"]) for point in values["points"]]
    assert found == [(100, 2), (1100, 1), (1100, 2), (2100, 2)]
    assert all(point["peak_rss_mb"] > 100 for point in values["points"])
    assert values["memory_growth"] is None  # no two stores of ten thousand
    assert values["simulation"]["cluster"]["model_on_cores"]
    assert len(scale_figure(values["points"]).axes) == 3


def test_growth_is_counted_from_ten_thousand_crops_on():
    points = [
        {"crops": 1000, "peak_rss_mb": 100, "ms_per_crop": 9.0},
        {"crops": 10_000, "peak_rss_mb": 400, "ms_per_crop": 2.0},
        {"crops": 30_000, "peak_rss_mb": 500, "ms_per_crop": 7.0},
        {"crops": 100_000, "peak_rss_mb": 410, "ms_per_crop": 1.9},
    ]
    assert growth(points) == {"memory_growth": 0.025, "cost_growth": -0.05}


def test_the_command_refuses_an_unknown_engine(capsys, zona_checkpoint):
    call = ["bench", "pipeline", "--local", "--engine", "warp", "--checkpoint", zona_checkpoint]
    with pytest.raises(SystemExit) as ended:
        main(call)
    assert ended.value.code == 2
    assert "--engine warp" in capsys.readouterr().err
