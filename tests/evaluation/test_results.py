"""Results of record carry their origin, and README's tables come from them."""

import json
import re
from pathlib import Path

import pytest

from fertiray.errors import InputError
from fertiray.evaluation import results

ROOT = Path(__file__).resolve().parents[2]

DEMO = {
    "patients": [
        {
            "patient_id": "P001",
            "n_scored": 600,
            "truth_bound_fraction": 0.02,
            "fraction": 0.065,
            "prevalence": 0.017,
            "prevalence_ci_low": 0.0,
            "prevalence_ci_high": 0.048,
            "verdict": "consider ICSI",
        }
    ]
}


def test_a_record_names_its_origin_and_is_rendered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = results.record("demo", DEMO, seed=3, data_digest="abc")
    origin = json.loads(place.read_text())["origin"]
    assert (origin["seed"], origin["data_digest"]) == (3, "abc")
    assert {"command", "versions", "machine", "commit", "date"} <= set(origin)
    readme = tmp_path / "README.md"
    readme.write_text("# A\n<!-- results: demo -->\nold\n<!-- end -->\nkept\n")
    assert results.render_into(readme)["tables"] == ["demo"]
    text = readme.read_text()
    assert "old" not in text
    assert "kept" in text
    assert "| P001 | 600 | 2.0% | 6.5% | 1.7% (0.0% to 4.8%) | consider ICSI |" in text
    assert results.render_into(readme)["tables"] == ["demo"]
    assert readme.read_text() == text


def test_an_unknown_or_absent_result_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: nothing -->\n<!-- end -->")
    with pytest.raises(InputError, match="nothing: unknown table"):
        results.render_into(readme)
    readme.write_text("<!-- results: demo -->\n<!-- end -->")
    with pytest.raises(InputError, match="no such result"):
        results.render_into(readme)


def test_the_readme_says_what_the_results_say():
    """No table was typed or forgotten: rendering README again changes nothing."""
    text = (ROOT / "README.md").read_text()
    names = re.findall(r"<!-- results: (\w+) -->", text)
    assert names
    for name in names:
        block = re.search(rf"<!-- results: {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        assert block is not None
        assert block[1] == results.render(name, ROOT / results.FOLDER)
