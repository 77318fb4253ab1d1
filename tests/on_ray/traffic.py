"""A Ray job that does a little of everything: serves, scores, trains and tunes.

    python traffic.py FOLDER CHECKPOINT PORT

FOLDER holds ``store`` and ``labelled``; results go there too.
"""

import dataclasses
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from ray import serve

from fertiray import config
from fertiray.data.images import encode_png
from fertiray.on_ray.cluster import cluster
from fertiray.on_ray.score import score_on_ray
from fertiray.on_ray.serve import APP, QUIET, build
from fertiray.on_ray.train import train_on_ray
from fertiray.papers import PAPERS
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob
from fertiray.serving import tokens
from fertiray.serving.settings import Settings
from fertiray.training.logs import EpochLog
from fertiray.tuning.command import tune
from fertiray.tuning.trials import Wanted

# Nearly blank; what is blank is not scored.
PICTURE = encode_png(128 + np.eye(64, dtype=np.uint8)[:, :, None].repeat(3, 2))
QUICK = ["epochs=2", "batch_size=16", "preprocessing.size=64"]


def serving(folder: Path, checkpoint: str, port: int) -> str:
    """Starts the service; a token's text for it."""
    text, _ = tokens.add(folder / "tokens.json", "clinic")
    settings = Settings(str(folder / "service"), str(folder / "tokens.json"), (checkpoint,))
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=QUIET)
    serve.run(build(dataclasses.asdict(settings)), name=APP, route_prefix="/")
    return text


def ask(where: str, token: str, body: bytes | None = None) -> int:
    """The status of an answer."""
    kind = "multipart/form-data; boundary=b"
    headers = {"authorization": f"Bearer {token}", "content-type": kind}
    try:
        with urllib.request.urlopen(urllib.request.Request(where, body, headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def ask_often(service: str, token: str) -> None:
    part = b'--b\r\ncontent-disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    for _ in range(12):
        assert ask(f"{service}/v1/score", token, part + PICTURE + b"\r\n--b--\r\n") == 200
        assert ask(f"{service}/v1/jobs/unknown", token) == 404
        time.sleep(0.3)


def work(folder: Path, checkpoint: str, port: int) -> None:
    labelled = str(folder / "labelled")
    token = serving(folder, checkpoint, port)
    ask_often(f"http://127.0.0.1:{port}", token)
    job = ScoringJob(str(folder / "store"), (checkpoint,), str(folder / "run"), engine="eager")
    score(job, score_on_ray, workers=1)
    recipe = config.override(PAPERS["zona_vgg13"].config("basic_cnn"), QUICK)
    out = str(folder / "trained")
    train_on_ray("zona_vgg13", recipe, labelled, out, workers=1, on_epoch=EpochLog(2))
    tune(
        "zona_vgg13",
        labelled,
        wanted=Wanted(1),
        search="basic_cnn",
        out=str(folder / "study"),
        settings=QUICK,
        trials=2,
    )


if __name__ == "__main__":
    with cluster():
        work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
