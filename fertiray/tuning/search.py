"""``fertiray tune PAPER --search SPACE``: what every trial of a search does and leaves behind.

A trial learns from the training part, is judged by the validation part after every epoch, and does
not look at the test part. Its record is a JSON file that is written after every epoch, named by
what the trial is: so a search that was interrupted knows what it has seen. A trial that is begun
again first reports the epochs that are in its record, and goes on from the state that was kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fertiray import config, provenance, storage
from fertiray.errors import InputError
from fertiray.papers import PAPERS
from fertiray.training.config import TrainConfig
from fertiray.training.crossval import MakeWorker
from fertiray.training.fit import fit
from fertiray.training.train import prepare
from fertiray.training.worker import LocalWorker
from fertiray.tuning.cells import Space, Value
from fertiray.tuning.files import write_json
from fertiray.tuning.views import View

Line = dict[str, Any]
Parameters = Mapping[str, Value]
Report = Callable[[dict[str, Any]], None]
Status = Literal["running", "finished", "stopped", "refused", "failed"]

OVER = ("finished", "stopped", "refused")


@dataclass
class Record:
    """What a trial has left.

    Attributes:
        place: of the file, local or ``s3://``.
        parameters: of the trial.
        begun: when, ISO 8601.
        status: ``running`` (or interrupted), ``finished``, ``stopped`` early, ``refused`` (it
            cannot be trained, such as with too high a rate), ``failed`` (it crashed).
        lines: its epochs, of :class:`fertiray.training.fit.Fitted`, with their ``seconds``.
        error: what went wrong, in one line.
    """

    place: str
    parameters: dict[str, Value]
    begun: str
    status: Status = "running"
    lines: list[Line] = field(default_factory=list)
    error: str | None = None

    @classmethod
    def read(cls, place: str) -> Record:
        """Reads a record.

        Raises:
            InputError: the file is none.
        """
        again = "delete it, and its trial is run again"
        values = config.read_object(place, again)
        names = {field.name for field in dataclasses.fields(cls)} - {"place"}
        if not {"parameters", "begun"} <= {*values} <= names:
            raise InputError(f"{place}: not the record of a trial; {again}")
        return cls(place, **values)

    def write(self, status: Status, error: str | None = None) -> None:
        """Writes the record as it is now, with this status."""
        self.status, self.error = status, error
        values = dataclasses.asdict(self)
        del values["place"]
        write_json(self.place, values)

    def note(self, line: Line) -> None:
        """Takes an epoch's line; one that was done twice counts once."""
        self.lines = [old for old in self.lines if old["epoch"] < line["epoch"]] + [line]


@dataclass(frozen=True)
class Search:
    """A search over a space.

    Attributes:
        paper: key of the paper.
        space: that is searched.
        base: the recipe that the parameters change.
        data_digest: identifies the images and labels.
        folder: of the records, local or ``s3://``.
    """

    paper: str
    space: Space
    base: TrainConfig
    data_digest: str
    folder: str

    def settings(self, parameters: Parameters) -> TrainConfig:
        """The recipe of a trial.

        Raises:
            InputError: parameters that do not fit it.
        """
        changes = [f"{key}={json.dumps(value)}" for key, value in parameters.items()]
        return config.override(self.base, changes, f"{self.paper}: search")

    def place(self, parameters: Parameters) -> str:
        """Where the record of a trial is, or will be."""
        address = config.digest(
            {
                "paper": self.paper,
                "settings": dataclasses.asdict(self.settings(parameters)),
                "data": self.data_digest,
            }
        )
        return storage.join(self.folder, f"{address}.json")

    def open(self, parameters: Parameters) -> Record:
        """The record of a trial, new where it has none."""
        place = self.place(parameters)
        if storage.exists(place):
            return Record.read(place)
        return Record(place, dict(parameters), provenance.now())

    def records(self) -> list[Record]:
        """All that there are of this search, in the order in which they were begun."""
        found = [Record.read(place) for place in storage.list_files(self.folder, ".json")]
        # A folder may hold trials of other data or settings too.
        own = [record for record in found if self._is_own(record)]
        return sorted(own, key=lambda record: (record.begun, record.place))

    def close(self, crashed: Collection[str]) -> None:
        """Marks what nobody runs any more: a running trial that has not crashed was stopped.

        Args:
            crashed: places of the records of trials that crashed.
        """
        for record in self.records():
            if record.status == "running" and record.place not in crashed:
                record.write("stopped")
            if record.status in OVER:
                storage.remove(state_folder(record))

    def _is_own(self, record: Record) -> bool:
        same = record.parameters.keys() == self.space.domains.keys()
        return same and self.place(record.parameters) == record.place

    def value(self, lines: list[Line]) -> float | None:
        """What epochs come to: the metric of the epoch that the recipe keeps; None without any.

        The epoch with the best value of the space's metric, or the last one where that is kept.
        """
        values = [float(line[self.space.metric]) for line in lines]
        if not values:
            return None
        if self.base.keep == "last":
            return values[-1]
        return min(values) if self.space.mode == "min" else max(values)

    @property
    def worst(self) -> float:
        """The value of a trial that cannot be trained."""
        return float("inf") if self.space.mode == "min" else float("-inf")

    def run(
        self,
        parameters: Parameters,
        view: View,
        report: Report,
        *,
        device: str = "cpu",
        worker: MakeWorker | None = None,
        keep: bool = True,
    ) -> None:
        """One trial, from its beginning or from where it was interrupted.

        Args:
            parameters: of the trial.
            view: of the data.
            report: called after every epoch with ``epoch`` and ``value``; may end the trial by
                raising ``SystemExit``.
            device: a torch device.
            worker: makes the process of the training; it must call what it is given with each
                epoch's line.
            keep: write the record; one of several workers does.
        """
        record = self.open(parameters)
        self.replay(record, report)
        if record.status in OVER:
            return
        settings = self.settings(parameters)
        known = len(record.lines)

        def write(status: Status, error: str | None = None) -> None:
            if keep:
                record.write(status, error)

        def heard(line: Line) -> None:
            record.note(line)
            # The report of the last epoch may be the end of this call.
            write("finished" if line["epoch"] == settings.epochs else "running")
            if line["epoch"] > known:
                report({"epoch": line["epoch"], "value": self.value(record.lines)})

        write("running")
        make = worker or (lambda folder, call: LocalWorker(device, folder, call))
        try:
            crops, parts, _, start = prepare(PAPERS[self.paper], settings, view.crops, None)
            fit(settings, crops, parts, make(state_folder(record), heard), start=start)
        except InputError as error:
            write("refused", str(error))
            report({"epoch": len(record.lines) + 1, "value": self.worst})
        else:
            write("finished")
        if keep:
            storage.remove(state_folder(record))

    def replay(self, record: Record, report: Report) -> None:
        """Reports the epochs of a record again, and that it was refused."""
        for number, line in enumerate(record.lines, 1):
            report({"epoch": line["epoch"], "value": self.value(record.lines[:number])})
        if record.status == "refused":
            report({"epoch": len(record.lines) + 1, "value": self.worst})


def state_folder(record: Record) -> str:
    """Where the state of a running trial is kept."""
    return record.place.removesuffix(".json")
