"""The papers' numbers agree with themselves where they can be checked, and with this code's own."""

import pytest

from fertiray.errors import InputError
from fertiray.models.registry import MODELS
from fertiray.papers.reported import REPORTED, reported
from fertiray.scoring.verdicts import CLINICAL_THRESHOLD

SHARES = ("accuracy", "precision", "recall", "f1", "roc_auc", "sensitivity", "specificity")


def test_every_share_is_a_fraction_and_every_table_names_its_source():
    for tables in REPORTED.values():
        for table in tables.values():
            assert table.source
            assert table.protocol
            for row in table.rows.values():
                for name, value in row.items():
                    if name.removeprefix("macro_") in SHARES:
                        assert 0 < value <= 1


@pytest.mark.parametrize("name", REPORTED["embryo_msres"]["test"].rows)
def test_embryo_macro_averages_follow_from_the_counts(name):
    """FACTS, 1: macro averages. Two digits are cut or rounded, four are exact."""
    row = reported(f"embryo_msres/test/{name}")
    tp, fn, fp, tn = (row[key] for key in ("tp", "fn", "fp", "tn"))
    assert (tp + fn, fp + tn) == (12, 69)
    near = 5e-5 if name == "msres" else 0.01
    assert row["macro_precision"] == pytest.approx((tp / (tp + fp) + tn / (tn + fn)) / 2, abs=near)
    assert row["macro_recall"] == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2, abs=near)
    f1 = tp / (2 * tp + fp + fn) + tn / (2 * tn + fp + fn)
    assert row["macro_f1"] == pytest.approx(f1, abs=near)
    assert row["accuracy"] == pytest.approx((tp + tn) / 81, abs=near)


def test_macro_averages_are_the_means_of_the_classes():
    for task in ("EXP", "ICM", "TE"):
        rows = REPORTED["blastocyst_memebg"]["per_class"].rows
        f1 = [row["f1"] for name, row in rows.items() if name.startswith(task)]
        macro = reported(f"blastocyst_memebg/test/multi/{task}")["macro_f1"]
        assert macro == pytest.approx(sum(f1) / len(f1), abs=0.0051)
    rows = REPORTED["sperm_madrnet"]["hushem_per_class"].rows
    recall = sum(row["recall"] for row in rows.values()) / 4
    macro = reported("sperm_madrnet/hushem/madrnet")["macro_recall"]
    assert macro == pytest.approx(recall, abs=0.00051)
    rows = REPORTED["sperm_effnet_cbam"]["hushem_per_class"].rows
    f1 = sum(row["f1"] for row in rows.values()) / 4
    assert reported("sperm_effnet_cbam/hushem/full")["macro_f1"] == pytest.approx(f1, abs=0.00051)


def test_repeated_numbers_agree():
    madrnet = reported("sperm_madrnet/hushem/madrnet")
    for key in ("modules/hybrid_loss", "constraints/both"):
        row = reported(f"sperm_madrnet/{key}")
        assert (row["accuracy"], row["macro_f1"]) == (madrnet["accuracy"], madrnet["macro_f1"])
    assert reported("sperm_effnet_cbam/hushem/full")["accuracy"] == round(31 / 33, 4)


def test_other_parts_of_the_code_say_the_same():
    for key, model in (
        ("embryo_msres/efficiency/msres", "msres"),
        ("sperm_madrnet/efficiency/madrnet", "madrnet"),
        ("sperm_madrnet/efficiency/madrnet_eb0", "madrnet_eb0"),
    ):
        own = MODELS[model].reported_params
        assert own is not None
        assert reported(key)["params"] == round(own * 1e6)
    assert reported("embryo_msres/efficiency/msres")["gmacs"] == MODELS["msres"].reported_gmacs
    threshold = reported("zona_vgg13/patients/low_against_high")["threshold"]
    assert threshold == CLINICAL_THRESHOLD["zona"]


@pytest.mark.parametrize(
    ("key", "listed"),
    [
        ("nothing", "embryo_msres, blastocyst_memebg"),
        ("zona_vgg13/nothing/x", "test, crossval"),
        ("zona_vgg13/test/nothing", "vgg13, basic_cnn, resnet34"),
    ],
)
def test_an_unknown_key_lists_what_there_is(key, listed):
    with pytest.raises(InputError, match=f"there are {listed}"):
        reported(key)
