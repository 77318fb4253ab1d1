"""A paper's tables with ours beside them: every number comes from a file or from reported.py."""

import json
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint

from fertiray.errors import InputError
from fertiray.evaluation.paper_report import as_markdown, paper_report, write
from fertiray.papers.reported import REPORTED, row_of_task

RECORDS = Path(__file__).parents[2] / "dashboards" / "results"


def table(report, name):
    (found,) = (table for table in report["tables"] if table["table"] == name)
    return found


def cells(found, row, whose="paper"):
    (line,) = (x for x in found["lines"] if x["row"] == row and x["whose"].startswith(whose))
    return line["cells"]


@pytest.mark.parametrize("paper", REPORTED)
def test_every_row_of_every_paper_is_there(paper, tmp_path):
    report = paper_report(paper, tmp_path)
    for name, reported in REPORTED[paper].items():
        found = table(report, name)
        theirs = [line["row"] for line in found["lines"] if line["whose"] == "paper"]
        assert theirs == list(reported.rows)
    text = as_markdown(report)
    assert "None" not in text
    assert "nan" not in text
    assert write(report, str(tmp_path / "page.html")).endswith("page.html")
    assert "<script" not in (tmp_path / "page.html").read_text()


def test_an_accuracy_on_33_images_carries_its_interval():
    """31 of 33 is the paper's 93.94%; Wilson's interval by statsmodels."""
    found = table(paper_report("sperm_effnet_cbam"), "hushem")
    low, high = proportion_confint(31, 33, method="wilson")
    text = cells(found, "full")["accuracy"]
    assert text == f"0.939 (n = 33: {low:.3f} to {high:.3f})"
    assert any("One image of the paper's 33 is 3 points" in note for note in found["footnotes"])


def test_what_cannot_be_had_is_said(tmp_path):
    for paper, name in (("zona_vgg13", "patients"), ("blastocyst_memebg", "test")):
        notes = table(paper_report(paper, tmp_path), name)["footnotes"]
        assert any(note.startswith("No row of ours: no ") for note in notes)
    notes = table(paper_report("sperm_madrnet", tmp_path), "smids")["footnotes"]
    assert notes[-1] == "No row of ours is on record."


def test_ours_are_the_numbers_of_the_record():
    row = next(
        row
        for row in json.loads((RECORDS / "hushem.json").read_text())["result"]["rows"]
        if row["reported"] == "sperm_madrnet/hushem/madrnet"
    )
    found = table(paper_report("sperm_madrnet", RECORDS), "hushem")
    own = cells(found, "madrnet", row["name"])
    pooled = row["result"]["pooled"]
    assert own["macro_f1"].startswith(f"{pooled['macro_f1']:.3f} (")
    assert f"folds {row['result']['mean']['accuracy']:.3f} ±" in own["accuracy"]
    note = next(note for note in found["footnotes"] if note.startswith(row["name"]))
    config = row["result"]["config"]
    assert f"epochs {config['epochs']} for 400" in note
    assert f"preprocessing.size {config['preprocessing']['size']} for 512" in note
    classes = table(paper_report("sperm_madrnet", RECORDS), "hushem_per_class")
    recall = pooled["per_class"][0]["recall"]
    name = pooled["per_class"][0]["class"]
    assert cells(classes, name, row["name"])["recall"].startswith(f"{recall:.3f} (")


def test_a_row_that_began_from_another_network_says_so():
    rows = json.loads((RECORDS / "hushem.json").read_text())["result"]["rows"]
    began = {row["name"]: row["result"]["config"]["initial"] for row in rows}
    notes = table(paper_report("sperm_madrnet", RECORDS), "hushem")["footnotes"]
    told = {note.partition(":")[0]: note for note in notes if note.partition(":")[0] in began}
    assert began["resnet50_smids"] == "runs/smids_frame"
    assert {"resnet50_smids", "resnet50_frame"} <= set(told)
    for name, note in told.items():
        assert (f"initial {began[name]} for none" in note) == (began[name] is not None)
        assert ("initial" in note) == (began[name] is not None)


STUDY = RECORDS / "tune_sperm_effnet_cbam_hushem_lite0.json"


def test_a_study_s_cells_stand_beside_the_paper_s_ablation():
    found = table(paper_report("sperm_effnet_cbam", RECORDS), "hushem")
    study = json.loads(STUDY.read_text())["result"]
    beside = ("simple_cnn", "efficientnet_b0", "cbam", "freeze", "full")
    for row, cell in zip(beside, study["cells"], strict=True):
        own = cells(found, row, f"{cell['cell']} [")
        part = cell["tasks"]["class"]
        assert own["macro_f1"].startswith(f"{part['pooled']['macro_f1']:.3f} (")
        accuracy = part["metrics"]["accuracy"]
        assert f"; folds {accuracy['mean']:.3f} ± {accuracy['sd']:.3f} (" in own["accuracy"]
    note = next(note for note in found["footnotes"] if note.startswith("+ CBAM: n = 216, 5 folds"))
    assert "epochs 50 for 100, batch_size 16 for 32, frame head for as_is" in note
    assert "model_args backbone=tf_efficientnet_lite0 for none" in note


def test_a_recipe_that_is_no_longer_that_of_the_record_is_not_claimed(tmp_path):
    content = json.loads(STUDY.read_text())
    for trial in content["result"]["trials"]:
        if trial["cell"] == "+ CBAM":
            trial["config_digest"] = "another"
    content["result"]["cells"][0]["settings"] = ["no_such_setting=1"]
    (tmp_path / STUDY.name).write_text(json.dumps(content))
    search = {"result": {"paper": "sperm_effnet_cbam", "search": "lite0", "trials": []}}
    (tmp_path / "tune_sperm_effnet_cbam_lite0.json").write_text(json.dumps(search))
    notes = table(paper_report("sperm_effnet_cbam", tmp_path), "hushem")["footnotes"]
    by_name = {note.partition(":")[0]: note for note in notes}
    for name in ("+ CBAM", "SimpleCNN"):
        assert by_name[name].endswith("; its recipe is declared otherwise by now.")
    assert "differs from the paper's recipe in" in by_name["+ freeze, unfreeze"]


def test_several_tasks_stand_beside_their_own_rows(tmp_path):
    """A row of a network for three grades is about the task that its key ends in."""
    (row,) = (
        row
        for row in json.loads((RECORDS / "hushem.json").read_text())["result"]["rows"]
        if row["name"] == "resnet50_frame"
    )
    part = {key: row["result"][key] for key in ("pooled", "mean", "sd", "ci95")}
    other = {**part, "pooled": {**part["pooled"], "macro_f1": 0.123}}
    row["result"]["tasks"] = {"EXP": part, "TE": other}
    row["reported"] = "blastocyst_memebg/test/multi/TE"
    (tmp_path / "grades.json").write_text(json.dumps({"result": {"rows": [row]}}))
    found = table(paper_report("blastocyst_memebg", tmp_path), "test")
    assert cells(found, "multi/TE", "resnet50_frame")["macro_f1"].startswith("0.123 (")
    assert row_of_task("blastocyst_memebg/test/multi", "ICM").endswith("multi/ICM")
    assert row_of_task("sperm_madrnet/hushem/madrnet", "class") == "sperm_madrnet/hushem/madrnet"


def test_counts_of_our_networks_stand_beside_the_papers():
    """FACTS: 2,244,616 exactly."""
    found = table(paper_report("embryo_msres"), "efficiency")
    assert cells(found, "msres")["params"] == "2,244,616"
    assert cells(found, "msres", "this code")["params"] == "2,244,616"


def test_wrong_names_and_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match="choose one of: embryo_msres"):
        paper_report("msres")
    with pytest.raises(InputError, match=r"neither \.md nor \.html"):
        write(paper_report("zona_vgg13", tmp_path), str(tmp_path / "page.pdf"))
