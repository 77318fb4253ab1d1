"""Tables of cross-validated results: every cell from a known place, every row with its origin."""

import json

import numpy as np
import pytest

from fertiray.errors import InputError
from fertiray.evaluation import results
from fertiray.evaluation.metrics import SCALARS, day_rule, measure, within
from fertiray.evaluation.tables import (
    crossval_rows,
    crossval_table,
    day_table,
    interval,
    measured_rows,
    protocol_text,
)

PROTOCOL = {
    "model": "resnet50",
    "backbone": None,
    "frame": "head",
    "size": 144,
    "epochs": 24,
    "folds": 5,
    "members": 1,
    "views": "flip",
}
NAMES = ("poor", "good")


def crossvalidated(**changes):
    """40 images, 36 of them right."""
    labels = np.tile([0, 1], 20)
    p = np.where(labels[:, None] == [0, 1], 0.8, 0.2)
    p[:4] = p[:4, ::-1]
    days = ["D3"] * 20 + ["D5"] * 20
    result = {
        "n": 40,
        "protocol": PROTOCOL,
        "mean": {"accuracy": 0.9396},
        "sd": {"accuracy": 0.0457},
        "ci95": {"accuracy": [0.8829, 1.0018]},
        "pooled": measure(p, labels, NAMES, "good"),
        "within": {"day": within(days, p, labels, NAMES, "good")},
        "day_rule": {
            "pooled": day_rule(days, labels, NAMES, "good"),
            "within": within(
                days, np.eye(2)[[0] * 20 + [1] * 20], labels, NAMES, "good", resamples=50
            ),
        },
        "data_digest": "d1",
        "origin": {**results.origin(42, "d1"), "command": "fertiray crossval sperm_madrnet"},
    }
    return {**result, **changes}


def cells(table: str, line: int) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[line].strip("|").split("|")]


def test_a_row_of_folds_beside_the_paper():
    row = {
        "name": "ResNet-50",
        "reported": "sperm_madrnet/hushem/madrnet",
        "note": "keeps the last epoch",
        "result": crossvalidated(),
    }
    table = crossval_table({"rows": [row]})
    assert len(cells(table, 0)) == len(cells(table, 2)) == 8
    found = cells(table, 2)
    assert found[:3] == [
        "ResNet-50",
        "resnet50, head frame, 144 px, 24 epochs, 5 folds, 2 views",
        "40",
    ]
    assert found[3] == "94.0 ± 4.6% (88.3% to 100.0%)"
    # Wilson of 36 of 40 by hand: (37.9207 -+ 1.96 x 2.1355) / 43.8415.
    assert found[4] == "90.0% (76.9% to 96.0%)"
    assert found[5].startswith("0.900 (0.")
    assert found[7] == "96.3% ± 0.3%, F1 0.968"
    assert table.endswith("\n- ResNet-50: keeps the last epoch\n")


def test_days_apart_and_the_rule():
    row = {"name": "MS-Res", "reported": "embryo_msres/test/msres", "result": crossvalidated()}
    table = day_table({"rows": [row, {**row, "name": "again"}]})
    lines = table.splitlines()
    assert len(lines) == 5  # head, rule, two rows and one day-only row for the same images
    assert {len(cells(table, line)) for line in (0, 2, 4)} == {12}
    assert cells(table, 0)[7:11] == [
        *("D3: macro F1", "D3: ROC-AUC (95% CI)", "D5: macro F1", "D5: ROC-AUC (95% CI)"),
    ]
    found = cells(table, 2)
    assert found[7] == "0.800"  # 16 of 20 right, evenly
    assert found[9] == "1.000"
    assert found[-1] == "96.3%, F1 0.929, AUC 0.920"
    rule = cells(table, 4)
    assert rule[:4] == ["day only", "good if and only if D5", "40", ""]
    assert rule[4].startswith("50.0% (")
    assert rule[8] == "0.500 (0.500 to 0.500)"  # one day: the rule cannot rank


def test_what_is_not_known_is_a_dash():
    measured = measure([[0.9, 0.1], [0.6, 0.4]], [0, 0], NAMES, "good")
    assert interval(measured, "roc_auc") == "–"
    row = {"name": "x", "result": crossvalidated(sd={"accuracy": None}, ci95={"accuracy": None})}
    assert cells(crossval_table({"rows": [row]}), 2)[3] == "94.0%"
    row["result"]["within"] = {"day": {"D3": measured}}
    assert cells(day_table({"rows": [row]}), 2)[7:11] == ["1.000", "–", "–", "–"]


def test_protocol_in_words():
    text = protocol_text(
        {**PROTOCOL, "backbone": "resnet50", "frame": "as_is", "members": 3, "views": "dihedral"}
    )
    assert text == (
        "resnet50 (resnet50), as is, 144 px, 24 epochs, 5 folds, 8 views, 3 networks averaged"
    )
    row = {"name": "x", "protocol": "one split", "result": crossvalidated()}
    assert cells(crossval_table({"rows": [row]}), 2)[1] == "one split"
    row["protocol"] = {**PROTOCOL, "folds": 3}
    assert "3 folds" in cells(crossval_table({"rows": [row]}), 2)[1]


def test_rows_for_the_terminal():
    result = crossvalidated()
    empty = dict.fromkeys(SCALARS)
    result |= {kind: {**empty, **result[kind]} for kind in ("mean", "sd", "ci95")}
    result["mean"]["log_loss"], result["sd"]["log_loss"] = 1.2, 0.3
    result["ci95"]["log_loss"] = [-0.1, 1.5]
    rows = {name: cells for name, *cells in crossval_rows(result)}
    assert rows["accuracy"] == ["0.940 ± 0.046", "0.883 to 1.000", "0.900 (0.769 to 0.960)"]
    assert rows["log_loss"][1] == "0.000 to 1.500"
    assert rows["D5: accuracy"][2].startswith("1.000 (0.839 to 1.000)")  # Wilson of 20 of 20
    assert rows["day only: accuracy"][2].startswith("0.500 (")
    both = {"tasks": {"EXP": result, "TE": result}}
    assert {"EXP: accuracy", "TE: accuracy"} <= {row[0] for row in crossval_rows(both)}
    measured = {**result["pooled"], "split": "test", "seen_in_training": 0}
    rows = {name: cells for name, *cells in measured_rows(measured)}
    assert rows["images (test)"] == ["40", ""]
    assert rows["accuracy"] == ["0.900", "0.769 to 0.960"]


def test_rows_are_added_and_replaced_with_their_own_origin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = {"name": "A", "reported": None, "note": "", "result": crossvalidated()}
    other = crossvalidated(origin={**results.origin(7, "d2"), "command": "fertiray crossval B"})
    results.append_row("hushem", first)
    results.append_row("hushem", {**first, "name": "B", "result": other})
    place = results.append_row("hushem", {**first, "note": "newer"})
    rows = json.loads(place.read_text())["result"]["rows"]
    assert [(row["name"], row["note"]) for row in rows] == [("A", "newer"), ("B", "")]
    assert [row["origin"]["seed"] for row in rows] == [42, 7]
    assert all("origin" not in row["result"] for row in rows)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: hushem -->\n<!-- end -->\n")
    results.render_into(readme)
    text = readme.read_text()
    assert "- A: `fertiray crossval sperm_madrnet`, 20" in text
    assert "- B: `fertiray crossval B`, 20" in text
    results.render_into(readme)
    assert readme.read_text() == text
    with pytest.raises(InputError, match="no such row"):
        results.append_row("hushem", {**first, "reported": "sperm_madrnet/hushem/x"})
