"""A recipe as a file: strict, and the same after it was read."""

import json

import pytest

from fertiray.cli import main
from fertiray.errors import InputError
from fertiray.papers import PAPERS
from fertiray.studies import recipe
from fertiray.tuning.config_file import read_config, with_config, write_config

RECIPES = [(paper, model) for paper in PAPERS.values() for model in paper.models]


@pytest.mark.parametrize(("paper", "model"), RECIPES, ids=lambda v: getattr(v, "name", v))
def test_every_recipe_comes_back(paper, model, tmp_path):
    place = str(tmp_path / "recipe.json")
    write_config(place, paper.models[model])
    assert read_config(place) == paper.models[model]
    # On top of the paper's default recipe, whatever that is.
    assert recipe(paper.name, None, with_config(place, None, None))[1] == paper.models[model]


def test_settings_come_after_the_file(tmp_path):
    place = str(tmp_path / "recipe.json")
    write_config(place, PAPERS["zona_vgg13"].models["basic_cnn"])
    _, found = recipe("zona_vgg13", None, with_config(place, None, ["lr=0.5"]))
    assert (found.model, found.lr) == ("basic_cnn", 0.5)
    assert with_config(None, "basic_cnn", ["lr=1"]) == ["lr=1"]
    assert with_config(None, None, None) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "must hold a JSON object"),
        (b"\xff\xfe", "not readable as JSON"),
        ("{}", "Field required"),
        ({"lr": "fast"}, "lr: Input should be a valid number"),
        ({"lrr": 1}, "unknown key 'lrr'; valid keys: model,"),
        ({"loss": {"gama": 2}}, "loss: unknown key 'gama'"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, message):
    place = tmp_path / "recipe.json"
    if isinstance(text, dict):
        write_config(str(place), PAPERS["zona_vgg13"].models["basic_cnn"])
        text = json.dumps(json.loads(place.read_text()) | text)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        read_config(str(place))
    assert str(caught.value).startswith(str(place))
    assert "\n" not in str(caught.value)


def test_a_file_and_a_name_exclude_each_other(tmp_path, capfd):
    place = str(tmp_path / "recipe.json")
    write_config(place, PAPERS["zona_vgg13"].models["basic_cnn"])
    with pytest.raises(InputError, match="leave out --model vgg13"):
        with_config(place, "vgg13", None)
    with pytest.raises(SystemExit) as left:
        main(["crossval", "zona_vgg13", "--data", "d", "--config", "/nowhere/best.json"])
    assert left.value.code == 2
    assert "/nowhere/best.json: no such file" in capfd.readouterr().err
