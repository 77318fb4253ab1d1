"""Adaptive scoring: limits that hold at every look, rounds that can be taken up, balanced books."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import betabinom, binom, hypergeom

from fertiray.bench.adaptive import ACCURACY, MODEL, ORDERS, bench_adaptive
from fertiray.data.crops import row_groups
from fertiray.errors import CountsError, InputError
from fertiray.evaluation.intervals import Accuracy
from fertiray.scoring.adaptive import PRIOR, Adaptive, _Slide, settled, total_limits, verdicts
from fertiray.scoring.aggregate import aggregate
from fertiray.scoring.rounds import Rounds
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally
from fertiray.scoring.verdicts import INDETERMINATE, VERDICTS, ModelInfo

PLAIN = ModelInfo("zona", "zona", ("unbound", "bound"), "bound")
MORPHOLOGY = ModelInfo("form", "morphology", ("normal", "other"), "normal", Accuracy(0.9, 0.95))
BELOW_ABOVE = (VERDICTS["zona"]["below"], VERDICTS["zona"]["above"])


def log_ratio(k: int, n: int, rows: int, total) -> np.ndarray:
    """The definition, from scipy's distributions."""
    return betabinom.logpmf(k, n, *PRIOR) - hypergeom.logpmf(k, rows, total, n)


def test_the_ratio_by_hand():
    # One of two crops, positive. The prior Beta(1/2, 4) expects a positive with 0.5 / 4.5 = 1/9;
    # with one positive among the two it has a chance of 1/2, with two of 1.
    slide = _Slide(1, 1, 2)
    assert slide.totals.tolist() == [1, 2]
    assert np.exp(slide.ratio) == pytest.approx([2 / 9, 1 / 9])


@pytest.mark.parametrize(("rows", "total", "n"), [(9, 0, 4), (9, 5, 4), (9, 9, 3), (30, 2, 29)])
def test_the_expected_ratio_is_one_at_the_truth(rows, total, n):
    # A martingale that starts at 1, summed over all outcomes that the truth allows.
    outcomes = [k for k in range(n + 1) if hypergeom.pmf(k, rows, total, n) > 0]
    expected = sum(
        hypergeom.pmf(k, rows, total, n) * np.exp(log_ratio(k, n, rows, total)) for k in outcomes
    )
    possible = sum(betabinom.pmf(k, n, *PRIOR) for k in outcomes)
    assert expected == pytest.approx(possible)
    assert possible <= 1 + 1e-12
    for k in outcomes:
        slide = _Slide(k, n, rows)
        assert slide.ratio == pytest.approx(log_ratio(k, n, rows, slide.totals), abs=1e-9)


@pytest.mark.parametrize(
    ("k", "n", "rows"), [(30, 1000, 15000), (0, 1000, 3000), (5, 20, 40), (0, 0, 50), (20, 20, 30)]
)
def test_limits_of_one_slide_are_those_of_the_definition(k, n, rows):
    totals = np.arange(k, rows - n + k + 1)
    ratios = log_ratio(k, n, rows, totals)
    low, high = total_limits([k], [n], [rows], 0.05, 0.01)
    assert low == totals[ratios <= np.log(20)].min()
    assert high == totals[ratios <= np.log(100)].max()


def test_limits_of_two_slides_hold_all_that_the_definition_allows():
    counts = [(2, 15, 30), (6, 12, 20)]
    sums = [
        sum(totals)
        for totals in itertools.product(*(range(k, rows - n + k + 1) for k, n, rows in counts))
        if sum(
            log_ratio(*own, total) for own, total in zip(counts, totals, strict=True)
        ) <= np.log(20)
    ]  # fmt: skip
    low, high = total_limits(*zip(*counts, strict=True), 0.05, 0.05)
    assert min(sums) - 1 <= low <= min(sums)
    assert max(sums) <= high <= max(sums) + 1


def test_what_is_counted_is_known():
    assert total_limits([3, 4], [50, 60], [50, 60], 0.05, 0.05) == (7, 7)
    assert settled([3], [50], [0], PLAIN, Adaptive(), "prevalence")
    assert not settled([0], [0], [50], PLAIN, Adaptive(), "prevalence")


def test_limits_hold_at_every_look_at_once():
    """Slides that differ, shards of any size; a rate so high that the limits miss sometimes."""
    random, alpha, runs, missed = np.random.default_rng(1), 0.4, 120, 0
    for _ in range(runs):
        labels = [random.random(400) < share for share in (0.03, 0.08)]
        truth, seen = sum(int(own.sum()) for own in labels), [0, 0]
        while seen != [400, 400]:
            slide = int(np.argmin(seen))
            seen[slide] = min(400, seen[slide] + int(random.integers(20, 150)))
            k = [int(own[:n].sum()) for own, n in zip(labels, seen, strict=True)]
            low, high = total_limits(k, seen, [400, 400], alpha, alpha)
            if not low <= truth <= high:
                missed += 1
                break
    assert 0 < missed <= binom.ppf(0.999, runs, alpha)


@pytest.mark.parametrize(
    ("share", "verdict_on"), [(0.049, "fraction"), (0.055, "fraction"), (0.06, "prevalence")]
)
def test_other_verdicts_than_full_scoring_are_as_rare_as_stated(share, verdict_on):
    """Patients near a boundary, where mistakes are made; rates so high that some are."""
    random, rates, runs = np.random.default_rng(2), Adaptive(0.2, 0.2), 150
    wrong = early = 0
    for _ in range(runs):
        found = [(int(random.binomial(100, share)), 100) for _ in range(30)]
        rounds = Rounds([{("P", "S"): 100}] * 30, [MODEL], rates, verdict_on)
        while batch := rounds.next():
            for shard in batch:
                rounds.add(shard, {("P", "S", "zona"): found[shard]})
        k, n = np.sum([found[shard] for shard in rounds.looked_at], axis=0)
        full_k, full_n = np.sum(found, axis=0)
        ours, full = verdicts([k, full_k], [n, full_n], MODEL, verdict_on)
        wrong += ours != full
        early += n < full_n
    assert early > 5
    assert wrong <= binom.ppf(0.999, runs, 0.2)


@pytest.mark.parametrize("model", [MODEL, PLAIN, MORPHOLOGY])
@pytest.mark.parametrize("verdict_on", ["prevalence", "fraction"])
def test_the_verdict_is_the_tables_and_never_falls_with_the_count(model, verdict_on):
    n, counts = 300, np.arange(0, 301, 3)
    words = verdicts(counts, np.full(len(counts), n), model, verdict_on)
    names = sorted(model.classes, key=lambda name: name != model.positive)
    rows = [
        {"patient_id": f"{k:03}", "slide_id": "S", "model": model.name, "label": label, "n": own}
        for k in counts.tolist()
        for label, own in zip(names, (k, n - k), strict=True)
    ]
    frame = pl.DataFrame(rows)
    scores = frame.select(pl.exclude("n").repeat_by("n").explode()).drop_nulls()
    none = pl.DataFrame(schema={"patient_id": pl.String, "slide_id": pl.String})
    table = aggregate(scores, none, {model.name: model}, verdict_on=verdict_on).patients
    assert table["verdict"].to_list() == words
    below, above = VERDICTS[model.task]["below"], VERDICTS[model.task]["above"]
    heights = [(below, INDETERMINATE, above).index(word) for word in words]
    assert heights == sorted(heights)
    assert {0, 2} <= set(heights)


def test_clear_patients_are_decided_by_one_shard_a_slide():
    layout = [{("P", slide): 1000} for slide in "AABB" * 4]
    rounds = Rounds(layout, [PLAIN], Adaptive(), "prevalence")
    first = rounds.next()
    assert sorted(next(iter(layout[shard]))[1] for shard in first) == ["A", "B"]
    for shard in first:
        rounds.add(shard, {("P", next(iter(layout[shard]))[1], "zona"): (200, 1000)})
    assert rounds.next() == []
    assert rounds.skipped == {"P": 14_000}


def test_a_shard_is_skipped_only_where_all_its_patients_are_decided():
    # P is on the threshold to the end, Q is clear; shard 1 holds crops of both.
    layout = [{("P", "S"): 100}, {("P", "S"): 50, ("Q", "S"): 500}, *[{("Q", "S"): 500}] * 8]
    rounds = Rounds(layout, [PLAIN], Adaptive(), "fraction")
    while batch := rounds.next():
        for shard in batch:
            places = layout[shard].items()
            rounds.add(
                shard,
                {
                    (*place, "zona"): (rows // 20 if place[0] == "P" else rows // 2, rows)
                    for place, rows in places
                },
            )
    assert {0, 1} <= rounds.looked_at
    assert rounds.skipped["P"] == 0
    assert rounds.skipped["Q"] >= 3000


@pytest.mark.parametrize("rates", [(0, 0.01), (0.01, 1), (-1, 0.5), (float("nan"), 0.1)])
def test_rates_are_shares(rates):
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        Adaptive(*rates)


def test_the_bench_saves_most_crops_and_errs_as_rarely_as_stated():
    values = bench_adaptive(Adaptive(), cohorts=1, crops=6_000, seed=3)
    assert len(values["points"]) == 2 * len(ORDERS)
    assert {"command", "machine", "versions"} <= set(values)
    for point in values["points"]:
        assert point["patients"] == 117
        assert 0.2 < point["saved_ci"][0] < point["saved"] < point["saved_ci"][1] < 1
        if point["order"] == ORDERS[0].name:
            assert point["differs_n"] <= binom.ppf(0.999, 117, 0.01)
            assert point["close"]["patients"] == 50
            assert point["close"]["differs_n"] <= binom.ppf(0.999, 50, 0.01)
    assert ACCURACY.youden == pytest.approx(0.936)  # 97.6 + 96.0 - 100, the paper's


PATIENTS, CROPS = 3, 400  # of many_shards
RATES = Adaptive(0.05, 0.05)


@pytest.fixture(scope="module")
def adaptive(many_shards, zona_checkpoint, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("run") / "adaptive"
    job = ScoringJob(many_shards, (zona_checkpoint,), str(out), engine="eager")
    return out, score(job, score_locally, workers=2, adaptive=RATES, verdict_on="fraction")


def rows(out: Path, part: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(f) for f in sorted((out / part).glob("*.parquet")))


def test_rows_in_are_scored_plus_rejected_plus_skipped(adaptive):
    out, result = adaptive
    assert result["rows_in"] == PATIENTS * CROPS
    assert result["skipped"] > CROPS
    assert result["rows_in"] == result["scored"] + result["rejected"] + result["skipped"]
    assert (len(rows(out, "scores")), len(rows(out, "rejects"))) == (
        result["scored"], result["rejected"],
    )  # fmt: skip
    patients = pl.read_parquet(out / "patients.parquet")
    total = patients["n_scored"] + patients["n_rejected"] + patients["n_skipped"]
    assert total.to_list() == [CROPS] * PATIENTS
    record = json.loads((out / "run.json").read_text())
    assert record["counts"]["skipped"] == result["skipped"] == patients["n_skipped"].sum()
    assert record["config"]["adaptive"] == {"alpha": 0.05, "beta": 0.05}
    page = (out / "report.html").read_text()
    assert "stopped early" in page
    assert "at most 5 of 100 patients" in page
    assert "n_skipped" in (out / "patients.csv").read_text()


def test_off_scores_everything_as_before(many_shards, zona_checkpoint, adaptive, tmp_path):
    job = ScoringJob(many_shards, (zona_checkpoint,), str(tmp_path / "off"), engine="eager")
    result = score(job, score_locally, workers=2, verdict_on="fraction")
    assert "skipped" not in result
    plain = ScoringJob(many_shards, (zona_checkpoint,), str(tmp_path / "plain"), engine="eager")
    score_locally(plain, row_groups(many_shards), 1, lambda result: None)
    files = sorted(path.name for path in (tmp_path / "plain" / "scores").iterdir())
    assert len(files) == 28
    for part, name in itertools.product(("scores", "rejects"), files):
        ours = (tmp_path / "off" / part / name).read_bytes()
        assert ours == (tmp_path / "plain" / part / name).read_bytes()
    off = pl.read_parquet(tmp_path / "off" / "patients.parquet")
    assert "n_skipped" not in off.columns
    assert "stopped early" not in (tmp_path / "off" / "report.html").read_text()
    # What was not skipped has the same scores, and here the verdicts are the same too.
    own = rows(adaptive[0], "scores")
    both = own.join(rows(tmp_path / "off", "scores"), on=own.columns, nulls_equal=True)
    assert both.height == own.height
    stopped = pl.read_parquet(adaptive[0] / "patients.parquet")
    assert stopped["verdict"].to_list() == off["verdict"].to_list()


class PowerCutError(RuntimeError):
    pass


@pytest.mark.parametrize("after", [2, 5])
def test_a_resumed_run_takes_the_same_shards(
    adaptive, many_shards, zona_checkpoint, tmp_path, after
):
    job = ScoringJob(many_shards, (zona_checkpoint,), str(tmp_path / "cut"), engine="eager")
    done = 0

    def cut(job, groups, workers, report):
        def count(result):
            nonlocal done
            report(result)
            done += 1
            if done == after:
                raise PowerCutError

        score_locally(job, groups, workers, count)

    settings = {"adaptive": RATES, "verdict_on": "fraction"}
    with pytest.raises(PowerCutError):
        score(job, cut, workers=1, **settings)
    kept = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "cut" / "scores").iterdir()}
    seen: list[tuple[int, int]] = []
    result = score(
        job, score_locally, workers=2, **settings, progress=lambda *count: seen.append(count)
    )
    assert all(
        (tmp_path / "cut" / "scores" / name).stat().st_mtime_ns == time
        for name, time in kept.items()
    )
    assert result["resumed"] > 0
    assert result["skipped"] == adaptive[1]["skipped"]
    names = [
        {f.name for f in (out / "scores").iterdir()} for out in (adaptive[0], tmp_path / "cut")
    ]
    assert names[0] == names[1]
    tables = [pl.read_parquet(out / "patients.parquet") for out in (adaptive[0], tmp_path / "cut")]
    assert tables[0].equals(tables[1])
    assert seen[-1][0] == result["scored"] + result["rejected"]


def test_another_rate_is_refused_and_a_stray_shard_is_noticed(
    adaptive, many_shards, zona_checkpoint, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(adaptive[0], out)
    job = ScoringJob(many_shards, (zona_checkpoint,), str(out), engine="eager")
    for other in (None, Adaptive(0.2, 0.05)):
        with pytest.raises(InputError, match="another adaptive scoring"):
            score(job, score_locally, workers=1, adaptive=other, verdict_on="fraction")
    here = {path.stem for path in (out / "scores").iterdir()}
    stray = next(n for n in range(28) if f"part-00000-{n:05d}" not in here)
    shutil.copy(
        next((out / "scores").iterdir()), out / "scores" / f"part-00000-{stray:05d}.parquet"
    )
    with pytest.raises(CountsError, match=f"{stray:05d} was to be skipped"):
        score(job, score_locally, workers=1, adaptive=RATES, verdict_on="fraction")
