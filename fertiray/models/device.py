"""The device that networks run on, as the user names it."""

from __future__ import annotations

import torch

from fertiray.errors import InputError

KINDS = ("cpu", "cuda", "mps", "xpu")


def known(device: str) -> None:
    """Refuses what torch has no device for, whether this machine has it or another.

    Raises:
        InputError: it has none.
    """
    try:
        kind = "cpu" if device == "auto" else torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in KINDS:
        raise InputError(f"--device {device}: unknown; take one of: auto, {', '.join(KINDS)}")


def usable(device: str) -> str:
    """A torch device that is here; ``auto`` is a GPU where there is one.

    Raises:
        InputError: no device of torch, or none of this machine.
    """
    known(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"--device {device}: not on this machine ({said}); take cpu") from error
    return device
