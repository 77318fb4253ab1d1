"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

MOST_SEED = 2**32 - 1  # of numpy and scikit-learn

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
GroupBy = Annotated[
    str | None,
    typer.Option(help="Regular expression on the file name; its first group is the patient."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Parallel workers; by default one a core.")
]
Checkpoints = Annotated[
    list[str], typer.Option("--checkpoint", help="Checkpoint folder; repeat for several in a pass.")
]
Local = Annotated[bool, typer.Option("--local", help="Without Ray, in this process.")]
Resume = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Go on where an earlier run stopped.")
]
VerdictBasis = Annotated[
    Literal["prevalence", "fraction"],
    typer.Option(help="What the verdict follows: corrected prevalence, or the raw fraction."),
]
Record = Annotated[
    bool, typer.Option("--record", help="Write the result of record below dashboards/results.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster; by default a local one.")]
PaperKey = Annotated[str, typer.Argument(help="Key of the paper.")]
Labelled = Annotated[
    str, typer.Option("--data", help="Labelled folder or labelled crop store, local or s3://.")
]
Model = Annotated[str | None, typer.Option(help="One of the paper's recipes.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, over the paper's recipe.")
]
Config = Annotated[
    str | None,
    typer.Option(help="A whole recipe as JSON, such as tune's best.json, in place of the paper's."),
]
Device = Annotated[str, typer.Option(help="torch device.")]
Engine = Annotated[
    str, typer.Option(help="How the networks are executed; auto measures and checks.")
]
