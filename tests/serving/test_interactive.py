"""A lone request is computed at once, what waits goes together; models change unnoticed."""

import asyncio
import dataclasses
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fertiray import checkpoint
from fertiray.data.images import encode_png
from fertiray.errors import InputError
from fertiray.serving import catalogue, service
from fertiray.serving.interactive import Batcher, BusyError, Networks


def batches(requests, **options) -> list[list[bytes]]:
    """What the network is given when requests come while the first one is computed."""
    seen: list[list[bytes]] = []
    begun, free = threading.Event(), threading.Event()

    def score(crops):
        seen.append(list(crops))
        begun.set()
        free.wait(5)
        return [{"crop": crop} for crop in crops]

    async def main():
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(score, pool, **options)
            tasks = [asyncio.create_task(batcher(requests[0]))]
            await asyncio.to_thread(begun.wait)
            tasks += [asyncio.create_task(batcher(crops)) for crops in requests[1:]]
            await asyncio.sleep(0.05)
            free.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    for crops, rows in zip(requests, asyncio.run(main()), strict=True):
        if not isinstance(rows, BusyError):
            assert [row["crop"] for row in rows] == crops
    return seen


def test_what_waits_goes_together_and_every_request_gets_its_own():
    assert batches([[b"a"], [b"b", b"c"], [b"d"]]) == [[b"a"], [b"b", b"c", b"d"]]
    assert batches([[b"a"], [b"b", b"c"], [b"d"]], together=2) == [[b"a"], [b"b", b"c"], [b"d"]]
    large = [b"x"] * 9
    assert batches([[b"a"], large], together=2) == [[b"a"], large]


def test_too_much_waiting_is_refused_and_what_was_taken_is_answered():
    assert batches([[b"a"], [b"b"], [b"c", b"d"], [b"e"]], waiting=2) == [[b"a"], [b"b", b"e"]]


def test_an_error_belongs_to_its_batch_and_the_next_one_goes_on():
    def score(crops):
        if b"bad" in crops:
            raise RuntimeError("no memory")
        return [{} for _ in crops]

    async def main():
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(score, pool)
            with pytest.raises(RuntimeError, match="no memory"):
                await batcher([b"bad"])
            assert await batcher([b"good"]) == [{}]
            gone = asyncio.create_task(batcher([b"x"]))
            await asyncio.sleep(0)
            gone.cancel()
            assert await batcher([b"good"]) == [{}]

    asyncio.run(main())


@pytest.fixture
def two(zona_checkpoint, tmp_path):
    """Two checkpoints of one name: the second calls nothing bound."""
    model, meta = checkpoint.load(zona_checkpoint)
    operating = dataclasses.replace(meta.operating, threshold=1.0)
    checkpoint.save(str(tmp_path / "new"), model, dataclasses.replace(meta, operating=operating))
    return zona_checkpoint, str(tmp_path / "new")


# Nearly blank; what is blank is not scored.
CROP = encode_png(200 + np.eye(64, dtype=np.uint8)[:, :, None].repeat(3, 2))


def test_models_are_named_with_or_without_their_version(two):
    old, new = (catalogue.served(folder) for folder in two)
    assert old.id != new.id
    assert old.meta.name == new.meta.name == "zona"
    other = dataclasses.replace(new, id="other@1", meta=dataclasses.replace(new.meta, name="other"))
    models = [old, other]
    assert catalogue.chosen(models, None) == models
    assert catalogue.chosen(models, ["other"]) == [other]
    assert catalogue.chosen(models, [old.id, "zona", "other@1"]) == models
    assert catalogue.chosen(models, ["zona", "none"]) is None


def test_a_swap_drops_no_request_and_a_broken_model_is_not_taken(two, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "CHECK_S", 0.02)
    file = tmp_path / "models.json"
    old, new = two
    catalogue.write(file, [old])
    networks = Networks("cpu", threads=1)

    async def main():
        current = service.Current(file, networks)
        keeper = asyncio.create_task(current.keep())
        labels, done = [], False

        async def ask():
            while not done:
                (row,) = await networks.score(current.models[0], [CROP])
                labels.append(row["label"])
                await asyncio.sleep(0)

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        while not current.ready:
            await asyncio.sleep(0.02)
        before = current.models[0].id
        broken = shutil.copytree(new, tmp_path / "broken")
        catalogue.write(file, [str(broken)])
        (broken / "weights.safetensors").write_bytes(b"")
        await asyncio.sleep(0.3)
        assert current.models[0].id == before
        catalogue.write(file, [new])
        start = time.monotonic()
        while current.models[0].id == before:
            assert time.monotonic() < start + 10
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        done = True
        await asyncio.gather(*asking)
        keeper.cancel()
        return labels

    labels = asyncio.run(main())
    assert (labels[0], labels[-1]) == ("bound", "unbound")


def test_a_network_is_loaded_once_and_answers_the_old_way_until_the_new_one_is_ready(
    two, monkeypatch, caplog
):
    model, loaded, ready = catalogue.served(two[0]), [], threading.Event()
    way, load = ["eager"], Networks.load

    def slow(self, model, engine):
        loaded.append(engine)
        if engine == "broken":
            raise InputError("broken")
        if engine == "compile":  # stands for any other way
            ready.wait(60)
        made = load(self, model, "eager")
        made.way = engine
        return made

    monkeypatch.setattr(Networks, "load", slow)
    used, call = [], Batcher.__call__

    async def noted(self, crops):
        used.append(self.way)
        return await call(self, crops)

    monkeypatch.setattr(Batcher, "__call__", noted)

    async def main():
        networks = Networks("cpu", lambda model: way[0], threads=1)

        async def ask():
            (row,) = await networks.score(model, [CROP])
            return row["probabilities"]

        first = await asyncio.gather(*(ask() for _ in range(8)))
        assert loaded == ["eager"]
        way[0] = "compile"
        assert await asyncio.gather(*(ask() for _ in range(8))) == first  # nobody waits
        assert (loaded, set(used)) == (["eager", "compile"], {"eager"})
        ready.set()
        for _ in range(200):
            await ask()
            if used[-1] == "compile":
                break
            await asyncio.sleep(0.05)
        assert used[-1] == "compile"
        way[0] = "broken"
        for _ in range(3):
            assert await ask() == first[0]
            await asyncio.sleep(0.05)
        assert loaded == ["eager", "compile", "broken"]  # not tried with every request

    asyncio.run(main())
    assert "cannot be executed as broken" in caplog.text


def test_a_folder_that_changed_under_its_name_is_refused(two, tmp_path):
    old, new = two
    folder = shutil.copytree(old, tmp_path / "folder")
    model = catalogue.served(str(folder))
    shutil.rmtree(folder)
    shutil.copytree(new, folder)
    with pytest.raises(InputError, match="holds another checkpoint by now"):
        asyncio.run(Networks("cpu").score(model, [CROP]))


def test_two_checkpoints_of_one_name_cannot_be_served_together(two, tmp_path):
    with pytest.raises(InputError, match="two checkpoints are named 'zona'"):
        catalogue.write(tmp_path / "models.json", list(two))
    (tmp_path / "models.json").write_text("[]")
    with pytest.raises(InputError, match="not a list of checkpoints"):
        catalogue.read(tmp_path / "models.json")
