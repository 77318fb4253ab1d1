"""Labelled crops for training, from any of the data sets, without what must not be trained on.

Left out, each with a reason: images that are missing or cannot be decoded, that no task grades, and
that contradict each other (the same or nearly the same picture with two labels). Pictures that are
the same or nearly so with one label stay, in one group, which no split tears apart.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fertiray.data.datasets import CLASS, Item, Listing, recognise
from fertiray.data.focus import BLURRED, robust_z
from fertiray.data.frame import cohort_head_length, cut_head, sample
from fertiray.data.images import ImageError, Pixels, decode
from fertiray.data.reading import Cut, Excluded, Picture, read_pictures
from fertiray.data.splits import join_groups
from fertiray.data.twins import contradictions, find_twins
from fertiray.errors import InputError, StorageError
from fertiray.models.memebg import UNLABELLED
from fertiray.models.preprocess import Preprocessing, resize_crop

__all__ = ["UNLABELLED", "Excluded", "LabelledCrops", "load_labelled"]

Known = Mapping[str, tuple[str, ...]] | tuple[str, ...]


@dataclass(frozen=True)
class LabelledCrops:
    """Crops with labels, decoded and resized, in memory, sorted by their pixels' digests.

    Attributes:
        images: N x S x S x 3 uint8 RGB in [0, 255].
        targets: N x T int64 class index by task; ``UNLABELLED`` where not graded.
        tasks: class names by task, in the paper's order; ordinary sets have one task, ``class``.
        names: path relative to the data location, or the ``crop_id`` of a store; unique.
        patients: patient of each crop, None where unknown.
        digests: digest of each crop's pixels as decoded, before cutting and resizing.
        groups: N int64; crops with the same number belong on one side of a split: the same
            patient, the same pixels, or nearly the same.
        facets: what else is known of each crop, such as the day; an empty string where it is not.
        aspects: N float32 head aspect ratios of the raw images (long over short side of the
            minimum-area rectangle); NaN where not measured.
        excluded: images that were left out, and why.
        unframed: names of crops whose head the segmentation's rules did not find, so that its
            frame is a guess (only with ``frame="head"``).
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.int64]
    tasks: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    patients: tuple[str | None, ...]
    digests: tuple[str, ...]
    groups: NDArray[np.int64]
    facets: dict[str, tuple[str, ...]]
    aspects: NDArray[np.float32]
    excluded: tuple[Excluded, ...] = ()
    unframed: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64]:
        """N int64 class indices of the first task."""
        first: NDArray[np.int64] = self.targets[:, 0]
        return first

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the first task, by index."""
        return next(iter(self.tasks.values()))

    @property
    def digest(self) -> str:
        """Identifies the pixels and labels, whatever their order and place."""
        lines = sorted(f"{digest} {self.label(index)}" for index, digest in enumerate(self.digests))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def label(self, index: int) -> str:
        """The label of a crop as one string: its class, or ``EXP=1 ICM=A`` for several tasks."""
        named = {
            task: classes[target]
            for (task, classes), target in zip(
                self.tasks.items(), self.targets[index].tolist(), strict=True
            )
            if target != UNLABELLED
        }
        if len(self.tasks) == 1:
            return next(iter(named.values()), "")
        return " ".join(f"{task}={name}" for task, name in named.items())

    def take(self, indices: Iterable[int] | NDArray[np.int64]) -> LabelledCrops:
        """Some of the crops, in the order of their indices."""
        picked = np.asarray([*indices], dtype=np.int64)
        names = tuple(self.names[i] for i in picked)
        kept = {*names}
        return replace(
            self,
            images=self.images[picked],
            targets=self.targets[picked],
            names=names,
            patients=tuple(self.patients[i] for i in picked),
            digests=tuple(self.digests[i] for i in picked),
            groups=self.groups[picked],
            facets={key: tuple(own[i] for i in picked) for key, own in self.facets.items()},
            aspects=self.aspects[picked],
            unframed=tuple(name for name in self.unframed if name in kept),
        )


def load_labelled(
    location: str,
    preprocessing: Preprocessing,
    known: Known,
    *,
    frame: Literal["as_is", "head"] = "as_is",
    aspects: bool = False,
    drop_blurred: bool = False,
) -> LabelledCrops:
    """Reads every labelled crop at the size that the network takes.

    Args:
        location: any of :mod:`fertiray.data.datasets`, local or ``s3://``.
        preprocessing: gives the window and the size.
        known: the class names that the paper knows, in the order of its logits, by task; a tuple
            stands for the one task ``class``. Of one task only the classes that occur are kept, of
            several all.
        frame: ``head`` cuts every image's head out in its own frame
            (:mod:`fertiray.data.frame`); the crops of a store are in it already.
        aspects: measure the heads' aspect ratios.
        drop_blurred: leave out what :mod:`fertiray.data.focus` calls blurred.

    Raises:
        InputError: nothing there, no labels, a single class or one that the paper does not know.
    """
    tasks = by_task(known)
    listing = Listing.of(location)
    cut = _cutter(listing, tasks, preprocessing, frame)
    pictures, excluded = read_pictures(checked(listing, tasks), cut, aspects=aspects)
    if not pictures:
        first = f" ({excluded[0].name}: {excluded[0].detail})" if excluded else ""
        raise InputError(
            f"{location}: training needs two or more classes, found none{first}: give class"
            " folders, a labels.csv or a labelled crop store"
        )
    twins = find_twins(pictures)
    left_out = contradictions(pictures, twins)
    if drop_blurred:
        for index, entry in blurred(pictures).items():
            left_out.setdefault(index, entry)
    kept = [index for index in range(len(pictures)) if index not in left_out]
    excluded += {entry.name: entry for entry in left_out.values()}.values()
    return _assembled(
        location, [pictures[i] for i in kept], twins.clusters[kept], tasks, tuple(excluded)
    )


def by_task(known: Known) -> dict[str, tuple[str, ...]]:
    """The known classes by task."""
    return {CLASS: known} if isinstance(known, tuple) else dict(known)


def checked(listing: Listing, tasks: Mapping[str, tuple[str, ...]]) -> Iterator[Item]:
    """The items of a location whose labels are all known.

    Raises:
        InputError: one is not; names it, where it stands and what is known.
    """
    for item in recognise(listing).items(listing, tuple(tasks)):
        for task, label in item.labels.items():
            if label is not None and label not in tasks[task]:
                raise InputError(
                    f"{listing.location}: unknown {task} {label!r} ({item.origin}); this paper's"
                    f" classes are {', '.join(tasks[task])}"
                )
        yield item


def blurred(pictures: list[Picture]) -> dict[int, Excluded]:
    """The pictures that are blurred beyond the spread of their set, by index."""
    z = robust_z(np.array([picture.focus for picture in pictures]))
    return {
        int(index): Excluded(
            pictures[index].name,
            "blurred",
            f"{-z[index]:.1f} robust standard deviations less sharp than the set's median",
        )
        for index in np.flatnonzero(z < BLURRED)
    }


def _cutter(
    listing: Listing,
    tasks: Mapping[str, tuple[str, ...]],
    preprocessing: Preprocessing,
    frame: Literal["as_is", "head"],
) -> Cut:
    def as_is(item: Item, image: Pixels) -> tuple[Pixels, bool]:
        del item
        return resize_crop(image, preprocessing), True

    if frame == "as_is":
        return as_is
    names = [item.name for item in checked(listing, tasks) if not item.framed]
    if not names:
        return as_is
    chosen = {*sample(names)}
    items = {item.name: item for item in checked(listing, tasks) if item.name in chosen}
    head_length = cohort_head_length([*_decoded(items[name] for name in sorted(items))])
    if not head_length:
        raise InputError(
            f"{listing.location}: frame=head, but none of {len(items)} images shows a stained sperm"
            " head: set frame=as_is"
        )

    def head(item: Item, image: Pixels) -> tuple[Pixels, bool]:
        if item.framed:
            return as_is(item, image)
        crop, found = cut_head(image, head_length)
        return resize_crop(crop, preprocessing), found

    return head


def _decoded(items: Iterable[Item]) -> Iterator[Pixels]:
    """The images of items, without those that are missing or damaged: these are listed later."""
    for item in items:
        try:
            yield decode(item.read(), name=item.name)
        except StorageError:  # the next file would fail too
            raise
        except (ImageError, InputError, OSError):
            continue


def _assembled(
    location: str,
    pictures: list[Picture],
    clusters: NDArray[np.int64],
    known: Mapping[str, tuple[str, ...]],
    excluded: tuple[Excluded, ...],
) -> LabelledCrops:
    present = {task: Counter(picture.labels.get(task) for picture in pictures) for task in known}
    if len(known) == 1:
        tasks = {task: tuple(c for c in known[task] if present[task][c]) for task in known}
    else:
        tasks = {task: known[task] for task in known if any(present[task][c] for c in known[task])}
    if not any(sum(present[task][c] > 0 for c in classes) > 1 for task, classes in tasks.items()):
        found = [c for task in known for c in known[task] if present[task][c]]
        raise InputError(
            f"{location}: training needs two or more classes, found {found or 'none'}:"
            " give class folders, a labels.csv or a labelled crop store"
        )
    number = {
        task: {None: UNLABELLED} | {name: i for i, name in enumerate(classes)}
        for task, classes in tasks.items()
    }
    facets = sorted({facet for picture in pictures for facet in picture.facets})
    patients = tuple(picture.patient for picture in pictures)
    return LabelledCrops(
        images=np.stack([picture.crop for picture in pictures]),
        targets=np.array(
            [[number[task][p.labels.get(task)] for task in tasks] for p in pictures], dtype=np.int64
        ),
        tasks=tasks,
        names=tuple(picture.name for picture in pictures),
        patients=patients,
        digests=tuple(picture.digest for picture in pictures),
        groups=join_groups(patients, [str(cluster) for cluster in clusters.tolist()]),
        facets={facet: tuple(p.facets.get(facet, "") for p in pictures) for facet in facets},
        aspects=np.array([picture.aspect for picture in pictures], dtype=np.float32),
        excluded=excluded,
        unframed=tuple(picture.name for picture in pictures if not picture.framed),
    )
