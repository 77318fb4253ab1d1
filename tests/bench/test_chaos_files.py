"""Hostile files at every door, a few of them; the full number is a benchmark."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fertiray.bench.chaos import files as bench
from fertiray.bench.chaos.archives import KINDS, archive
from fertiray.bench.chaos.files import DOORS, Door, files
from fertiray.bench.chaos.mutate import MUTATORS, WEIGHTS, hostile, mutated, samples
from fertiray.data.images import CROP, decode


def test_the_same_number_is_the_same_file_and_all_kinds_occur():
    drawn = [hostile(number, seed=3) for number in range(1500)]
    assert drawn[:50] == [hostile(number, seed=3) for number in range(50)]
    assert {file.kind for file in drawn} == {*WEIGHTS}
    assert {file.source for file in drawn} > {*samples()}
    assert hostile(0, seed=4) != drawn[0]
    packed = [archive(number, seed=3) for number in range(80)]
    assert packed[:5] == [archive(number, seed=3) for number in range(5)]
    assert {one.kind for one in packed} == {*KINDS}


def test_samples_are_whole_pictures():
    for name, data in samples().items():
        assert decode(data, limits=CROP).shape == (37, 45, 3), name


@pytest.mark.parametrize("kind", MUTATORS)
def test_a_mutation_changes_most_files(kind):
    rng = random.Random(kind)
    changed = [mutated(data, rng, kind) != data for data in samples().values() for _ in range(5)]
    assert sum(changed) > 0.8 * len(changed)


def test_the_doors_that_need_no_network_stand(tmp_path, monkeypatch):
    light = {name: DOORS[name] for name in ("decode", "ingest", "unpack")}
    monkeypatch.setattr(bench, "DOORS", light)
    said = []
    found = files(tmp_path, count=400, seed=5, say=said.append)
    assert (found["crashes"], found["hangs"], found["wrong"]) == (0, 0, 0), found["faults"]
    assert found["over_memory"] == []
    assert found["files"] >= 400 * 0.97
    for door in found["doors"].values():
        assert (
            door["pictures"] + sum(door["rejects"].values()) + sum(door["answers"].values())
            == door["files"]
        )
    assert any("decode: 320/320" in line for line in said)
    json.dumps(found)
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.slow
def test_every_door_stands(tmp_path):
    found = files(tmp_path, count=2500, seed=6, say=lambda line: None)
    assert (found["crashes"], found["hangs"], found["wrong"]) == (0, 0, 0), found["faults"]
    assert found["over_memory"] == []
    assert found["doors"]["score"]["answers"].get("200", 0) > 0
    assert found["doors"]["jobs"]["files"] >= 5
    assert found["files"] >= 2500


CHILD = """
import os, sys, time
first, stop = int(sys.argv[-2]), int(sys.argv[-1])
print("open", flush=True), print("ready", flush=True)
for number in range(first, stop):
    if number == 2:
        os.abort()
    if number == 4:
        time.sleep(60)
    print('{"number": %d, "files": 1, "kinds": {"x": 1}, "pictures": 1, "rejects": {},'
          ' "answers": {}, "wrong": [], "cpu_s": 0.1, "peak_mb": 5}' % number, flush=True)
"""


def instead(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program in place of the doors."""
    program = folder / "child.py"
    program.write_text(code)
    real = subprocess.Popen

    def start(command: list[str], **options):
        return real([sys.executable, str(program), *command[3:]], **options)

    monkeypatch.setattr(bench.subprocess, "Popen", start)


def test_a_crash_and_a_hang_are_counted_and_the_rest_is_tried(tmp_path, monkeypatch):
    """A program that dies of its third file and stops at its fifth."""
    instead(CHILD, tmp_path, monkeypatch)
    monkeypatch.setattr(bench, "DOORS", {"decode": Door(1.0, 1, 3, 4)})
    monkeypatch.setattr(bench, "STOP_S", 1)
    found = files(tmp_path, count=7, say=lambda line: None)
    assert (found["crashes"], found["hangs"], found["files"]) == (1, 1, 7)
    assert found["doors"]["decode"]["pictures"] == 5
    assert [fault["number"] for fault in found["faults"]] == [2, 4]
    assert "exit code -6" in found["faults"][0]["what"]
    assert found["over_memory"] == ["decode"]


def test_a_door_that_cannot_be_opened_is_no_crash(tmp_path, monkeypatch):
    instead("raise SystemExit('no memory')", tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="decode: not opened: no memory"):
        files(Path(tmp_path), count=3, say=lambda line: None)
