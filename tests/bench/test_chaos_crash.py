"""Commands that are cut off at any moment and given again come to what they had come to."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from fertiray import storage
from fertiray.__main__ import main as module_main
from fertiray.bench import material
from fertiray.bench.chaos import crash_others
from fertiray.bench.chaos.crash import compare, crash, read_run, small_shards
from fertiray.bench.chaos.crash_commands import (
    ACTOR,
    CTRL_C,
    DRIVER,
    FULL,
    MEMORY,
    RAYLET,
    WORKERS_FULL,
    Ended,
    left_over,
)
from fertiray.bench.chaos.crash_moments import (
    Course,
    Tried,
    drawn,
    figures,
    stamps,
    summary,
    wrong_end,
)
from fertiray.data import crops, extract
from fertiray.data.extract import segment_store
from fertiray.data.synthetic import synth_crops, synth_fields
from fertiray.errors import StorageError
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally
from fertiray.studies import train_paper
from fertiray.tuning.trials import Here


@pytest.fixture(autouse=True, scope="module")
def few_crops():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "DRAWN", 48)
        yield


@pytest.fixture(scope="module")
def small_store(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("small")
    return small_shards(folder / "store", material.drawn(folder / "drawn"), shards=2, rows=40)


class PowerCut(BaseException):
    """The machine stops."""


def cut_after_every_write(work, folder: Path, step: int = 1):
    """Runs ``work(out)``, cut after 0, ``step``, ... written files, then again; yields ``out``."""
    write = storage.write_bytes
    after, cut = 0, True
    while cut:
        out, left, cut = folder / f"cut-{after}", after, False

        def limited(location, data):
            nonlocal left, cut
            cut = left == 0
            if cut:
                raise PowerCut
            left -= 1
            write(location, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage, "write_bytes", limited)
            try:
                work(str(out))
            except PowerCut:
                cut = True
        if cut:
            work(str(out))
            yield out
            shutil.rmtree(out)
            after += step


def test_scoring_survives_a_power_cut_after_each_file(small_store, zona_checkpoint, tmp_path):
    def work(out):
        job = ScoringJob(small_store, (zona_checkpoint,), out, engine="eager", device="cpu")
        score(job, score_locally, workers=1)

    work(str(tmp_path / "whole"))
    whole = read_run(tmp_path / "whole")
    ids = [row["crop_id"] for row in crops.iter_rows(small_store, ["crop_id"])]
    assert (len(ids), len(whole["rejects"])) == (80, 2)  # crops 0 and 61 are corrupt
    times = 0
    for out in cut_after_every_write(work, tmp_path, step=2):
        found = compare(read_run(out), whole, ids)
        assert found == {"lost": 0, "duplicated": 0, "differing": 0}, times
        assert (out / "report.html").exists()
        times += 1
    assert times > 5  # plan, three files a shard, tables, record, report


def test_segmentation_survives_a_power_cut_after_each_file(tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "FIELDS_PER_PART", 2)
    fields = tmp_path / "fields"
    synth_fields(fields, patients=2, crops=4, heads_per_field=2, size=(192, 160), scale=7, seed=3)
    work = partial(segment_store, str(fields), head_length=33)
    work(str(tmp_path / "whole"))
    whole = crash_others._contents(tmp_path / "whole")
    assert len([name for name in whole if name.startswith("part-")]) == 2
    cut = [crash_others._contents(out) == whole for out in cut_after_every_write(work, tmp_path)]
    assert len(cut) >= 4
    assert all(cut)


@pytest.mark.slow
def test_training_survives_a_power_cut_after_each_file(tmp_path):
    data = str(tmp_path / "data")
    synth_crops(tmp_path / "data", patients=6, crops=8, seed=1, fractions=0.5)
    settings = ["epochs=2", "batch_size=8", "preprocessing.size=32"]
    histories = []

    def work(out):
        histories.append(train_paper("zona_vgg13", "basic_cnn", settings, data, out)["history"])

    work(str(tmp_path / "whole"))
    times = 0
    for out in cut_after_every_write(work, tmp_path):
        assert histories[-1] == histories[0]
        assert crash_others._same_weights(out, tmp_path / "whole")
        times += 1
    assert times >= 8  # two files an epoch, split, weights, card and description


def test_a_comparison_sees_what_is_lost_doubled_and_different():
    whole = {
        "scores": pl.DataFrame({"crop_id": ["a", "b", "c"], "p": [0.1, 0.2, 0.3]}),
        "rejects": pl.DataFrame({"crop_id": ["d"], "error": ["corrupt"]}),
        "patients": pl.DataFrame({"patient_id": ["P"], "n": [3]}),
    }
    assert compare(whole, whole, "abcd") == {"lost": 0, "duplicated": 0, "differing": 0}
    other = {
        "scores": pl.DataFrame({"crop_id": ["a", "b", "b"], "p": [0.1, 0.2, 0.9]}),
        "rejects": pl.DataFrame({"crop_id": ["d", "a"], "error": ["corrupt", "corrupt"]}),
    }
    # c is lost, a and b are there twice; two scores, a reject and the patient differ.
    assert compare(other, whole, "abcd") == {"lost": 1, "duplicated": 2, "differing": 1 + 1 + 1}
    assert compare({}, whole, "abcd") == {"lost": 4, "duplicated": 0, "differing": 3 + 1 + 1}


def test_moments_lie_along_the_undisturbed_run():
    course, rng = Course(units=10, first=4.0, last=13.0, end=15.0), np.random.default_rng(0)
    moments = [drawn(rng, course, working=False) for _ in range(400)]
    before = [then for units, then in moments if units == 0]
    within = [(units, then) for units, then in moments if 0 < units < 10]
    after = [then for units, then in moments if units == 10]
    assert max(before) < 4.0
    assert {units for units, _ in within} == {*range(1, 10)}
    assert max(then for _, then in within) < 1.0  # a unit takes a second
    assert max(after) < 2.0
    assert all(number > 30 for number in map(len, (before, within, after)))
    assert all(0 < drawn(rng, course, working=True)[0] < 10 for _ in range(50))


@pytest.mark.parametrize(
    ("kind", "code", "said", "found"),
    [
        (DRIVER, -9, "", None),
        (CTRL_C, 130, "\nfertiray: interrupted; the same command goes on\n", None),
        (CTRL_C, 130, "Traceback (most recent call last):\nfertiray: interrupted", "exit code 130"),
        (CTRL_C, -2, "KeyboardInterrupt\n", "exit code -2: KeyboardInterrupt"),
        (FULL, 2, "scoring: 1/2\nfertiray: run/scores: no space left; free some", None),
        (FULL, 1, "OSError: [Errno 28]", "exit code 1"),
        (WORKERS_FULL, 2, "scoring: 1/2\nfertiray: run/scores: no space left; free some", None),
        (WORKERS_FULL, 0, "", None),
        (FULL, 0, "", None),  # nothing was left to write
        (ACTOR, 1, "RayActorError", "exit code 1"),
        (RAYLET, 1, "", None),  # Ray ends its driver
        (MEMORY, -9, "", None),  # it chose the command itself
        (MEMORY, 1, "", "exit code 1"),
        (DRIVER, None, "", "hung"),
    ],
)
def test_how_a_command_must_end(kind, code, said, found):
    wrong = wrong_end(kind, Ended(code, said, None, 1.0))
    assert (wrong is None) == (found is None)
    assert found is None or wrong.startswith(found)


def test_figures_are_summed_by_kind(tmp_path):
    for name in ("a", "b", ".c"):
        (tmp_path / f"{name}.json").write_text(name)
    before = stamps(tmp_path, "*.json")
    assert len(before) == 2
    (tmp_path / "a.json").unlink()
    (tmp_path / "a.json").write_text("a")
    os.utime(tmp_path / "a.json", ns=(1, 1))
    ended = Ended(-9, "", None, 1.0, ("raylet",))
    again = [Ended(0, "", {}, seconds) for seconds in (3.0, 5.0)]
    first = Tried(DRIVER, True, ended, again[0], before, stamps(tmp_path, "*.json"))
    assert first.recomputed == 1
    second = Tried(CTRL_C, True, ended, again[1], before, before)
    third = Tried(CTRL_C, False, again[0], again[0], {}, {})
    lines = [
        figures(own, "here", lost=2, recomputed=own.recomputed, beyond=0)
        for own in (first, second, third)
    ]
    values = summary(lines)
    assert (values["moments"], values["kills"], values["finished"], values["lost"]) == (3, 2, 3, 6)
    assert (values["orphans"], values["most_recomputed"], values["seconds_to_finish"]) == (2, 1, 4)
    assert values["kinds"]["Ctrl-C, here"]["kills"] == 1
    assert values["wrong_ends"] == [
        "left behind: raylet",
        "exit code -9: ",
        "left behind: raylet",
    ]
    assert json.loads(json.dumps(values)) == values


NAPS = """
import sys, time
from fertiray.processes import Workers

def nap(seconds):
    print("at work", flush=True)
    time.sleep(seconds)
    print("woke", flush=True)

if __name__ == "__main__":
    with Workers(2, int) as pool:
        for done in [pool.submit(nap, float(sys.argv[1])) for _ in range(20)]:
            done.result()
"""


def napping(folder: Path, seconds: float) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    (folder / "naps.py").write_text(NAPS)
    process = subprocess.Popen(
        [sys.executable, str(folder / "naps.py"), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert [process.stdout.readline() for _ in range(2)] == ["at work\n"] * 2
    return process, psutil.Process(process.pid).children(recursive=True)


def test_worker_processes_end_with_a_command_that_is_killed(tmp_path):
    process, children = napping(tmp_path, 600)
    process.kill()
    process.wait()
    left = left_over(children)
    for own in left:
        own.kill()
    assert len(children) >= 2
    assert left == []


def test_ctrl_c_is_the_commands_and_drops_what_is_not_begun(tmp_path):
    process, children = napping(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)
    more, said = process.communicate(timeout=120)
    assert said.count("Traceback") == 1  # the script's own
    assert "SpawnProcess" not in said
    begun = 2 + more.count("at work")
    assert begun < 8  # what the pool had handed out already
    assert more.count("woke") == begun  # and that is finished
    assert left_over(children) == []


def test_ctrl_c_while_the_command_is_read_is_one_line_too(monkeypatch, capsys):
    class Interrupted:
        def find_spec(self, name, path=None, target=None):
            if name == "fertiray.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "fertiray.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        module_main()
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert said == "fertiray: interrupted before it began; give the same command\n"


def test_a_full_disk_ends_a_study_and_not_only_a_trial():
    class OntoAFullDisk:
        settings = None

        def run(self, view, *, device):
            raise StorageError("cells/fold-1.json: no room to write")

    ended = []
    with pytest.raises(StorageError, match="no room"):
        Here().trials([OntoAFullDisk()] * 2, lambda settings: None, ended.append)
    assert ended == []


def test_a_disk_that_fills_up_ends_a_training_at_its_events(tmp_path):
    code = f"""
import resource
from fertiray.errors import InputError, StorageError
from fertiray.training.logs import EpochLog
log = EpochLog(9, {str(tmp_path / "tensorboard")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
terms = {{f"training_{{number}}": 0.5 for number in range(20)}}
try:
    log(dict(epoch=1, training_loss=0.5, seconds=1.0, **terms))
except InputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert "tensorboard: cannot be written (File too large); free space" in done.stdout


def sound(values) -> None:
    assert values["finished"] == values["moments"]
    for name in ("lost", "duplicated", "differing", "hangs", "orphans", "most_beyond"):
        assert values.get(name, 0) == 0, name
    assert values["wrong_ends"] == []


def test_scoring_that_is_killed_finishes(zona_checkpoint, tmp_path):
    said = []
    values = crash(
        tmp_path, moments=1, seed=5, on_ray=False, given=zona_checkpoint, shards=12, rows=16,
        say=said.append,
    )  # fmt: skip
    sound(values)
    assert values["most_recomputed"] == 0
    assert [*values["kinds"]] == ["driver killed, one process"]
    assert len(said) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_scoring_on_ray_that_is_killed_finishes(zona_checkpoint, tmp_path):
    values = crash(tmp_path, moments=8, seed=2, given=zona_checkpoint, say=print)
    sound(values)
    assert len(values["kinds"]) == 8


@pytest.mark.slow
def test_scoring_onto_a_disk_that_is_really_full(small_store, zona_checkpoint, tmp_path):
    """On a file system of 100 kB, in a mount namespace."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    mount = "mount -t tmpfs -o size=100k tmpfs"
    probe = ["unshare", "--map-root-user", "--mount", "sh", "-c", f"{mount} {disk}"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("no mount namespace may be made here")
    score_ = f"{sys.executable} -m fertiray score {small_store} --checkpoint {zona_checkpoint}"
    score_ += f" --out {disk}/run --local --engine eager --device cpu"
    script = (
        f"{mount} {disk}; {score_}; echo first $?; mount -o remount,size=100m {disk}; {score_};"
        f" echo again $?; cp -r {disk}/run {kept}"
    )
    done = subprocess.run([*probe[:-1], script], capture_output=True, text=True)
    assert "first 2" in done.stdout
    assert "again 0" in done.stdout
    assert "no room to write (No space left on device); free space there" in done.stderr
    assert "Traceback" not in done.stderr
    job = ScoringJob(small_store, (zona_checkpoint,), str(tmp_path / "whole"), engine="eager")
    score(job, score_locally, workers=2)
    ids = [row["crop_id"] for row in crops.iter_rows(small_store, ["crop_id"])]
    found = compare(read_run(kept), read_run(tmp_path / "whole"), ids)
    assert found == {"lost": 0, "duplicated": 0, "differing": 0}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["training", "segmentation", "tuning"])
def test_the_other_commands_that_are_killed_finish(name, tmp_path):
    values = getattr(crash_others, name)(tmp_path, moments=3, seed=3, say=print)
    sound(values)
