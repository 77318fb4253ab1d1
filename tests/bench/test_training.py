"""The bench lets two loops take turns, and sums up what they say."""

import threading
import time

import numpy as np
import pytest

from fertiray.bench.training import PLAIN, RAY, Measured, StepBench, Table, Turns, summary
from fertiray.training.fit import fit


def nothing() -> None:
    pass


def test_one_step_at_a_time_in_pairs_and_waiting_does_not_count():
    table = Table()
    log = []

    def loop(side: str, seconds: float) -> None:
        turns = Turns(table.address, table.key, side)
        turns.wait()
        for _ in range(6):
            log.append((side, "in"))
            time.sleep(seconds)
            log.append((side, "out"))
            turns.step(0.0)
        turns.report(0.5)
        turns.end()

    sides = [threading.Thread(target=loop, args=side) for side in ((PLAIN, 0.05), (RAY, 0.15))]
    for side in sides:
        side.start()
    seated = [table.seat(side, nothing) for side in (PLAIN, RAY)]
    measured = table.follow()
    for side in sides:
        side.join()
    table.close()
    assert [one["niceness"] for one in seated] == [seated[0]["niceness"]] * 2
    pairs = [PLAIN, RAY, RAY, PLAIN] * 3
    assert log == [(side, way) for side in pairs for way in ("in", "out")]
    assert [len(measured.steps[side]) for side in (PLAIN, RAY)] == [6, 6]
    assert measured.reports == {PLAIN: [0.5], RAY: [0.5]}
    # A side sleeps; had its waiting counted, it would be as long as the two together.
    assert 0.05 <= min(measured.steps[PLAIN]) < 0.15 <= min(measured.steps[RAY]) < 0.2


def test_medians_and_their_ratio():
    plain, ray = [9.0, 0.1, 0.2, 0.3], [9.0, 0.11, 0.22, 0.33]
    measured = Measured(
        steps={PLAIN: [*plain, 7.0], RAY: [*ray, 7.0]},
        cpu={PLAIN: [0, 0.2, 0.2, 0.2, 0], RAY: [0, 0.2, 0.2, 0.2, 0]},
        reports={PLAIN: [0.01, 0.02, 0.9], RAY: [0.05]},
    )
    found = summary(measured, warm_up=1, steps=3)
    assert found["plain_step_ms"] == pytest.approx(200)
    assert found["ray_step_ms"] == pytest.approx(220)
    assert found["overhead"] == pytest.approx(0.1)
    np.testing.assert_allclose(found["overhead_ci"], [0.1, 0.1])  # each pair has that ratio
    assert found["step_ms_quartiles"][PLAIN] == pytest.approx([150, 250])
    assert (found["cpu_overhead"], found["cpu_overhead_ci"]) == (0, [0, 0])
    assert (found["report_ms"], found["plain_report_ms"]) == (50, 20)
    assert found["n"] == 3


def test_who_comes_first_is_no_matter():
    table = Table()
    early = Turns(table.address, table.key, RAY)
    late = Turns(table.address, table.key, PLAIN)
    assert table.seat(PLAIN, nothing)["side"] == PLAIN
    assert table.seat(RAY, nothing)["side"] == RAY
    early.end()
    late.end()
    measured = table.follow()
    assert measured.steps == {PLAIN: [], RAY: []}
    table.close()


def test_a_stranger_gets_no_seat():
    table = Table()
    stranger = Turns(table.address, "0" * 32, PLAIN)
    owner = Turns(table.address, table.key, PLAIN)
    table.seat(PLAIN, nothing)
    with pytest.raises(ConnectionError):
        stranger.wait()
    owner.end()
    table.close()


def test_a_side_that_ends_early_is_said():
    def ended() -> None:
        raise RuntimeError("the plain side ended with exit code 1")

    table = Table()
    with pytest.raises(RuntimeError, match="exit code 1"):
        table.seat(PLAIN, ended)
    table.close()


def test_the_training_has_the_steps_that_are_asked_for():
    bench = StepBench("basic_cnn", size=16, batch_size=4, steps=5, warm_up=2, epoch=3)
    crops, parts = bench.crops()
    steps = []
    fitted = fit(bench.recipe(), crops, parts, on_step=steps.append)
    assert len(steps) == 9  # three epochs of three, for at least seven
    assert len(fitted.history) == 3


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_under_ray_train():
    from fertiray.on_ray.bench_train import bench_train

    found = bench_train(model="basic_cnn", size=32, batch_size=8, steps=14, warm_up=6, threads=1)
    assert found["n"] == 14
    assert 0 < found["plain_step_ms"] < 10_000
    assert found["overhead"] == pytest.approx(found["ray_step_ms"] / found["plain_step_ms"] - 1)
    low, high = found["overhead_ci"]
    assert low <= found["overhead"] <= high
    assert found["report_ms"] > 0
    assert 0 <= found["background_cores"] < 16
    assert {"command", "machine", "versions"} <= found.keys()
