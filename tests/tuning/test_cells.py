"""What the papers declare: every cell is a recipe, every space has ends that fit."""

import json

import pytest
import torch

from fertiray import config
from fertiray.errors import InputError
from fertiray.models.registry import build_model
from fertiray.papers import PAPERS
from fertiray.papers.reported import REPORTED, reported
from fertiray.training.config import TrainConfig
from fertiray.tuning.cells import Between, OneOf, Space
from fertiray.tuning.trials import cell_settings, untrained

GRIDS = [(paper, grid) for paper in PAPERS.values() for grid in paper.grids]
SPACES = [(paper, space) for paper in PAPERS.values() for space in paper.spaces]


def test_every_paper_has_a_grid_and_a_space():
    assert {paper.name for paper, _ in GRIDS} == {paper.name for paper, _ in SPACES} == {*PAPERS}


@pytest.mark.parametrize(("paper", "name"), GRIDS, ids=lambda value: getattr(value, "name", value))
def test_every_cell_is_a_network_of_its_own(paper, name):
    grid = paper.grids[name]
    recipes = [cell_settings(paper, cell, [], from_scratch=True) for cell in grid.cells]
    assert len({config.digest(recipe) for recipe in recipes}) == len(recipes)
    assert len({cell.name for cell in grid.cells}) == len(recipes)
    tasks = {task: len(classes) for task, classes in paper.known.items()}
    with torch.device("meta"):
        for recipe in recipes:
            args = dict(recipe.model_args)
            if recipe.model == "memebg":
                args["tasks"] = tasks
            seen = recipe.preprocessing
            build_model(recipe.model, 2, in_channels=seen.channels, size=seen.size, args=args)


@pytest.mark.parametrize(("paper", "name"), GRIDS, ids=lambda value: getattr(value, "name", value))
def test_reported_rows_exist(paper, name):
    for cell in paper.grids[name].cells:
        if cell.reported is None:
            continue
        key, table, row = cell.reported.split("/", 2)
        rows = REPORTED[key][table].rows
        tasks = [f"{row}/{task}" for task in paper.known if f"{row}/{task}" in rows]
        assert key == paper.name
        assert all(reported(f"{key}/{table}/{own}") for own in tasks or [row])


def test_the_papers_ablations_are_all_there():
    """Table 3 of MS-Res; Tables 1 and 3 of EfficientNet-CBAM; IV, V and Fig. 10 of MADRNet; S4."""
    names = {
        paper.name: {name: [cell.name for cell in grid.cells] for name, grid in paper.grids.items()}
        for paper in PAPERS.values()
    }
    assert names["embryo_msres"]["ablation"] == ["A1", "A2", "A3", "A4", "proposed"]
    assert len(names["embryo_msres"]["stages"]) == 4
    assert len(names["sperm_effnet_cbam"]["hushem"]) == 5
    assert len(names["sperm_madrnet"]["modules"]) == len(names["sperm_madrnet"]["constraints"]) == 4
    rates = [
        cell_settings(PAPERS["zona_vgg13"], cell, [], from_scratch=False).lr
        for cell in PAPERS["zona_vgg13"].grids["lr"].cells
    ]
    assert rates == [1e-4, 1e-3, 1e-2, 1e-1]
    passes = [
        cell_settings(PAPERS["sperm_madrnet"], cell, [], from_scratch=False).model_args["n"]
        for cell in PAPERS["sperm_madrnet"].grids["passes"].cells
    ]
    assert passes == [*range(7)]


@pytest.mark.parametrize(("paper", "name"), SPACES, ids=lambda value: getattr(value, "name", value))
def test_the_ends_of_every_space_fit_the_recipe(paper, name):
    space = paper.spaces[name]
    recipe = paper.config(space.model)
    assert recipe.epochs > 1
    for share in (0.0, 0.5, 0.999999):
        drawn = {key: domain.at(share) for key, domain in space.domains.items()}
        changes = [f"{key}={json.dumps(value)}" for key, value in drawn.items()]
        assert isinstance(config.override(recipe, changes), TrainConfig)


def test_between_and_one_of():
    assert [Between(0.0, 4.0).at(share) for share in (0.0, 0.25, 0.5)] == [0.0, 1.0, 2.0]
    # Half of 1e-4 to 1e-2 on a logarithmic scale is 1e-3.
    assert [Between(1e-4, 1e-2, log=True).at(share) for share in (0.0, 0.5)] == [1e-4, 1e-3]
    assert [OneOf((4, 8, 16)).at(share) for share in (0.0, 0.34, 0.999999)] == [4, 8, 16]


def test_a_draw_depends_on_its_number_and_the_seed_alone():
    space = Space("", "m", {"lr": Between(1e-5, 1e-1, log=True), "batch_size": OneOf((4, 8, 16))})
    draws = [space.draw(number, 1) for number in range(50)]
    assert draws[7] == space.draw(7, 1) != space.draw(7, 2)
    assert len({draw["lr"] for draw in draws}) == 50
    assert {draw["batch_size"] for draw in draws} == {4, 8, 16}
    assert min(draw["lr"] for draw in draws) < 1e-4 < 1e-2 < max(draw["lr"] for draw in draws)
    assert space.mode == "min"
    assert Space("", "m", {}, metric="validation_macro_f1").mode == "max"


def test_a_cells_own_settings_have_the_last_word():
    paper = PAPERS["zona_vgg13"]
    cell = paper.grids["lr"].cells[0]
    recipe = cell_settings(paper, cell, ["lr=5", "epochs=3"], from_scratch=False)
    assert (recipe.lr, recipe.epochs) == (1e-4, 3)
    with pytest.raises(InputError, match="unknown key 'epocs'"):
        cell_settings(paper, cell, ["epocs=3"], from_scratch=False)


def test_from_scratch_is_for_networks_that_start_from_weights():
    paper = PAPERS["sperm_effnet_cbam"]
    assert untrained(paper.config("cbam")).model_args == {"pretrained": False}
    assert untrained(paper.config("simple_cnn")) == paper.config("simple_cnn")
