"""What a synthetic sperm is: the features that set "bound" and "unbound" apart, and the rest.

Two classes differ by *stated* normal distributions, one per feature (:data:`BOUND`,
:data:`UNBOUND`, a :class:`Look` each), drawn independently and clipped to :data:`LIMITS`. They
follow what the zona-pellucida (ZP) literature says of sperm that bind: an intact, large acrosome,
a smooth oval head of regular size, condensed (darkly stained) chromatin without vacuoles. The
values are a design, not a measurement; what is known is the truth of every head drawn from them.
Everything else (waves of the outline, where vacuoles sit, how the acrosome border runs, midpiece,
cytoplasmic droplet, tail) comes from the same distributions in both classes.

Lengths are micrometres. The head frame has its origin in the middle of the head, ``v`` along the
head towards the acrosome, ``u`` across.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from fertiray.errors import InputError

Array = npt.NDArray[np.float32]

CLASSES = ("unbound", "bound")


@dataclass(frozen=True)
class Look:
    """Mean and standard deviation of every latent feature of one class.

    Attributes:
        length: head length in micrometres.
        aspect: head length over head width.
        acrosome: share of the head's length under the (paler) acrosome, 0 to 1.
        vacuoles: share of the head's area that is vacuole, 0 to 1.
        density: nuclear stain relative to the slide's mean (chromatin condensation).
        taper: how much narrower the base is than the front, relative to the width.
        irregularity: relative amplitude of the outline's waves (0 = smooth oval).
    """

    length: tuple[float, float]
    aspect: tuple[float, float]
    acrosome: tuple[float, float]
    vacuoles: tuple[float, float]
    density: tuple[float, float]
    taper: tuple[float, float]
    irregularity: tuple[float, float]


BOUND = Look(
    length=(4.75, 0.32),
    aspect=(1.50, 0.12),
    acrosome=(0.46, 0.055),
    vacuoles=(0.004, 0.010),
    density=(1.05, 0.09),
    taper=(0.05, 0.06),
    irregularity=(0.012, 0.006),
)
UNBOUND = Look(
    length=(4.70, 0.45),
    aspect=(1.76, 0.22),
    acrosome=(0.26, 0.075),
    vacuoles=(0.026, 0.022),
    density=(0.95, 0.12),
    taper=(0.16, 0.11),
    irregularity=(0.026, 0.013),
)
LOOKS = {"unbound": UNBOUND, "bound": BOUND}
FEATURES = tuple(field.name for field in fields(Look))
LIMITS = Look(
    length=(3.2, 6.4),
    aspect=(1.1, 2.8),
    acrosome=(0.04, 0.70),
    vacuoles=(0.0, 0.15),
    density=(0.45, 1.5),
    taper=(-0.15, 0.5),
    irregularity=(0.0, 0.09),
)
MEDIAN_LENGTH = 4.70  # micrometres: the head length of a cohort of mostly unbound sperm

TAIL_STEP = 1.2  # micrometres between two points of a tail

_ANGLES = np.linspace(0, 2 * np.pi, 72, endpoint=False)
_COSINES, _SINES = (
    np.stack([wave(k * _ANGLES) for k in (2, 3, 4, 5)]) for wave in (np.cos, np.sin)
)
_LOW, _HIGH = np.array([getattr(LIMITS, name) for name in FEATURES]).T
_NORMALS = {c: np.array([getattr(look, name) for name in FEATURES]).T for c, look in LOOKS.items()}
_FADING = 0.86 ** np.arange(40)  # how a tail's turn lasts from point to point


@dataclass(frozen=True)
class Sperm:
    """One sperm, fully determined: drawing it at any place and scale needs no more chance.

    Attributes:
        label: "unbound" or "bound".
        features: the latent features in the order of :data:`FEATURES`.
        outline: (72, 2) float32 points (u, v) of the head's edge in micrometres; its extent along
            ``v`` is the length, across ``u`` the width, its middle the origin.
        half_length: half the head's length along ``v`` in micrometres before the waves.
        half_width: half the head's width across ``u`` in micrometres before taper and waves.
        middle: (2,) the outline's middle (u, v) in units of the two half axes.
        waves: (4, 2) cosine and sine amplitudes of the outline's harmonics 2 to 5.
        bend: sideways bend of the axis, in half widths at the ends.
        border: (3,) acrosome border: height of the nucleus' dome, slant, softness (half lengths).
        tone: (4,) acrosome stain, basal darkening, rim, nuclear hue (blue against purple).
        vacuoles: (n, 4) each: x, t (unit ellipse), radius in half widths, depth in 0 to 1.
        texture: (4, 3) plane waves of the chromatin: frequency in u and v, phase.
        neck: (5,) midpiece width, length (micrometres), stain; droplet radius (0 = none), side.
        tail: (n, 2) float32 points (u, v) in micrometres from the head's base to the tail's end.
        focus: extra blur of this sperm (standard deviation, micrometres).
    """

    label: str
    features: tuple[float, ...]
    outline: Array
    half_length: float
    half_width: float
    middle: Array
    waves: Array
    bend: float
    border: Array
    tone: Array
    vacuoles: Array
    texture: Array
    neck: Array
    tail: Array
    focus: float

    @property
    def length(self) -> float:
        """Head length in micrometres."""
        return self.features[0]

    @property
    def width(self) -> float:
        """Head width in micrometres."""
        return self.features[0] / self.features[1]


def sample_features(label: str, rng: np.random.Generator) -> tuple[float, ...]:
    """The latent features of one head, in the order of :data:`FEATURES`.

    Raises:
        InputError: the label is not one of :data:`CLASSES`.
    """
    if label not in LOOKS:
        raise InputError(f"label {label!r} has no look; use one of {', '.join(CLASSES)}")
    means, deviations = _NORMALS[label]
    drawn = np.minimum(np.maximum(rng.normal(means, deviations), _LOW), _HIGH)
    return tuple(drawn.tolist())


def sample_sperm(label: str, rng: np.random.Generator) -> Sperm:
    """One sperm of a class.

    Raises:
        InputError: the label is not one of :data:`CLASSES`.
    """
    features = sample_features(label, rng)
    length, aspect, acrosome, vacuoles, _, taper, irregularity = features
    waves = rng.normal(0, 1, (4, 2)) * irregularity / np.array([[1.0], [1.0], [1.4], [2.0]])
    bend = float(rng.normal(0, 1.5 * irregularity))
    u, v = _unit_outline(waves, taper, bend)
    middle_u, middle_v = (u.min() + u.max()) / 2, (v.min() + v.max()) / 2
    half_length = length / (v.max() - v.min())
    half_width = length / aspect / (u.max() - u.min())
    root = ((bend - middle_u) * half_width, (v.min() - middle_v) * half_length + 0.3)
    droplet = rng.uniform(0.4, 0.9) if rng.random() < 0.2 else 0.0
    tone = rng.normal((1, 1, 0.12, 1), (0.13, 0.2, 0.08, 0.18))
    neck = (
        rng.uniform(0.2, 0.6),
        rng.uniform(2.0, 5.0),
        rng.lognormal(0, 0.5),
        droplet,
        rng.uniform(-1, 1),
    )
    return Sperm(
        label=label,
        features=features,
        outline=np.column_stack([(u - middle_u) * half_width, (v - middle_v) * half_length]).astype(
            np.float32
        ),
        half_length=float(half_length),
        half_width=float(half_width),
        middle=np.array([middle_u, middle_v], np.float32),
        waves=waves.astype(np.float32),
        bend=bend,
        border=rng.normal((0.22, 0.0, 0.15), (0.15, 0.1, 0.03)).astype(np.float32),
        tone=tone.astype(np.float32),
        vacuoles=_vacuoles(vacuoles, 1 - 2 * acrosome, rng),
        texture=np.array([*rng.normal(0, 2.0, (2, 4)), rng.uniform(0, 6.3, 4)], np.float32).T,
        neck=np.array(neck, np.float32),
        tail=(_tail(rng) + root).astype(np.float32),
        focus=float(abs(rng.normal(0, 0.05))),
    )


def bayes_error(samples: int = 200_000, seed: int = 0) -> float:
    """Error of the best classifier of the latent features at balanced classes (Monte Carlo).

    The features are independent normals, so the rule is the sign of the sum of their
    log-likelihood ratios (quadratic discriminant). The clipping to :data:`LIMITS` is drawn but not
    in the likelihood, which matters for the vacuoles only (half of "bound" have none).
    """
    rng = np.random.default_rng(seed)
    errors = []
    for label, sign in zip(CLASSES, (-1, 1), strict=True):
        means, deviations = _NORMALS[label]
        drawn = rng.normal(means, deviations, (samples // 2, len(FEATURES))).clip(_LOW, _HIGH)
        unbound, bound = (
            -0.5 * (((drawn - mean) / deviation) ** 2).sum(axis=1) - np.log(deviation).sum()
            for mean, deviation in (_NORMALS[c] for c in CLASSES)
        )
        errors.append(float(np.mean(sign * (bound - unbound) < 0)))
    return sum(errors) / 2


def _unit_outline(
    waves: npt.NDArray[np.floating], taper: float, bend: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The outline in units of the half axes: an ellipse with waves, then tapered and bent."""
    radius = 1 + waves[:, 0] @ _COSINES + waves[:, 1] @ _SINES
    v = radius * np.cos(_ANGLES)
    return radius * np.sin(_ANGLES) * (1 + taper * v) + bend * v * v, v


def _vacuoles(share: float, border: float, rng: np.random.Generator) -> Array:
    """Vacuoles that together cover the share of the head, mostly in the nucleus and near it."""
    count = int(rng.integers(1, 5))
    parts = rng.dirichlet(np.full(count, 2.0))
    radii = np.sqrt(share * parts)  # of the unit disc's area: pi r^2 / pi
    t = np.clip(rng.normal(border - 0.25, 0.3, count), -0.7, 0.8)
    x = rng.uniform(-0.6, 0.6, count) * np.sqrt(1 - t * t)
    return np.column_stack([x, t, radii, rng.uniform(0.4, 0.8, count)]).astype(np.float32)


def _tail(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A smooth wandering path (n, 2) from the origin, starting downwards (v falls)."""
    count = int(rng.uniform(18, 45) / TAIL_STEP)
    kicks = rng.normal(0, 0.03, count)
    heading = -np.pi / 2 + rng.normal(0, 0.25) + np.cumsum(np.convolve(kicks, _FADING)[:count])
    steps = TAIL_STEP * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    return np.vstack([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
