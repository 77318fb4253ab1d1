"""``fertiray serve``, ``token`` and ``client``: the service, who may use it, and how."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fertiray import console
from fertiray.cli_options import Device, Json, Local, VerdictBasis
from fertiray.console import Result, show
from fertiray.errors import InputError
from fertiray.processes import cores

if TYPE_CHECKING:
    from fertiray.client import Client

token_app = typer.Typer(help="API tokens of the service.", no_args_is_help=True)
client_app = typer.Typer(help="Send crops to a service, fetch results.", no_args_is_help=True)

Tokens = Annotated[
    str | None, typer.Option(envvar="FERTIRAY_TOKENS", help="File of API tokens (hashed).")
]
Url = Annotated[str, typer.Option(envvar="FERTIRAY_URL", help="The service.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the token's text; by default FERTIRAY_TOKEN.")
]
Ca = Annotated[str | None, typer.Option(help="PEM file of the service's certificate authority.")]
JobId = Annotated[str, typer.Argument(help="Id of a job.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Name or id of a served model; repeat.")
]
Format = Annotated[Literal["json", "csv", "parquet", "html"], typer.Option("--format")]
Table = Annotated[Literal["patients", "slides", "scores", "rejects"], typer.Option("--table")]


def serve(
    checkpoint: Annotated[
        list[str] | None,
        typer.Option("--checkpoint", help="Checkpoint folder; repeat, the preferred one first."),
    ] = None,
    state: Annotated[
        str, typer.Option(help="Folder of jobs and results; jobs go on where they stopped.")
    ] = "runs/service",
    tokens: Tokens = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    tls_cert: Annotated[str, typer.Option(help="PEM file of the TLS certificate.")] = "",
    tls_key: Annotated[str, typer.Option(help="PEM file of its key.")] = "",
    allow: Annotated[
        list[str] | None,
        typer.Option(help="CLINIC=PLACE: crop stores below it may be scored in place; repeat."),
    ] = None,
    open_path: Annotated[
        list[str] | None,
        typer.Option("--open", help="/openapi.json or /metrics: without a token."),
    ] = None,
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option(help="How the networks are executed; auto measures it for jobs.")
    ] = "auto",
    scorers: Annotated[
        int,
        typer.Option(
            min=0, help="Replicas for interactive requests, at most; 0: none, which is faster here."
        ),
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Shards of jobs at a time; by default one a core.")
    ] = None,
    keep_days: Annotated[
        float | None,
        typer.Option(help="Days after its end that a job is deleted; by default never."),
    ] = None,
    local: Local = False,
    swap: Annotated[
        bool, typer.Option("--swap", help="Exchange the checkpoints of a running service; exit.")
    ] = False,
) -> None:
    """Serve checkpoints to clinics: scores at once, jobs, and a page; Ctrl-C ends it."""
    from fertiray.serving import catalogue
    from fertiray.serving.address import Address
    from fertiray.serving.settings import Settings, prepare

    settings = Settings(
        state,
        tokens or "",
        tuple(checkpoint or ()),
        allowed=_allowed(allow or []),
        device=device,
        engine=engine,
        scorers=scorers,
        workers=workers or cores(),
        open_paths=tuple(open_path or ()),
        keep_days=keep_days,
    )
    if swap:
        if not settings.places.models.exists():
            raise InputError(f"--state {state}: no service has run here; start one without --swap")
        folders = [os.path.abspath(f) if "://" not in f else f for f in settings.checkpoints]
        for model in catalogue.write(settings.places.models, folders):
            console.notices.print(f"serving next: {model.id}", markup=False)
        return
    address = Address(host, port, tls_cert, tls_key)
    address.require_free()
    models = prepare(settings)
    if address.exposed:
        console.notices.print(
            f"Caution: {host} is not loopback and there is no TLS, so tokens and images cross the"
            " network in the clear; use --tls-cert and --tls-key, or a proxy that does.",
            style="yellow",
        )

    def ready() -> None:
        names = ", ".join(model.id for model in models)
        console.notices.print(f"FertiRay serves {names} at {address.url}", markup=False)

    if local:
        from fertiray.serving.local import run
    else:
        from fertiray.on_ray.serve import run
    run(settings, address, ready)


def _allowed(entries: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        clinic, equals, place = entry.partition("=")
        if not (clinic and equals and place):
            raise InputError(f"--allow {entry}: write CLINIC=PLACE, such as lab=s3://bucket/crops")
        if "://" not in place:
            place = os.path.abspath(place)
        found[clinic] = (*found.get(clinic, ()), place)
    return found


@token_app.command("add")
def token_add(
    clinic: Annotated[str | None, typer.Option(help="Whose jobs it opens.")] = None,
    operator: Annotated[bool, typer.Option("--operator", help="Opens metrics, no jobs.")] = False,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float, typer.Option(help="Until it expires.")] = 365,
    tokens: Tokens = None,
    json: Json = False,
) -> None:
    """Make a token; its text is shown once and kept nowhere."""
    from fertiray.serving.tokens import add

    if (clinic is None) != operator:
        raise InputError("--clinic NAME, or --operator: give one of them")
    text, token = add(_token_file(tokens), clinic, label=label, days=days)
    values = {"token": text, "id": token.id, "clinic": clinic, "expires": token.expires}
    show(Result(values), as_json=json)


@token_app.command("list")
def token_list(tokens: Tokens = None, json: Json = False) -> None:
    """List tokens, without their secrets."""
    from fertiray.serving.tokens import listed

    rows = [
        {
            "id": token.id,
            "clinic": token.clinic,
            "label": token.label,
            "created": token.created,
            "expires": token.expires,
            "expired": token.expired(),
        }
        for token in listed(_token_file(tokens))
    ]
    columns = ("id", "clinic", "label", "created", "expires", "expired")
    table = console.table(*columns, rows=[[row[name] for name in columns] for row in rows])
    show(Result(rows, table), as_json=json)


@token_app.command("revoke")
def token_revoke(
    token_id: Annotated[str, typer.Argument(help="Id, as `token list` shows it.")],
    tokens: Tokens = None,
    json: Json = False,
) -> None:
    """Take a token out; a running service refuses it from now on."""
    from fertiray.serving.tokens import revoke

    token = revoke(_token_file(tokens), token_id)
    show(Result({"revoked": token.id, "clinic": token.clinic}), as_json=json)


def _token_file(tokens: str | None) -> str:
    if not tokens:
        raise InputError("--tokens FILE, or FERTIRAY_TOKENS: name the file of tokens")
    return tokens


def _client(url: str, token_file: Path | None, ca: str | None) -> Client:
    from fertiray.client import Client

    token = os.environ.get("FERTIRAY_TOKEN", "")
    if token_file is not None:
        try:
            token = token_file.read_text()
        except OSError as error:
            raise InputError(f"--token-file {token_file}: {error.strerror}") from error
    if not token.strip():
        raise InputError("FERTIRAY_TOKEN, or --token-file FILE: give the token")
    return Client(url, token.strip(), ca=ca)


@client_app.command("submit")
def client_submit(
    source: Annotated[
        str, typer.Argument(help="Folder patient/slide/image, zip, tar, Parquet, or s3:// store.")
    ],
    url: Url = "http://127.0.0.1:8000",
    label: Annotated[str | None, typer.Option(help="Your name for it.")] = None,
    model: Models = None,
    verdict_on: VerdictBasis = "prevalence",
    strip: Annotated[int, typer.Option(help="Leading folders of an archive to leave out.")] = 0,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: sent again, it is the same job.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the job has ended.")] = False,
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Json = False,
) -> int:
    """Send many crops; prints the job."""
    client = _client(url, token_file, ca)
    job = client.submit(
        source, label=label, models=model or [], verdict_on=verdict_on, strip=strip, key=key
    )
    if wait:
        with console.progress("scoring", "crops") as progress:
            job = client.wait(job["id"], progress)
    show(Result(job), as_json=json)
    return 1 if job["state"] in ("failed", "cancelled") else 0


@client_app.command("result")
def client_result(
    job_id: JobId,
    url: Url = "http://127.0.0.1:8000",
    form: Format = "csv",
    table: Table = "patients",
    out: Annotated[Path | None, typer.Option(help="File to write; by default stdout.")] = None,
    token_file: TokenFile = None,
    ca: Ca = None,
) -> None:
    """Fetch a finished job's table, or its report with --format html."""
    data = _client(url, token_file, ca).result(job_id, form, table)
    if out is not None:
        out.write_bytes(data)
    else:
        sys.stdout.buffer.write(data)


@client_app.command("score")
def client_score(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    url: Url = "http://127.0.0.1:8000",
    model: Models = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Json = False,
) -> None:
    """Score a few images at once."""
    for image in images:
        if not image.is_file():
            raise InputError(f"{image}: no such file")
    rows = _client(url, token_file, ca).score(images, model or [])
    shown = [[row["name"], row["model"], row["label"] or row["error"]] for row in rows]
    show(Result(rows, console.table("image", "model", "label", rows=shown)), as_json=json)


@client_app.command("jobs")
def client_jobs(
    url: Url = "http://127.0.0.1:8000",
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Json = False,
) -> None:
    """List your jobs."""
    jobs = _client(url, token_file, ca).jobs()
    columns = ("id", "label", "state", "done", "total", "message")
    rows = [[job[name] for name in columns] for job in jobs]
    show(Result(jobs, console.table(*columns, rows=rows)), as_json=json)


@client_app.command("models")
def client_models(
    url: Url = "http://127.0.0.1:8000",
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Json = False,
) -> None:
    """List the served models."""
    models = _client(url, token_file, ca).models()
    columns = ("id", "task", "network", "positive", "sensitivity", "specificity")
    rows = [[model[name] for name in columns] for model in models]
    show(Result(models, console.table(*columns, rows=rows)), as_json=json)


@client_app.command("status")
def client_status(
    job_id: JobId,
    url: Url = "http://127.0.0.1:8000",
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Json = False,
) -> None:
    """Show how far a job is."""
    show(Result(_client(url, token_file, ca).job(job_id)), as_json=json)


@client_app.command("cancel")
def client_cancel(
    job_id: JobId,
    url: Url = "http://127.0.0.1:8000",
    token_file: TokenFile = None,
    ca: Ca = None,
    json: Json = False,
) -> None:
    """Stop a job."""
    show(Result(_client(url, token_file, ca).cancel(job_id)), as_json=json)


@client_app.command("delete")
def client_delete(
    job_id: JobId,
    url: Url = "http://127.0.0.1:8000",
    token_file: TokenFile = None,
    ca: Ca = None,
) -> None:
    """Delete an ended job with all that was sent and found."""
    _client(url, token_file, ca).delete(job_id)
