"""What benchmarks measure on: drawn crops, stores of them, and a network that knows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fertiray import config
from fertiray.data import crops
from fertiray.data.images import decode, image_digest
from fertiray.data.synthetic import synth_crops
from fertiray.papers import PAPERS
from fertiray.training.train import train
from fertiray.tuning.trials import untrained

DRAWN = 512  # different crops; a store repeats them
PATIENTS = 8


def drawn(folder: Path) -> list[bytes]:
    """Encoded crops (PNG) of one patient, about half of them bound."""
    synth_crops(folder, patients=1, crops=DRAWN, seed=0, fractions=0.5)
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


def store(folder: Path, images: Sequence[bytes], count: int, *, patients: int = PATIENTS) -> str:
    """A crop store of ``count`` crops, the same images again and again, of ``patients``."""
    contents = [image_digest(decode(image)) for image in images]
    with crops.StoreWriter(str(folder)) as writer:
        for number in range(count):
            patient, slide = f"P{number * patients // count}", f"S{number % 2}"
            content = contents[number % len(images)]
            writer.add(
                {
                    "patient_id": patient,
                    "slide_id": slide,
                    "crop_id": crops.crop_id(content, patient, slide, str(number)),
                    "image": images[number % len(images)],
                }
            )
    return str(folder)


def network(folder: Path, model: str, *, size: int, colour: str = "rgb") -> str:
    """A checkpoint trained for a moment, from scratch, to tell drawn bound heads from others.

    Speed does not depend on the weights, but whether a faster way keeps the scores does: a network
    that knows nothing changes its mind at every rounding.

    Args:
        folder: where it goes.
        model: registered name of the network.
        size: height and width of its input in pixels.
        colour: ``rgb`` or ``grey``.
    """
    data = folder.with_name(f"{folder.name}-data")
    synth_crops(data, patients=6, crops=64, seed=11, fractions=0.5)
    channels = 3 if colour == "rgb" else 1
    changes = [
        *(f"model={model}", "epochs=6", "batch_size=16", "optimizer=adamw", "lr=1e-3"),
        *(f"preprocessing.size={size}", f"preprocessing.colour={colour}"),
        *(f"preprocessing.mean={[0.5] * channels}", f"preprocessing.std={[0.25] * channels}"),
        "preprocessing.window=1.0",
    ]
    paper = PAPERS["zona_vgg13"]
    settings = config.override(paper.config("basic_cnn"), changes)
    train(paper, untrained(settings), str(data), str(folder))
    return str(folder)
