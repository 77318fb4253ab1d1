"""What jobs have measured is remembered, and interactive requests follow it."""

import asyncio
import json

import numpy as np
import pytest

from fertiray.data.images import encode_png
from fertiray.scoring.engine import AUTO, EAGER, Choice
from fertiray.serving.catalogue import served
from fertiray.serving.engines import Remembered, Settled
from fertiray.serving.interactive import Networks
from fertiray.serving.settings import Settings

CROP = encode_png(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "engines.json"


def test_a_model_is_measured_once_and_interactive_requests_take_what_was_found(
    zona_checkpoint, file
):
    asked = []

    def choose(folders, engine, device, crops):
        asked.append((len(folders), len(crops)))
        tried = ({"engine": "bf16", "passed": True},) if len(crops) > 1 else ()
        return tuple(Choice("bf16" if tried else EAGER, tried) for _ in folders)

    remembered, settled = Remembered(file, choose), Settled(file, "cpu")
    model = served(zona_checkpoint)
    assert settled(model) == EAGER
    # One crop is too few to judge by: nothing is settled.
    assert remembered([zona_checkpoint], AUTO, "cpu", [CROP])[0].engine == EAGER
    assert settled(model) == EAGER
    for _ in range(2):
        (choice,) = remembered([zona_checkpoint], AUTO, "cpu", [CROP] * 9)
        assert choice.engine == "bf16"
    assert asked == [(1, 1), (1, 9)]
    assert settled(model) == "bf16"
    assert Settled(file, "cpu")(model) == "bf16"  # in another process too


def test_a_named_engine_is_for_all_requests(zona_checkpoint, tmp_path):
    settings = Settings(str(tmp_path), engine="bf16")
    assert settings.interactive_engine(served(zona_checkpoint)) == "bf16"
    settings = Settings(str(tmp_path))
    settings.places.prepare()
    model = served(zona_checkpoint)
    assert settings.interactive_engine(model) == EAGER


def test_a_service_that_runs_follows(zona_checkpoint, file):
    model, settled = served(zona_checkpoint), Settled(file, "cpu")
    networks = Networks("cpu", settled, threads=1)
    known = {"engine": "bf16", "tried": []}

    def choose(folders, engine, device, crops):
        return (Choice(known["engine"], ({"engine": "bf16", "passed": True},)),)

    async def both():
        (before,) = await networks.score(model, [CROP])
        Remembered(file, choose)([zona_checkpoint], AUTO, "cpu", [CROP] * 9)
        for _ in range(600):  # the old way answers until the new one is ready
            (after,) = await networks.score(model, [CROP])
            if after["probabilities"] != before["probabilities"]:
                break
            await asyncio.sleep(0.05)
        return before, after

    before, after = asyncio.run(both())
    assert json.loads(file.read_text())
    bound = [row["probabilities"]["bound"] for row in (before, after)]
    assert bound[0] != bound[1]  # another arithmetic
    assert bound[0] == pytest.approx(bound[1], abs=0.02)
