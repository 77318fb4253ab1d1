"""The simulated day: exact results of queueing theory, hand computations, and shared bandwidth."""

import dataclasses
import json

import numpy as np
import pytest

from fertiray.bench.simulation import DECODE, MODEL, S3, Cluster, serve, simulate, simulation_figure
from fertiray.errors import InputError
from fertiray.evaluation.figures.look import save

# One crop a second, and nothing but the network takes time.
ONE = Cluster(1e9, 1e9, 1.0, 1.0, 1e9)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waiting_for_one_gpu_is_pollaczek_and_khinchine(load):
    # M/D/1: mean wait = load x service time / (2 (1 - load)).
    random = np.random.default_rng(0)
    arrivals = np.cumsum(random.exponential(1 / load, 200_000))
    begun, ended, busy, _ = serve(ONE, 1, arrivals, [1])
    assert (begun - arrivals).mean() == pytest.approx(load / (2 * (1 - load)), rel=0.06)
    assert busy / (ended[-1] - arrivals[0]) == pytest.approx(load, rel=0.01)


def test_waiting_for_two_gpus_in_discrete_time_is_lindleys():
    # M/D/c: patient n waits for the GPU of patient n - c, because equal times end in order:
    # W(n) = max(0, W(n - c) + D - (T(n) - T(n - c))), each c-th patient a Lindley recursion.
    random = np.random.default_rng(1)
    arrivals = np.cumsum(random.exponential(1 / 1.8, 2_000))
    begun, _, _, _ = serve(ONE, 2, arrivals, [1])
    waits = np.zeros(2_000)
    for n in range(2, 2_000):
        waits[n] = max(0.0, waits[n - 2] + 1 - (arrivals[n] - arrivals[n - 2]))
    np.testing.assert_allclose(begun - arrivals, waits, atol=1e-9)


def test_two_patients_by_hand():
    # Two GPUs; patients at 0 s and 1 s, three shards of 2, 2 and 1 crops each, one crop a second.
    # GPU a: A1 0-2, A3 2-3, B2 3-5; GPU b: A2 0-2, B1 2-4, B3 4-5.
    begun, ended, busy, limits = serve(ONE, 2, np.array([0.0, 1.0]), [2, 2, 1])
    assert begun.tolist() == [0, 2]
    assert ended.tolist() == [3, 5]
    assert busy == 10
    assert limits == {MODEL: 6}


def test_the_slowest_stage_sets_the_rate():
    cluster = Cluster(2000, 6000, 5000, 10_000, 1e9, cores_per_gpu=4, gpus_per_node=4)
    # Decode 4 / (1/2000 + 1/6000) = 6000; S3 1e9 / 10,000 = 100,000, a quarter each at most.
    assert cluster.rates(4) == pytest.approx({S3: 25_000, DECODE: 6000, MODEL: 5000})
    on_cores = dataclasses.replace(cluster, model_rate=500, model_on_cores=True)
    # 4 / (1/2000 + 1/6000 + 1/500) = 1500.
    assert on_cores.rates(1) == pytest.approx({S3: 100_000, MODEL: 1500})


def test_a_nodes_bandwidth_is_shared_by_those_at_work():
    # 3 crops a second from S3; alone the network's 2 a second limit, two at work get 1.5 each.
    cluster = Cluster(1e9, 1e9, 2.0, 1.0, 3.0, gpus_per_node=2)
    _, ended, _, limits = serve(cluster, 2, np.array([0.0, 0.0, 100.0]), [6])
    assert ended.tolist() == [3, 4, 103]
    assert limits == {MODEL: 2, S3: 1}
    # A third GPU is on the next node, with a bandwidth of its own.
    _, ended, _, _ = serve(cluster, 3, np.zeros(3), [6])
    assert ended.tolist() == [3, 4, 3]


@pytest.mark.parametrize("pattern", ["spread", "batches", "at once"])
def test_a_day_of_clinics(pattern, tmp_path):
    cluster = Cluster(2000, 6000, 4000, 10_000, 1e9)
    values = simulate(
        cluster, gpus=(1, 4, 64), clinics=10, patients=20, working_hours=0.5, pattern=pattern
    )
    json.dumps(values)
    points = values["points"]
    # 10 x 20 x 30,000 crops at 4000 a second are 1500 s of one GPU.
    assert [point["busy_gpu_hours"] for point in points] == pytest.approx([1500 / 3600] * 3)
    for point in points:
        assert point["busy_gpu_hours"] == pytest.approx(point["utilisation"] * point["gpu_hours"])
        assert point["wait_s"]["p50"] <= point["wait_s"]["p95"] <= point["wait_s"]["p99"]
        assert point["done_s"]["mean"] > point["wait_s"]["mean"] >= 0
    done = [point["done_s"]["p95"] for point in points]
    assert done == sorted(done, reverse=True)
    # One GPU needs at least its 1500 s; on 64 the 30 shards of a patient run side by side.
    assert points[0]["finish_h"] >= 1500 / 3600
    assert points[0]["bottleneck"] == MODEL
    if pattern == "at once":  # all are at work to the end, but for what a last shard leaves over
        assert [point["utilisation"] for point in points] == pytest.approx([1] * 3, abs=0.01)
        assert points[2]["finish_h"] == pytest.approx(1500 / 3600 / 64, rel=0.01)
    if pattern == "spread":
        assert points[2]["done_s"]["p50"] == pytest.approx(1024 / 4000)
    assert len(values["assumptions"]) == 5
    assert [place[-3:] for place in save(simulation_figure(values), str(tmp_path), "day")] == [
        "svg", "png",
    ]  # fmt: skip


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="model_rate is 0"):
        dataclasses.replace(ONE, model_rate=0)
    with pytest.raises(InputError, match="at least 1"):
        simulate(ONE, gpus=(0, 1))
