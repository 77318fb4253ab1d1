"""What a data set hands over: one item for each labelled image, and the listing it is found in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fertiray import storage
from fertiray.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

CLASS = "class"
"""Name of the task of a set that has only one."""


@dataclass(frozen=True)
class Item:
    """A labelled image that has not been read yet.

    Attributes:
        name: path relative to the data location, or the ``crop_id`` of a crop store.
        place: where the image is.
        labels: class name by task; None where it is not graded.
        patient: patient, None where unknown.
        facets: what else is known, such as the day of development.
        origin: where the label comes from, named in errors.
        data: the encoded image where it was read along with the label.
        framed: the image is in the head's own frame already.
    """

    name: str
    place: str
    labels: Mapping[str, str | None]
    patient: str | None = None
    facets: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""
    data: bytes | None = None
    framed: bool = False

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            InputError: it is not there.
        """
        return storage.read_bytes(self.place) if self.data is None else self.data


@dataclass(frozen=True)
class Listing:
    """The names of all files below a location, listed once for all data sets.

    Attributes:
        location: local folder or ``s3://`` prefix.
        names: paths relative to it, with forward slashes, sorted.
    """

    location: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, location: str) -> Listing:
        """Lists a location.

        Raises:
            InputError: there is no such folder.
        """
        if not storage.exists(location):
            raise InputError(f"{location}: no such folder; give a labelled folder or a crop store")
        names = [storage.relative(file, location) for file in storage.list_files(location)]
        if location in names or names == [""]:
            raise InputError(f"{location}: is a file; give the folder that holds it")
        return cls(location, tuple(sorted(names)))

    def place(self, name: str) -> str:
        """The full location of a file."""
        return storage.join(self.location, name)

    def first(self, *names: str) -> str | None:
        """The first of these files that is there."""
        return next((name for name in names if name in self.files), None)

    @cached_property
    def files(self) -> frozenset[str]:
        """All names, for looking one up."""
        return frozenset(self.names)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The names that end as an image's does."""
        return tuple(name for name in self.names if name.lower().endswith(IMAGE_SUFFIXES))

    @cached_property
    def _by_base(self) -> Mapping[str, str | None]:
        found: dict[str, str | None] = {}
        for name in self.images:
            base = name.rpartition("/")[2].lower()
            for key in (base, base.rpartition(".")[0]):
                found[key] = None if key in found else name  # of two, neither is meant
        return found

    def find(self, name: str) -> str:
        """The path of an image that a table names.

        Args:
            name: its path, or its base name with or without the ending if only one image below
                the location is called so.

        Returns:
            The path of the file; the name itself where no file is meant by it.

        Raises:
            InputError: the name leads out of the location.
        """
        if name in self.files:
            return name
        found = self._by_base.get(name.rpartition("/")[2].lower())
        if found is None and (".." in name.split("/") or "\0" in name):
            raise InputError(
                f"{self.location}: a table there names the image {name!r}; give paths below it"
            )
        return found or name
