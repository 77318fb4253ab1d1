"""Trials of a search: stopped, refused, interrupted and gone on with, in one process."""

import dataclasses
import json

import pytest

from fertiray.errors import InputError
from fertiray.training import fit as fit_module
from fertiray.tuning.cells import Cell, Space
from fertiray.tuning.search import Record, Search, state_folder
from fertiray.tuning.searching import run_search
from fertiray.tuning.trials import cell_settings
from fertiray.tuning.views import Views

from .conftest import QUICK

PARAMETERS = {"lr": 0.01, "batch_size": 8}


@pytest.fixture
def search(paper, heads, tmp_path) -> Search:
    space = paper.spaces["toy"]
    base = cell_settings(paper, Cell("toy", space.model), [*QUICK, "epochs=3"], from_scratch=False)
    return Search(
        "zona_vgg13", space, base, view_of(paper, heads, base).crops.digest, str(tmp_path)
    )


def view_of(paper, heads, base):
    return Views(paper, heads, None, aspects=False)(base)


@pytest.fixture(scope="session")
def view(paper, heads):
    space = paper.spaces["toy"]
    base = cell_settings(paper, Cell("toy", space.model), [*QUICK], from_scratch=False)
    return view_of(paper, heads, base)


def lines(record: Record) -> list[float]:
    return [line["epoch"] for line in record.lines]


def test_a_trial_reports_its_best_value_and_leaves_its_epochs(search, view):
    said = []
    search.run(PARAMETERS, view, said.append)
    record = search.open(PARAMETERS)
    assert (record.status, lines(record)) == ("finished", [1, 2, 3])
    losses = [line["validation_loss"] for line in record.lines]
    assert said == [{"epoch": epoch, "value": min(losses[:epoch])} for epoch in (1, 2, 3)]
    assert not state_exists(record)
    # The validation part of the recipe's own split, never its test part.
    assert search.records() == [record]


def state_exists(record: Record) -> bool:
    from fertiray import storage

    return storage.exists(state_folder(record))


def test_a_finished_trial_only_tells_again(search, view, monkeypatch):
    first, again = [], []
    search.run(PARAMETERS, view, first.append)
    monkeypatch.setattr(fit_module._Training, "run", None)
    search.run(PARAMETERS, view, again.append)
    assert again == first


def stop_after(epochs, said):
    def report(values):
        said.append(values)
        if values["epoch"] == epochs:
            raise SystemExit  # as Tune ends a trial

    return report


def test_an_interrupted_trial_goes_on_where_it_stopped(search, view):
    whole, said, later = [], [], []
    other = dataclasses.replace(search, folder=search.folder + "/whole")
    other.run(PARAMETERS, view, whole.append)
    with pytest.raises(SystemExit):
        search.run(PARAMETERS, view, stop_after(1, said))
    record = search.open(PARAMETERS)
    assert (record.status, lines(record)) == ("running", [1])
    assert state_exists(record)
    search.run(PARAMETERS, view, later.append)
    assert [values["epoch"] for values in later] == [1, 2, 3]
    assert later == whole  # bit for bit
    record = search.open(PARAMETERS)
    assert (record.status, lines(record)) == ("finished", [1, 2, 3])


def test_a_state_that_is_one_epoch_ahead_or_lost(search, view):
    """A process that dies between keeping the state and writing the record; a lost disk."""
    with pytest.raises(SystemExit):
        search.run(PARAMETERS, view, stop_after(2, []))
    record = search.open(PARAMETERS)
    record.lines = record.lines[:1]
    record.write("running")
    said = []
    search.run(PARAMETERS, view, said.append)
    assert [values["epoch"] for values in said] == [1, 3]
    assert search.open(PARAMETERS).status == "finished"

    lost = {"lr": 0.02, "batch_size": 8}
    with pytest.raises(SystemExit):
        search.run(lost, view, stop_after(2, []))
    from fertiray import storage

    storage.remove(state_folder(search.open(lost)))
    said.clear()
    search.run(lost, view, said.append)
    assert [values["epoch"] for values in said] == [1, 2, 3]
    assert lines(search.open(lost)) == [1, 2, 3]


def test_what_cannot_be_trained_is_refused_with_the_worst_value(search, view):
    said, again = [], []
    search.run({"lr": 1e30, "batch_size": 8}, view, said.append)
    record = search.open({"lr": 1e30, "batch_size": 8})
    assert record.status == "refused"
    assert "the loss is not a finite number" in str(record.error)
    assert said == [{"epoch": 1, "value": float("inf")}]
    search.run({"lr": 1e30, "batch_size": 8}, view, again.append)
    assert again == said


def test_values_follow_the_epoch_that_is_kept(search):
    found = [{"validation_loss": loss, "validation_macro_f1": f1} for loss, f1 in
             ((0.5, 0.1), (0.3, 0.9), (0.4, 0.8))]  # fmt: skip
    assert search.value([]) is None
    assert search.value(found) == 0.3
    best = dataclasses.replace(search.space, metric="validation_macro_f1")
    assert dataclasses.replace(search, space=best).value(found) == 0.9
    last = dataclasses.replace(search.base, keep="last")
    assert dataclasses.replace(search, base=last).value(found) == 0.4


def test_records_are_of_this_search_alone(search, view):
    search.run(PARAMETERS, view, lambda values: None)
    longer = dataclasses.replace(search, base=dataclasses.replace(search.base, epochs=9))
    assert longer.records() == []
    other = Space("", "basic_cnn", {"lr": search.space.domains["lr"]})
    assert dataclasses.replace(search, space=other).records() == []


def in_turn(search, view, *, trials, seed, algorithm, report):
    """A searcher that knows no Ray and stops every other trial after an epoch."""
    for number in range(trials):
        said = []
        try:
            stop = stop_after(1 if number % 2 else 0, said)
            search.run(search.space.draw(number, seed), view, stop)
        except SystemExit:
            pass
        report(None)
    return {}


def test_a_search_from_its_declaration_to_the_best_recipe(paper, heads, tmp_path):
    def study(trials):
        said = []
        values = run_search(
            paper, "toy", heads, str(tmp_path), in_turn, settings=QUICK, trials=trials,
            report=lambda *now: said.append(now),
        )  # fmt: skip
        return values, said

    values, said = study(4)
    assert said == [(done, 4, None) for done in (1, 2, 3, 4)]
    assert (values["ran"], values["kept"], values["failed"]) == (4, 0, 0)
    status = {row["number"]: (row["status"], row["epochs"]) for row in values["trials"]}
    assert sorted(status.values()) == [("finished", 2)] * 2 + [("stopped", 1)] * 2
    assert [row["value"] for row in values["trials"]] == sorted(
        row["value"] for row in values["trials"]
    )
    finished = [row["value"] for row in values["trials"] if row["status"] == "finished"]
    assert values["best"]["value"] == min(finished)
    recipe = json.loads((tmp_path / "toy" / "best.json").read_text())
    assert recipe["lr"] == values["best"]["parameters"]["lr"]
    assert (tmp_path / "toy" / "figures" / "parallel.svg").is_file()
    assert not [place for place in (tmp_path / "toy" / "records").iterdir() if place.is_dir()]
    assert study(4)[0]["ran"] == 0
    assert study(5)[0]["ran"] == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none", {}, "--search none: zona_vgg13 has no such space; choose one of: toy"),
        ("toy", {"trials": 0}, "--trials 0"),
        ("toy", {"settings": ["epocs=1"]}, "unknown key 'epocs'"),
    ],
)
def test_refused_before_anything_runs(paper, heads, tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        run_search(paper, name, heads, str(tmp_path), in_turn, **options)
