"""Patient and slide tables against hand counts, statsmodels and the zona paper's Table 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from statsmodels.stats.proportion import proportion_confint

from fertiray.errors import InputError
from fertiray.evaluation.intervals import Accuracy
from fertiray.scoring.aggregate import aggregate, aggregate_run, to_csv, write_tables
from fertiray.scoring.verdicts import ModelInfo, crops_to_settle

ZONA = ModelInfo("zona", "zona", ("unbound", "bound"), "bound", Accuracy(0.976, 0.96, 1250, 1460))
HUSHEM = ("Normal", "Tapered", "Pyriform", "Amorphous")
MORPHOLOGY = ModelInfo("head", "morphology", HUSHEM, "Normal", Accuracy(0.95, 0.98, 540, 1620))
MODELS = {model.name: model for model in (ZONA, MORPHOLOGY)}

# Table 1 of the zona paper: predicted ZP-binding ability (%) of patients 1-30, in order. Patients
# 1-16 fertilised well and are recommended for IVF, patients 17-30 did not and are not.
TABLE_1 = [
    *(52.8, 25, 41.2, 15.3, 58.4, 33.9, 38.3, 20.5, 20, 5, 6.3, 34.6, 7.7, 12.6, 17, 31.9),
    *(1.6, 2.9, 4, 3.6, 0.9, 4.4, 0, 3.6, 2.1, 1.6, 3.9, 2.9, 3.2, 1.7),
]


def rows(
    patient: str, counts: dict[str, int], slide: str = "slide-1", model: str = "zona"
) -> pl.DataFrame:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return pl.DataFrame({"label": labels}, schema={"label": pl.String}).select(
        crop_id=pl.format(f"{patient}-{slide}-{{}}", pl.int_range(pl.len())),
        patient_id=pl.lit(patient),
        slide_id=pl.lit(slide),
        model=pl.lit(model),
        label="label",
    )


def rejected(*places: tuple[str, str]) -> pl.DataFrame:
    schema = {"patient_id": pl.String, "slide_id": pl.String}
    return pl.DataFrame(list(places), schema=schema, orient="row").with_columns(
        crop_id=pl.lit("x"), stage=pl.lit("decode"), error=pl.lit("truncated")
    )


def bound(k: int, n: int) -> dict[str, int]:
    return {"bound": k, "unbound": n - k}


def only(frame: pl.DataFrame, **where: str) -> dict[str, object]:
    return frame.filter(**where).row(0, named=True)


def test_table_1_is_sorted_as_the_paper_sorts_it() -> None:
    scores = pl.concat(
        rows(f"{number:02}", bound(round(10 * percent), 1000))
        for number, percent in enumerate(TABLE_1, 1)
    )
    found = aggregate(scores, rejected(), {"zona": ZONA}, verdict_on="fraction").patients
    assert found["fraction"].to_list() == pytest.approx([percent / 100 for percent in TABLE_1])
    assert found["verdict"].to_list() == ["conventional IVF"] * 16 + ["consider ICSI"] * 14
    assert found["verdict"].to_list() == found["verdict_fraction"].to_list()


def test_exactly_at_the_threshold_is_defective_binding() -> None:
    scores = pl.concat([rows("a", bound(49, 1000)), rows("b", bound(50, 1000))])
    found = aggregate(scores, rejected(), {"zona": ZONA}, verdict_on="fraction").patients
    assert found["verdict"].to_list() == ["consider ICSI", "conventional IVF"]


def test_the_corrected_verdict_by_hand() -> None:
    """With 96% specificity a raw 6% is a prevalence of 2.1% and no reason for IVF."""
    scores = pl.concat(
        [rows("few", bound(60, 1000)), rows("many", bound(200, 1000)), rows("?", bound(11, 100))]
    )
    found = aggregate(scores, rejected(), {"zona": ZONA}).patients
    few, many, unsure = (only(found, patient_id=name) for name in ("few", "many", "?"))
    # (0.06 + 0.96 - 1) / 0.936 and (0.2 + 0.96 - 1) / 0.936
    assert few["prevalence"] == pytest.approx(0.0213675, abs=1e-7)
    assert many["prevalence"] == pytest.approx(0.1709402, abs=1e-7)
    low, high = proportion_confint(60, 1000, method="wilson")
    assert (few["ci_low"], few["ci_high"]) == pytest.approx((low, high))
    assert (few["verdict"], few["verdict_fraction"]) == ("consider ICSI", "conventional IVF")
    assert (many["verdict"], many["verdict_on"]) == ("conventional IVF", "prevalence")
    assert unsure["verdict"] == "indeterminate"
    assert unsure["n_more"] > 0
    assert few["n_more"] is None


def test_the_promised_columns_come_first_and_in_order() -> None:
    found = aggregate(rows("a", bound(1, 9)), rejected(), {"zona": ZONA})
    # INTERFACE.md, patients.parquet
    assert found.patients.columns[:13] == [
        *("patient_id", "model", "n_scored", "n_rejected", "n_positive", "fraction", "ci_low"),
        *("ci_high", "prevalence", "prevalence_ci_low", "prevalence_ci_high", "threshold"),
        "verdict",
    ]
    assert found.patients.columns[-2:] == ["n_unbound", "n_bound"]
    assert found.slides.columns[:5] == ["patient_id", "slide_id", "model", "n_scored", "n_rejected"]


def test_a_patient_without_a_single_good_crop_is_there_with_nulls() -> None:
    found = aggregate(rows("a", bound(1, 9)), rejected(("b", "s"), ("b", "s")), {"zona": ZONA})
    lost = only(found.patients, patient_id="b")
    assert (lost["n_scored"], lost["n_rejected"], lost["verdict"]) == (0, 2, "no result")
    assert (lost["verdict_prevalence"], lost["verdict_fraction"]) == ("no result", "no result")
    for name in ("fraction", "ci_low", "ci_high", "prevalence", "prevalence_ci_low", "n_more"):
        assert lost[name] is None
    assert only(found.slides, patient_id="b")["fraction"] is None


def test_an_empty_run_gives_empty_tables() -> None:
    found = aggregate(rows("a", {}), rejected(), MODELS)
    assert found.patients.is_empty()
    assert found.slides.is_empty()


def test_morphology_counts_every_class_and_reads_the_who_reference() -> None:
    mix = {"Normal": 30, "Tapered": 100, "Pyriform": 70, "Amorphous": 100}
    good = {"Normal": 90, "Tapered": 10, "Pyriform": 100, "Amorphous": 100}
    scores = pl.concat(
        [rows("a", mix, model="head"), rows("b", good, model="head"), rows("a", bound(60, 300))]
    )
    found = aggregate(scores, rejected(), MODELS).patients
    first = only(found, patient_id="a", model="head")
    assert [first[f"n_{name}"] for name in HUSHEM] == [30, 100, 70, 100]
    assert (first["fraction"], first["threshold"], first["n_bound"]) == (0.1, 0.04, None)
    # 10% read as Normal, of which 2% of the others are false: (0.1 + 0.98 - 1) / 0.93 = 8.6%
    assert first["prevalence"] == pytest.approx(0.0860215, abs=1e-7)
    assert first["verdict"] == "at or above WHO reference"
    assert only(found, patient_id="b", model="head")["verdict"] == "at or above WHO reference"
    none = rows("c", {"Normal": 2, "Amorphous": 298}, model="head")
    low = aggregate(none, rejected(), MODELS).patients
    assert only(low, model="head")["verdict"] == "below WHO reference"
    few = rows("d", {"Normal": 2, "Amorphous": 28}, model="head")
    unsure = aggregate(few, rejected(), MODELS, verdict_on="fraction").patients
    assert only(unsure, model="head")["verdict"] == "indeterminate"
    assert only(unsure, model="head")["verdict_on"] == "fraction interval"


def test_without_measured_accuracy_the_raw_interval_decides() -> None:
    model = ModelInfo("zona", "zona", ("unbound", "bound"), "bound")
    scores = pl.concat([rows("a", bound(6, 100)), rows("b", bound(60, 100))])
    found = aggregate(scores, rejected(), {"zona": model}).patients
    assert found["prevalence"].null_count() == 2
    assert found["validation_conflict"].null_count() == 2
    # Wilson of 6 of 100 is 2.8% to 12.5%: it crosses 4.9%.
    assert found["verdict"].to_list() == ["indeterminate", "conventional IVF"]
    assert found["verdict_on"].unique().to_list() == ["fraction interval"]


def test_slides_add_up_to_their_patient_and_are_compared() -> None:
    scores = pl.concat(
        [
            rows("a", bound(56, 70), "s1"),
            rows("a", bound(48, 80), "s2"),
            rows("b", bound(5, 50), "only"),
        ]
    )
    found = aggregate(scores, rejected(("a", "s3"), ("a", "s1")), {"zona": ZONA})
    assert found.slides["slide_id"].to_list() == ["s1", "s2", "s3", "only"]
    assert found.slides["n_rejected"].to_list() == [1, 0, 1, 0]
    a, b = only(found.patients, patient_id="a"), only(found.patients, patient_id="b")
    assert (a["n_scored"], a["n_positive"], a["n_rejected"], a["n_slides"]) == (150, 104, 2, 2)
    # Newcombe 1998, Table II, method 10: 56/70 - 48/80 = 0.2 (0.0524 to 0.3339)
    assert a["slide_max_difference"] == pytest.approx(0.2)
    assert a["slide_difference_ci_low"] == pytest.approx(0.0524, abs=5e-5)
    assert a["slide_difference_ci_high"] == pytest.approx(0.3339, abs=5e-5)
    assert (b["n_slides"], b["slide_p"], b["slide_max_difference"]) == (1, None, None)


def test_fewer_positives_than_false_alarms_is_called_out() -> None:
    """1 of 1000 where a specificity of 96% promises 40: the validation does not fit the sample."""
    scores = pl.concat([rows("a", bound(1, 1000)), rows("b", bound(45, 1000))])
    found = aggregate(scores, rejected(), {"zona": ZONA}).patients
    assert found["validation_conflict"].to_list() == [True, False]
    assert found["prevalence"].to_list()[0] == 0.0


places = st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["s1", "s2"]))
kinds = st.sampled_from([("zona", "bound"), ("zona", "unbound"), ("head", "Normal")])


@settings(max_examples=25, deadline=None)
@given(
    crops=st.lists(st.tuples(places, kinds), min_size=1, max_size=120),
    lost=st.lists(places, max_size=8),
    data=st.data(),
)
def test_neither_order_nor_division_of_the_rows_matters(
    crops: list[tuple[tuple[str, str], tuple[str, str]]],
    lost: list[tuple[str, str]],
    data: st.DataObject,
) -> None:
    def table(order: list[int]) -> pl.DataFrame:
        flat = [(*crops[index][0], *crops[index][1]) for index in order]
        names = ["patient_id", "slide_id", "model", "label"]
        return pl.DataFrame(flat, schema=dict.fromkeys(names, pl.String), orient="row")

    order = list(range(len(crops)))
    expected = aggregate(table(order), rejected(*lost), MODELS)
    shuffled = table(data.draw(st.permutations(order)))
    cut = data.draw(st.integers(0, len(crops)))
    parts = pl.concat([shuffled[cut:].lazy(), shuffled[:cut].lazy()])
    found = aggregate(parts, rejected(*reversed(lost)).lazy(), MODELS)
    assert_frame_equal(found.patients, expected.patients)
    assert_frame_equal(found.slides, expected.slides)
    assert_frame_equal(found.agreement, expected.agreement)
    # Counted again in plain Python.
    for row in expected.patients.iter_rows(named=True):
        own = [
            kind[1]
            for (patient, _), kind in crops
            if patient == row["patient_id"] and kind[0] == row["model"]
        ]
        assert row["n_scored"] == len(own)
        assert row["n_positive"] == own.count(MODELS[row["model"]].positive)
        assert row["n_rejected"] == sum(patient == row["patient_id"] for patient, _ in lost)


def test_a_run_folder_gives_the_same_and_writes_its_tables(tmp_path: Path) -> None:
    scores = pl.concat(
        [rows("a", bound(3, 40), "s1"), rows("a", bound(9, 40), "s2"), rows("b", bound(4, 50))]
    )
    for folder in ("scores", "rejects"):
        (tmp_path / folder).mkdir()
    scores[:55].write_parquet(tmp_path / "scores" / "part-0.parquet")
    scores[55:].with_columns(p_bound=pl.lit(0.5)).write_parquet(
        tmp_path / "scores" / "part-1.parquet"
    )
    rejected(("c", "s")).write_parquet(tmp_path / "rejects" / "part-0.parquet")
    found = aggregate_run(str(tmp_path), {"zona": ZONA})
    expected = aggregate(scores, rejected(("c", "s")), {"zona": ZONA})
    assert_frame_equal(found.patients, expected.patients)
    write_tables(str(tmp_path), found)
    assert_frame_equal(pl.read_parquet(tmp_path / "patients.parquet"), expected.patients)
    assert_frame_equal(pl.read_parquet(tmp_path / "slides.parquet"), expected.slides)
    written = pl.read_csv(tmp_path / "patients.csv")
    assert written["patient_id"].to_list() == ["a", "b", "c"]
    assert written["fraction"].to_list() == [0.15, 0.08, None]


def test_csv_does_not_hand_a_formula_to_a_spreadsheet() -> None:
    frame = pl.DataFrame({"patient_id": ['=HYPERLINK("x")', "P-1"], "fraction": [1 / 3, None]})
    assert to_csv(frame).splitlines() == [
        "patient_id,fraction",
        '"\'=HYPERLINK(""x"")",0.33333',
        "P-1,",
    ]


def test_unknown_models_and_labels_are_named() -> None:
    with pytest.raises(InputError, match="scores of model 'zona', but only head is known"):
        aggregate(rows("a", bound(1, 2)), rejected(), {"head": MORPHOLOGY})
    with pytest.raises(InputError, match="label 'tapir' in the scores is no class of model 'zona'"):
        aggregate(rows("a", {"tapir": 1}), rejected(), {"zona": ZONA})


def test_a_model_is_read_from_its_checkpoints_description() -> None:
    meta = {
        "name": "zona",
        "task": "zona",
        "classes": ["unbound", "bound"],
        "positive": "bound",
        "operating": {
            "threshold": 0.5,
            "sensitivity": 0.976,
            "specificity": 0.96,
            "n_positive": 1250,
            "n_negative": 1460,
        },
    }
    assert ModelInfo.from_meta(meta) == ModelInfo(
        "zona", "zona", ("unbound", "bound"), "bound", ZONA.accuracy, 0.5
    )
    with pytest.raises(InputError, match=r"zona: sensitivity 0\.400"):
        ModelInfo.from_meta({**meta, "operating": {"sensitivity": 0.4, "specificity": 0.5}})
    with pytest.raises(InputError, match="task 'viability' has no patient result"):
        ModelInfo.from_meta({**meta, "task": "viability"})


def test_crops_to_settle_is_enough_and_not_far_too_many() -> None:
    more = crops_to_settle(11, 100, ZONA, "prevalence")
    assert more is not None

    def verdict(n: int) -> str:
        scores = rows("a", bound(round(0.11 * n), n))
        return str(aggregate(scores, rejected(), {"zona": ZONA}).patients["verdict"][0])

    assert verdict(100 + more) != "indeterminate"
    assert verdict(100 + round(0.9 * more)) == "indeterminate"


def test_no_number_of_crops_mends_a_small_validation() -> None:
    rough = ModelInfo("z", "zona", ("unbound", "bound"), "bound", Accuracy(0.976, 0.96, 40, 50))
    assert crops_to_settle(20, 200, rough, "prevalence") is None
    # 49 of 1000 is the threshold itself.
    assert crops_to_settle(49, 1000, ZONA, "fraction interval") is None


def test_three_million_rows_take_seconds() -> None:
    rng, size = np.random.default_rng(0), 3_500_000
    patients = pl.Series([f"P{number:03}" for number in range(117)])
    scores = pl.DataFrame(
        {
            "patient_id": patients.gather(rng.integers(0, 117, size)),
            "slide_id": pl.Series(["s1", "s2"]).gather(rng.integers(0, 2, size)),
            "model": pl.Series(["zona"]).gather(np.zeros(size, dtype=np.uint8)),
            "label": pl.Series(["unbound", "bound"]).gather(rng.integers(0, 2, size)),
        }
    )
    found = aggregate(scores.lazy(), rejected(), {"zona": ZONA}).patients
    assert found.height == 117
    assert found["n_scored"].sum() == size


def test_unlike_crops_are_counted_per_patient_and_never_invented(tmp_path):
    """Scores above 1: 3 of 4 by hand; exactly 1 is like the training's."""
    scores = rows("a", bound(1, 4)).with_columns(
        ood=pl.Series([1.2, 1.0, 3.0, 9.0], dtype=pl.Float32)
    )
    patients = aggregate(scores, rejected(), MODELS).patients
    found = only(patients, patient_id="a", model="zona")
    assert (found["n_unlike"], found["unlike_fraction"]) == (3, 0.75)
    # The other model scored nothing, and a model without a detector says nothing.
    assert only(patients, patient_id="a", model="head")["n_unlike"] is None
    without = aggregate(rows("a", bound(1, 4)), rejected(), MODELS).patients
    assert without["n_unlike"].null_count() == without.height
    none = aggregate(scores.with_columns(ood=pl.lit(0.5)), rejected(), MODELS).patients
    assert only(none, patient_id="a", model="zona")["unlike_fraction"] == 0

    # The same from the files of a run, one written before there was such a column.
    (tmp_path / "scores").mkdir()
    scores.write_parquet(tmp_path / "scores" / "one.parquet")
    rows("b", bound(0, 2)).write_parquet(tmp_path / "scores" / "two.parquet")
    again = aggregate_run(str(tmp_path), MODELS).patients
    assert only(again, patient_id="a", model="zona")["n_unlike"] == 3
