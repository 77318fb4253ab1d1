"""CycleGAN's loop: Zhu's losses, golden values, exact resume, several workers; it learns."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fertiray import config as configs
from fertiray import generator_checkpoint
from fertiray.data.domains import Domains
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.models.cyclegan import CycleGANGenerator, PatchGANDiscriminator
from fertiray.models.preprocess import Preprocessing
from fertiray.training.cyclegan import fit_cyclegan, train_cyclegan
from fertiray.training.cyclegan_config import CycleGANConfig
from fertiray.training.cyclegan_step import LOSSES, CycleGANStep
from fertiray.training.state import unpack
from fertiray.training.worker import LocalWorker

GOLDEN = Path(__file__).parents[1] / "golden" / "cyclegan_losses.json"
TINY = CycleGANConfig(
    preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.5,)),
    epochs=6,
    decay_epochs=3,
    batch_size=2,
    pool=3,
    width=4,
    blocks=1,
    held_out=0.0,
    seed=3,
)


def pictures(count: int, level: int, seed: int) -> np.ndarray:
    """Dark ellipses on a background of a given level."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        image = rng.normal(level, 6, (32, 32)).clip(0, 255).astype(np.uint8)
        axes = tuple(int(a) for a in rng.integers(4, 10, 2))
        cv2.ellipse(image, (16, 16), axes, 0, 0, 360, 40, -1)
        images.append(np.repeat(image[:, :, None], 3, axis=2))
    return np.stack(images)


def domains(labs: int, clinicals: int) -> Domains:
    names = tuple(tuple(f"{n}{i}" for i in range(k)) for n, k in (("l", labs), ("c", clinicals)))
    return Domains(pictures(labs, 150, 1), pictures(clinicals, 220, 2), names, names, ())


def parameters(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_rate_is_constant_and_then_linear():
    rates = [CycleGANConfig().rate(epoch) for epoch in range(1, 201)]
    assert rates[:100] == [2e-4] * 100
    # Zhu's rule, 1 - max(0, e - 100) / 101 for the e-th of 200 epochs.
    assert rates[100:] == pytest.approx([2e-4 * (1 - k / 101) for k in range(1, 101)])
    assert CycleGANConfig(epochs=3, decay_epochs=0).rate(3) == 2e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"preprocessing": Preprocessing(30, "grey", mean=(0.5,), std=(0.5,))},
        {"preprocessing": Preprocessing(20, "grey", mean=(0.5,), std=(0.5,))},
        {"preprocessing": Preprocessing(32, "grey", mean=(0.5,), std=(0.25,))},
        {"preprocessing": Preprocessing(32, "density", mean=(0.5,), std=(0.5,))},
        {"epochs": 0},
        {"decay_epochs": 7},
        {"lr": math.nan},
        {"beta1": 1.0},
        {"cycle": -1.0},
        {"pool": -1},
        {"blocks": 0},
        {"load_size": 31},
        {"held_out": 0.6},
    ],
)
def test_nonsense_is_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(TINY, **changes)


def test_settings_are_strict():
    assert configs.override(TINY, ["identity=0", "pool=0"]).identity == 0
    with pytest.raises(InputError, match="unknown key 'learning_rate'; valid keys: preprocessing"):
        configs.override(TINY, ["learning_rate=1"])


def test_two_steps_are_those_of_zhu():
    """Against the formulas of Zhu et al. 2017, written out one image and one network at a time."""
    config = dataclasses.replace(TINY, pool=0, batch_size=1)
    step = CycleGANStep(config, "cpu")
    torch.manual_seed(config.seed)
    g, f = (CycleGANGenerator(1, 32, 1, 4) for _ in range(2))
    d_c, d_l = (PatchGANDiscriminator(1, 4) for _ in range(2))
    of_generators = torch.optim.Adam([*g.parameters(), *f.parameters()], 2e-4, (0.5, 0.999))
    of_judges = torch.optim.Adam([*d_c.parameters(), *d_l.parameters()], 2e-4, (0.5, 0.999))
    images = torch.rand(2, 2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for lab, clinical in images:
        found = dict(zip(LOSSES, step(lab, clinical).tolist(), strict=True))
        expected = {
            "adversarial_clinical": (d_c(g(lab)) - 1).pow(2).mean(),
            "adversarial_lab": (d_l(f(clinical)) - 1).pow(2).mean(),
            "cycle_lab": (f(g(lab)) - lab).abs().mean(),
            "cycle_clinical": (g(f(clinical)) - clinical).abs().mean(),
            "identity_clinical": (g(clinical) - clinical).abs().mean(),
            "identity_lab": (f(lab) - lab).abs().mean(),
        }
        fakes = g(lab).detach(), f(clinical).detach()
        total = sum(w * x for w, x in zip([1, 1, 10, 10, 5, 5], expected.values(), strict=True))
        of_generators.zero_grad()
        total.backward()
        of_generators.step()
        of_judges.zero_grad()
        for name, judge, real, fake in (
            ("clinical", d_c, clinical, fakes[0]),
            ("lab", d_l, lab, fakes[1]),
        ):
            loss = ((judge(real) - 1).pow(2).mean() + judge(fake).pow(2).mean()) / 2
            loss.backward()
            expected[f"discriminator_{name}"] = loss
        of_judges.step()
        assert found == pytest.approx({k: v.item() for k, v in expected.items()}, rel=1e-4)


def test_losses_are_the_accepted_ones():
    """One step an epoch, so each line is a step; FERTIRAY_ACCEPT_GOLDEN=1 writes the file anew."""
    fitted = fit_cyclegan(dataclasses.replace(TINY, load_size=36), domains(2, 2))
    if os.environ.get("FERTIRAY_ACCEPT_GOLDEN"):
        GOLDEN.write_text(json.dumps(fitted.history, indent=1) + "\n")
    accepted = json.loads(GOLDEN.read_text())
    assert len(fitted.history) == len(accepted) == 6
    for found, expected in zip(fitted.history, accepted, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert accepted[5]["generator"] < accepted[0]["generator"]


def test_same_seed_same_networks():
    both, config = domains(3, 5), dataclasses.replace(TINY, epochs=2, decay_epochs=0)
    first, again = fit_cyclegan(config, both), fit_cyclegan(config, both)
    assert again.history == first.history
    assert torch.equal(parameters(again.to_clinical), parameters(first.to_clinical))
    before = torch.random.get_rng_state()
    other = fit_cyclegan(dataclasses.replace(config, seed=4), both)
    assert other.history != first.history
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's draws are not touched


class Interrupted(Exception):
    pass


def stop_after(epochs: int):
    def on_epoch(metrics):
        assert metrics["seconds"] > 0
        if metrics["epoch"] == epochs:
            raise Interrupted

    return on_epoch


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(tmp_path):
    both = domains(3, 5)  # three steps an epoch: the pools of three are full when interrupted
    whole_place, place = str(tmp_path / "whole"), str(tmp_path / "state")
    whole = fit_cyclegan(TINY, both, LocalWorker(folder=whole_place))
    for epochs in (2, 4):
        with pytest.raises(Interrupted):
            fit_cyclegan(TINY, both, LocalWorker(folder=place, on_epoch=stop_after(epochs)))
    resumed = fit_cyclegan(TINY, both, LocalWorker(folder=place))
    assert resumed.history == whole.history
    for name in ("to_clinical", "to_lab"):
        assert torch.equal(parameters(getattr(resumed, name)), parameters(getattr(whole, name)))
    # The discriminators, both optimisers, the pools and their generators too.
    assert LocalWorker(folder=place).resume() == LocalWorker(folder=whole_place).resume()
    state = unpack(LocalWorker(folder=place).resume(), "here")
    assert [len(pool["images"]) for pool in state["step"]["pools"]] == [3, 3]
    done = fit_cyclegan(TINY, both, LocalWorker(folder=place))  # nothing is left to do
    assert torch.equal(parameters(done.to_clinical), parameters(whole.to_clinical))


def test_state_of_another_training_is_refused(tmp_path):
    worker = LocalWorker(folder=str(tmp_path))
    fit_cyclegan(dataclasses.replace(TINY, epochs=1, decay_epochs=0), domains(2, 2), worker)
    with pytest.raises(InputError, match="other settings or images: delete it"):
        fit_cyclegan(TINY, domains(2, 2), worker)
    with pytest.raises(InputError, match="other settings or images"):
        fit_cyclegan(dataclasses.replace(TINY, epochs=1, decay_epochs=0), domains(2, 3), worker)


def test_divergence_is_said():
    with pytest.raises(InputError, match=r"epoch \d+: a loss is no longer a number: .*lower"):
        fit_cyclegan(dataclasses.replace(TINY, lr=1e18, epochs=4, decay_epochs=0), domains(2, 2))


def test_without_identity_and_in_bf16():
    both = domains(2, 2)
    plain = fit_cyclegan(dataclasses.replace(TINY, identity=0), both).history
    assert all(line["identity_lab"] == line["identity_clinical"] == 0 for line in plain)
    mixed = fit_cyclegan(dataclasses.replace(TINY, precision="bf16"), both).history
    full = fit_cyclegan(TINY, both).history
    assert mixed != full
    assert mixed[0] == pytest.approx(full[0], rel=0.03)  # bfloat16 keeps 8 bits


def test_held_out_images_are_not_trained_on():
    both = domains(40, 50)
    config = dataclasses.replace(TINY, epochs=1, decay_epochs=0, held_out=0.2, batch_size=20)
    fitted = fit_cyclegan(config, both)
    assert [len(part) for part in fitted.held_out] == [8, 10]
    for training, held_out, count in zip(fitted.training, fitted.held_out, (40, 50), strict=True):
        assert sorted([*training, *held_out]) == list(range(count))
    # Fewer than eight of one look: everything is trained on.
    small = fit_cyclegan(dataclasses.replace(config, held_out=0.1), both)
    assert [len(part) for part in small.held_out] == [0, 0]
    assert [len(part) for part in small.training] == [40, 50]


def test_equal_pixels_stay_on_one_side():
    both = domains(40, 40)
    twins = tuple(f"l{i // 2}" for i in range(40))
    both = dataclasses.replace(both, digests=(twins, both.digests[1]))
    config = dataclasses.replace(TINY, epochs=1, decay_epochs=0, held_out=0.3, batch_size=20)
    fitted = fit_cyclegan(config, both)
    sides = [{twins[i] for i in part[0]} for part in (fitted.training, fitted.held_out)]
    assert not sides[0] & sides[1]
    assert len(fitted.held_out[0]) == 12


WORKER = """
import dataclasses, json, sys
import numpy as np
import torch
import torch.distributed as dist
from fertiray import config as configs
from fertiray.data.domains import Domains
from fertiray.training.cyclegan import fit_cyclegan
from fertiray.training.cyclegan_config import CycleGANConfig
from fertiray.training.worker import LocalWorker

folder, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
torch.set_num_threads(1)

class Worker(LocalWorker):
    def __init__(self):
        super().__init__(folder=f"{folder}/{rank}")
        self.rank, self.size = rank, size

values = np.load(f"{folder}/domains.npz")
names = tuple(tuple(map(str, values[key])) for key in ("labs", "clinicals"))
both = Domains(values["source"], values["target"], names, names, ())
config = configs.load(CycleGANConfig, json.load(open(f"{folder}/config.json")), "config")
fitted = fit_cyclegan(config, both, Worker())
json.dump(fitted.history, open(f"{folder}/{rank}.json", "w"))
dist.destroy_process_group()
"""


def test_two_workers_train_what_one_does(tmp_path):
    """A batch of three: one worker takes one image, the other two."""
    config = dataclasses.replace(TINY, batch_size=3, epochs=3, decay_epochs=1)
    both = domains(6, 5)
    np.savez(
        tmp_path / "domains.npz",
        source=both.source,
        target=both.target,
        labs=both.names[0],
        clinicals=both.names[1],
    )
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    running = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(rank), "2"])
        for rank in range(2)
    ]
    alone = fit_cyclegan(config, both, LocalWorker(folder=str(tmp_path / "alone")))
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    histories = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert histories[0] == histories[1]
    for found, expected in zip(histories[0], alone.history, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    # Any worker's state will do: networks, optimisers, pools and their draws are the same.
    states = [LocalWorker(folder=str(tmp_path / name)).resume() for name in ("0", "1", "alone")]
    assert states[0] == states[1]
    ours, theirs = (unpack(state, "here")["step"]["pools"] for state in states[1:])
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["generator"], other["generator"])
        apart = torch.stack(one["images"]) - torch.stack(other["images"])
        assert apart.abs().max() < 2e-3  # a quarter of a grey level


def test_more_workers_than_images_a_batch():
    worker = LocalWorker()
    worker.size = 3
    with pytest.raises(InputError, match="batch_size 2 is less than 3 workers"):
        fit_cyclegan(TINY, domains(4, 4), worker)


def write_domains(folder: Path, both: Domains) -> None:
    for name, images in (("lab", both.source), ("clinical", both.target)):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            cv2.imwrite(str(folder / name / f"{number:03d}.png"), image)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cyclegan")
    write_domains(folder / "data", domains(20, 24))
    (folder / "data/lab/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    config = dataclasses.replace(TINY, epochs=2, decay_epochs=1, batch_size=10, held_out=0.4)
    out = folder / "generator"
    return out, train_cyclegan("zona_vgg13", config, str(folder / "data"), str(out))


def test_train_writes_a_generator_folder(trained):
    out, result = trained
    assert sorted(place.name for place in out.iterdir()) == [
        *("generator.safetensors", "meta.json", "samples.png")
    ]
    assert result["n"] == {
        "lab": {"training": 12, "held_out": 8},
        "clinical": {"training": 14, "held_out": 10},
        "excluded": 1,
    }
    assert result["excluded"][0]["name"] == "lab/broken.png"
    metrics = result["metrics"]
    assert metrics["checked_on"] == "held_out"
    assert metrics["n"] == [8, 10]
    assert metrics["auc_before"] == 1.0  # backgrounds of 150 and 220
    assert metrics["gap_before"] > 0.5
    assert result["history"][-1].items() <= metrics.items()
    json.dumps(result, allow_nan=False)
    generator, meta = generator_checkpoint.load(str(out))
    assert (meta.name, meta.paper, meta.model) == ("generator", "zona_vgg13", "cyclegan_generator")
    assert meta.history["epochs"] == 2
    assert meta.metrics == json.loads(json.dumps(metrics))
    assert not generator.training
    sheet = cv2.imread(str(out / "samples.png"))
    assert sheet.shape == (4 * 100 + 4, 100 + 8 * 100, 3)  # four rows of eight, 3 x 32 and 4


def test_loading_does_not_touch_the_callers_draws(trained):
    before = torch.random.get_rng_state()
    generator_checkpoint.load(str(trained[0]))
    assert torch.equal(torch.random.get_rng_state(), before)


def copy(trained, tmp_path: Path) -> Path:
    for place in trained[0].iterdir():
        (tmp_path / place.name).write_bytes(place.read_bytes())
    return tmp_path


def test_altered_generators_are_refused(trained, tmp_path):
    folder = copy(trained, tmp_path)
    meta, weights = folder / "meta.json", folder / "generator.safetensors"
    good_meta, good_weights = meta.read_text(), weights.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            generator_checkpoint.load(str(folder))
        assert "\n" not in str(caught.value)
        meta.write_text(good_meta)
        weights.write_bytes(good_weights)

    weights.write_bytes(good_weights[:-10])
    refused("truncated or altered; copy the folder again")
    meta.write_text("{")
    refused("not readable as JSON")
    meta.write_text("[]")
    refused("must hold a JSON object")
    meta.write_text(good_meta.replace('"paper": "zona_vgg13"', '"paper": "other"'))
    refused("altered after it was saved: paper is 'other', saved as 'zona_vgg13'")
    meta.write_text(good_meta.replace('"format": 1', '"format": 2'))
    refused("format 2 is not 1: written by another version")
    meta.write_text(good_meta.replace('"model": "cyclegan_generator"', '"model": "vgg13"'))
    refused("model: .*cyclegan_generator")
    weights.unlink()
    refused(r"no generator here \(generator.safetensors is missing\); train one")
    assert generator_checkpoint.load(str(folder))


def test_weights_that_do_not_fit_or_are_no_numbers(trained, tmp_path):
    generator, meta = generator_checkpoint.load(str(trained[0]))
    wrong = dataclasses.replace(meta, args={"width": 8, "blocks": 1})
    generator_checkpoint.save(str(tmp_path), generator, wrong)
    with pytest.raises(InputError, match="does not fit the architecture"):
        generator_checkpoint.load(str(tmp_path))
    with torch.no_grad():
        generator.output.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(InputError, match=r"output.weight holds NaN or infinity"):
        generator_checkpoint.save(str(tmp_path), generator, meta)


def test_a_generator_on_s3(trained, s3, tmp_path):
    generator, meta = generator_checkpoint.load(str(trained[0]))
    saved = generator_checkpoint.save(f"{s3}/generator", generator, meta)
    again, found = generator_checkpoint.load(f"{s3}/generator")
    assert found == saved == meta
    assert torch.equal(parameters(again), parameters(generator))


@pytest.mark.slow
def test_a_dark_noisy_look_becomes_the_clean_one_and_heads_stay(tmp_path):
    """Synthetic heads, one a patient; those of the laboratory are darkened by a quarter and noisy.

    Two such sets without that difference have an AUC of 0.51 and a gap of 0.02.
    """
    for name, seed in (("lab", 1), ("clinical", 2)):
        synth_crops(
            tmp_path / name, patients=240, crops=1, slides=1, seed=seed, size=64, fractions=0.5
        )
    rng = np.random.default_rng(0)
    for place in sorted((tmp_path / "lab").rglob("*.png")):
        image = cv2.imread(str(place)) * 0.75 + rng.normal(0, 4, (64, 64, 1))
        cv2.imwrite(str(place), image.clip(0, 255).astype(np.uint8))
    config = dataclasses.replace(
        TINY, epochs=10, decay_epochs=5, lr=1e-3, pool=50, width=16, blocks=3, held_out=0.2
    )
    result = train_cyclegan("zona_vgg13", config, str(tmp_path), str(tmp_path / "out"))
    metrics = result["metrics"]
    assert metrics["checked_on"] == "held_out"
    assert metrics["n"] == [48, 48]
    assert metrics["auc_before"] == 1.0
    assert metrics["auc_after"] < 0.98
    assert metrics["gap_before"] > 0.7
    assert metrics["gap_after"] < 0.3
    assert metrics["head_iou"] > 0.85
    assert metrics["cycle_error"] < 12
