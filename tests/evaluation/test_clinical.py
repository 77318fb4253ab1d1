"""Validation in a clinic: the zona paper's Table 1, hand computations, and tables gone wrong."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from fertiray.errors import InputError
from fertiray.evaluation.clinical import validate
from fertiray.evaluation.clinical_semen import SEMEN, compare_semen
from fertiray.evaluation.clinical_tables import group_of, read_cohort
from fertiray.evaluation.intervals import wilson
from fertiray.evaluation.roc import auc, compare_auc

# Leung et al., Table 1. Its units "uM" of the concentration are millions per ml. Patients 15 and 30
# have the same raw semen analysis, and patient 23 a processed motility of 114%, in the paper.
TABLE_1 = Path(__file__).with_name("zona_table1.csv")


def table_1() -> pl.DataFrame:
    return pl.read_csv(TABLE_1, schema_overrides={"patient_id": pl.String})


def as_files(folder, table: pl.DataFrame) -> tuple[str, str]:
    """The results and the outcomes, as a clinic would have them, in different orders."""
    results = table.select("patient_id", fraction=pl.col("predicted_zp_percent") / 100)
    outcomes = table.select(
        "patient_id",
        "fertilisation_percent",
        "progressive_motility_percent",
        "concentration_m_per_ml",
        "normal_forms_percent",
        total_motility_percent=pl.sum_horizontal(
            "progressive_motility_percent", "non_progressive_motility_percent"
        ),
    )
    results.write_csv(folder / "results.csv")
    outcomes.reverse().write_csv(folder / "outcomes.csv")
    return str(folder / "results.csv"), str(folder / "outcomes.csv")


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    results, outcomes = as_files(folder, table_1())
    return validate(results, outcomes, out=str(folder / "out")), folder / "out"


def test_the_papers_thirty_verdicts(paper):
    """FACTS, 5: at 4.9% all 30 are sorted as the paper does, 16 IVF and 14 not."""
    rows = pl.read_csv(paper[1] / "validation.csv", schema_overrides={"patient_id": pl.String})
    joined = rows.join(table_1(), on="patient_id")
    says = dict.fromkeys(["conventional IVF"], "Yes") | {"consider ICSI": "No"}
    assert [says[verdict] for verdict in joined["verdict"]] == joined["model_says_ivf"].to_list()
    assert rows["verdict"].value_counts(sort=True)["count"].to_list() == [16, 14]
    assert paper[0]["threshold_from"] == "paper"
    assert paper[0]["threshold"] == 0.049


def test_the_papers_thirty_men(paper):
    found, folder = paper
    low, high = found["groups"]["low"], found["groups"]["high"]
    assert (low["n"], high["n"], list(found["groups"])) == (14, 16, ["low", "high"])
    zp = table_1()["predicted_zp_percent"].to_numpy() / 100
    assert high["mean"] == pytest.approx(zp[:16].mean())
    assert low["sem"] == pytest.approx(zp[16:].std(ddof=1) / 14**0.5)
    (pair,) = found["pairs"]
    assert pair["mann_whitney"]["p"] == pytest.approx(stats.mannwhitneyu(zp[:16], zp[16:]).pvalue)
    assert pair["p_holm"] == pair["p"] < 0.0001
    # The lowest of the high group has 5.0%, the highest of the low one 4.4%.
    roc = found["roc"]
    assert (roc["auc"]["auc"], roc["auc"]["ci_method"]) == (1, "Newcombe")
    assert roc["youden"]["threshold"] == pytest.approx(0.044)
    for rule in (roc["youden"], roc["stated"]):
        assert (rule["sensitivity"]["share"], rule["specificity"]["share"]) == (1, 1)
    assert roc["stated"]["specificity"]["ci"] == pytest.approx([float(x) for x in wilson(14, 14)])
    assert "separates" in roc["logistic"]["reason"]
    assert found["above"]["low"]["hits"] == 0
    assert found["correlation"]["spearman"]["r"] > 0.7
    assert found["paper"]["low_against_high"]["roc_auc"] == 0.93
    assert found["counts"]["used"] == 30
    assert json.loads((folder / "validation.json").read_text()) == found
    assert any("Newcombe" in caution for caution in found["cautions"])


def test_semen_analysis_of_the_papers_thirty_men(paper):
    """Counted in Table 1 by hand, by WHO's 6th edition.

    Below 4% normal forms: patients 2, 3, 10, 12 of the high group (the paper's own four) and 18,
    22, 25, 27, 29 of the low. Below 16 million/ml: patient 26 alone. Below 30% progressive: 3, and
    18, 25, 28. Below 42% in all: 3 (29), 18 (28), 25 (36), 28 (25).
    """
    semen = paper[0]["semen"]
    rows = {row["parameter"]: row for row in semen["parameters"]}
    below = {
        name: (row["below"]["low"]["hits"], row["below"]["high"]["hits"])
        for name, row in rows.items()
    }
    assert below == {
        "normal_forms_percent": (5, 4),
        "concentration_m_per_ml": (1, 0),
        "progressive_motility_percent": (3, 1),
        "total_motility_percent": (3, 1),
    }
    assert (semen["any_below"]["low"]["hits"], semen["any_below"]["high"]["hits"]) == (7, 4)
    table = table_1()
    high = table["fertilisation_percent"].to_numpy() > 70
    zp, forms = (
        table[name].to_numpy() for name in ("predicted_zp_percent", "normal_forms_percent")
    )
    row = rows["normal_forms_percent"]
    assert row["auc"] == auc(forms, high)
    test = compare_auc(zp, forms, high)
    assert row["against_value"]["p"] == pytest.approx(test["p"])
    assert row["against_value"]["p_holm"] >= row["against_value"]["p"]
    assert (row["n_low"], row["n_high"], row["limit"]) == (14, 16, 4)


def write(folder, name, rows) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    (folder / name).write_text(text.getvalue())
    return str(folder / name)


def cohort(folder, n: int = 12, column: str = "fertilisation_rate", **more):
    """n men with fractions that overlap between low and high, a third in each group."""
    rates = [0.1, 0.55, 0.9] * (n // 3)
    values = [((7 * i) % n) / n * (0.3 + rate) / 2 for i, rate in enumerate(rates)]
    results = [["patient_id", "fraction"], *([f"P{i}", v] for i, v in enumerate(values))]
    head = ["patient_id", column, *more]
    extra = list(zip(*more.values(), strict=True)) if more else [()] * n
    outcomes = [head, *([f"P{i}", r, *e] for i, (r, e) in enumerate(zip(rates, extra)))]  # noqa: B905
    return write(folder, "r.csv", results), write(folder, "o.csv", outcomes), values, rates


def test_three_groups(tmp_path):
    results, outcomes, values, _ = cohort(tmp_path, 24)
    found = validate(results, outcomes, out=str(tmp_path / "out"), threshold=0.3)
    assert list(found["groups"]) == ["low", "intermediate", "high"]
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]][1] == ("low", "high")
    low, high = np.array(values)[0::3], np.array(values)[2::3]
    assert found["roc"]["stated"]["sensitivity"]["hits"] == (high > 0.3).sum()
    assert found["roc"]["stated"]["specificity"]["hits"] == (low <= 0.3).sum()
    assert found["roc"]["auc"] == auc(np.r_[low, high], np.arange(16) > 7)
    assert found["roc"]["logistic"]["odds_ratio"] > 1
    assert found["roc"]["logistic"]["per"] == 0.01
    assert found["threshold_from"] == "given"
    assert sorted(found["values"]["high"]["value"]) == found["values"]["high"]["value"]
    assert found["values"]["high"]["rate"] == [0.9] * 8
    assert found["correlation"]["n"] == 24
    assert found["semen"] is None
    again = validate(results, outcomes, out=str(tmp_path / "out"), threshold=0.3)
    assert again == found


@pytest.mark.parametrize(
    ("percent", "group"),
    [
        (0, "low"),
        (40, "low"),
        (40.5, "intermediate"),
        (41, "intermediate"),
        (70, "intermediate"),
        (70.1, "high"),
        (71, "high"),
        (100, "high"),
    ],
)
def test_groups_and_what_lies_between(percent, group):
    assert group_of(percent / 100) == group


def test_who_takes_part(tmp_path):
    """ICSI, an unknown procedure, an empty rate and a result without value are left out."""
    results, outcomes, values, rates = cohort(tmp_path, 18)
    procedure = ["ivf"] * 15 + ["ICSI", "", "IVF"]
    head = ["Patient_ID", "fertilisation_rate", "procedure", "notes"]
    rows = [[f"P{i}", rates[i], procedure[i], "x"] for i in range(18)]
    rows[3][1] = ""
    outcomes = write(tmp_path, "o.csv", [head, *rows, ["nobody", 0.5, "IVF", ""]])
    values = [[f"P{i}", v] for i, v in enumerate(values)]
    values[4][1] = "NaN"
    head = ["patient_id", "fraction"]
    results = write(tmp_path, "r.csv", [head, *values, ["=A1", 0.2], ["else", 0.3]])
    found = validate(results, outcomes, out=str(tmp_path / "out"))
    assert found["counts"] == {
        "patients": 20,
        "outcomes": 19,
        "joined": 18,
        "used": 14,
        "unmatched_patients": 2,
        "unmatched_outcomes": 1,
        "left_out": {
            "ICSI": 1,
            "no fertilisation rate": 1,
            "no value": 1,
            "procedure not given": 1,
        },
    }
    assert sum(group["n"] for group in found["groups"].values()) == 14
    assert "1 patients have an outcome but no result" in found["cautions"]
    assert found["columns_ignored"] == ["notes"]
    rows = list(csv.DictReader((tmp_path / "out" / "validation.csv").open()))
    assert [row["left_out"] for row in rows if row["patient_id"] == "P15"] == ["ICSI"]
    assert [row["verdict"] for row in rows if row["patient_id"] == "P4"] == [""]
    alone = (tmp_path / "out" / "unmatched.csv").read_text().splitlines()
    assert alone == ["patient_id,found_in", "'=A1,patients", "else,patients", "nobody,outcomes"]
    # Identifiers are in the tables only.
    assert "nobody" not in (tmp_path / "out" / "validation.json").read_text()


def run_folder(folder, models=("zona",), threshold=0.04):
    ids = [f"{i:03d}" for i in range(12)]
    frame = pl.concat(
        pl.DataFrame(
            {
                "patient_id": ids,
                "model": [model] * 12,
                "fraction": [(i % 5) / 10 for i in range(12)],
                "prevalence": [None, *[(i % 4) / 10 for i in range(1, 12)]],
                "threshold": [threshold] * 12,
            }
        )
        for model in models
    )
    folder.mkdir()
    frame.write_parquet(folder / "patients.parquet")
    rates = [["patient_id", "fertilisation_percent"]]
    rates += [[name, 90 if i % 3 else 20] for i, name in enumerate(ids)]
    return str(folder), write(folder, "outcomes.csv", rates)


def test_a_run_folder(tmp_path):
    """Ids keep their zeros; the run's own threshold holds where none is given."""
    run, outcomes = run_folder(tmp_path / "run")
    found = validate(run, outcomes, out=str(tmp_path / "out"), value="prevalence")
    assert (found["model"], found["threshold"], found["threshold_from"]) == ("zona", 0.04, "run")
    assert found["counts"]["joined"] == 12
    assert found["counts"]["left_out"] == {"no value": 1}
    assert any("made for the fraction" in caution for caution in found["cautions"])
    assert any("3 patients of low fertilisation" in caution for caution in found["cautions"])


def test_several_models(tmp_path):
    run, outcomes = run_folder(tmp_path / "run", ("a", "b"))
    assert read_cohort(run, outcomes, "b", "fraction").frame.height == 12
    for model in (None, "c"):
        with pytest.raises(InputError, match="must name one of its models; there is a, b"):
            read_cohort(run, outcomes, model, "fraction")
    results, outcomes, *_ = cohort(tmp_path)
    with pytest.raises(InputError, match="there is no column model"):
        read_cohort(results, outcomes, "a", "fraction")


GOOD = [["patient_id", "fertilisation_rate"], ["P0", 0.1], ["P1", 0.2], ["P2", 0.9]]


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([["patient_id", "rate"], ["P0", 1]], "needs one of the columns .* found neither"),
        ([["patient_id", "fertilisation_rate", "fertilisation_percent"], ["P0", 1, 1]], "not both"),
        ([["name", "fertilisation_rate"], ["P0", 1]], "no column patient_id; there are name"),
        ([["patient_id", "fertilisation_rate"]], "no rows"),
        ([*GOOD, ["P3", 50]], "line 5: fertilisation_rate is 50; give shares of 1, or name it"),
        ([*GOOD, ["P3", -0.1]], "line 5: fertilisation_rate is -0.1"),
        ([*GOOD, ["P3", -1]], "line 5: fertilisation_rate is -1"),
        ([*GOOD, ["P3", "half"]], "line 5: fertilisation_rate is no number"),
        ([*GOOD, ["P1", 0.3]], "line 5: the patient_id of line 3 again"),
        ([*GOOD, ["", 0.3]], "line 5: no patient_id"),
        ([*GOOD[:1], ["X", 0.3]], r"\(12 patients\) and .* \(1\) have no patient_id in common"),
        (GOOD, "1 of 3 usable patients have high fertilisation|2 of 3 .* low"),
        (
            [[*GOOD[0], "procedure"], ["P0", 0.1, "IUI"]],
            "line 2: unknown procedure; give IVF or ICSI",
        ),
        (
            [["patient_id", "fertilisation_percent"], ["P0", 101]],
            "line 2: fertilisation_percent is 101; give percentages",
        ),
        ([[*GOOD[0], "vitality_percent"], ["P0", 0.1, 120]], "vitality_percent is 120; give perc"),
        ([[*GOOD[0], "volume_ml"], ["P0", 0.1, "inf"]], "volume_ml is inf; give numbers from 0"),
    ],
)
def test_unusable_outcomes(tmp_path, outcomes, message):
    results, *_ = cohort(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        validate(results, write(tmp_path, "o.csv", outcomes), out=str(tmp_path / "out"))
    assert "\n" not in str(error.value)
    assert "half" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_unusable_results(tmp_path):
    _, outcomes, *_ = cohort(tmp_path)
    out = str(tmp_path / "out")
    percent = write(tmp_path, "p.csv", [["patient_id", "fraction"], ["P0", 12.5]])
    with pytest.raises(InputError, match=r"line 2: fraction is 12.5; give shares of 1"):
        validate(percent, outcomes, out=out)
    with pytest.raises(InputError, match="no column prevalence; there are patient_id, fraction"):
        validate(percent, outcomes, out=out, value="prevalence")
    twice = pl.DataFrame({"patient_id": [7, 7], "fraction": [0.1, 0.2]})
    twice.write_parquet(tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="row 2: the patient_id of row 1 again"):
        validate(str(tmp_path / "twice.parquet"), outcomes, out=out)
    (tmp_path / "no.parquet").write_text("text")
    with pytest.raises(InputError, match="not a Parquet file"):
        validate(str(tmp_path / "no.parquet"), outcomes, out=out)
    with pytest.raises(InputError, match=r"patients.parquet: no such file"):
        validate(str(tmp_path / "norun"), outcomes, out=out)
    with pytest.raises(InputError, match=r"threshold is 4\.9; give a share"):
        validate(percent, outcomes, out=out, threshold=4.9)


def test_percent_that_look_like_shares(tmp_path):
    results, outcomes, *_ = cohort(tmp_path, column="fertilisation_percent")
    cautions = read_cohort(results, outcomes, None, "fraction").cautions
    assert "are they shares" in cautions[0]


def test_semen_that_few_men_have(tmp_path):
    volume = ["", *[1.0, 2.0, 1.5] * 3, "", ""]
    vitality = ["n/a"] * 10 + [60, 40]
    results, outcomes, *_ = cohort(tmp_path, volume_ml=volume, vitality_percent=vitality)
    found = validate(results, outcomes, out=str(tmp_path / "out"))
    rows = {row["parameter"]: row for row in found["semen"]["parameters"]}
    assert rows["volume_ml"]["reason"] is None
    assert (rows["volume_ml"]["n_low"], rows["volume_ml"]["n_high"]) == (3, 3)
    assert rows["vitality_percent"]["auc"] is None
    assert "fewer than 3" in rows["vitality_percent"]["reason"]
    assert rows["vitality_percent"]["below"]["low"]["share"] is None
    assert any(caution.startswith("vitality_percent: fewer") for caution in found["cautions"])


def test_limits_of_the_who_and_what_is_below():
    """6th edition, 2021: 1.4 ml, 16 M/ml, 39 M, 42%, 30%, 54%, 4%; a man at a limit is in range."""
    assert list(SEMEN.values()) == [1.4, 16, 39, 42, 30, 54, 4]
    semen = {"normal_forms_percent": np.array([3.9, 4.0, np.nan, 1, 6, 7])}
    groups = ["low", "low", "low", "high", "high", "high"]
    found = compare_semen(semen, np.arange(6.0), groups, ("low", "high"))
    below = found["parameters"][0]["below"]
    assert (below["low"]["hits"], below["low"]["n"]) == (1, 2)
    assert (found["any_below"]["high"]["hits"], found["any_below"]["high"]["n"]) == (1, 3)
