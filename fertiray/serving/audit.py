"""The audit log: who asked for what, and what was answered; nothing about patients.

One JSON object a line, one file a day (UTC). A line holds the route as it is declared, never the
path, query, body or file name that was sent, so no patient identifier can get into it.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Audit:
    """Appends to the log; several processes may do so at once.

    Args:
        folder: made where it does not exist, readable by its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, event: str, **values: Any) -> None:
        """Appends one line: time, event and the values.

        Args:
            event: what happened, such as ``request`` or ``job``.
            values: JSON values; None is left out.
        """
        now = datetime.now(UTC)
        known = {key: value for key, value in values.items() if value is not None}
        line = json.dumps({"time": now.isoformat(timespec="milliseconds"), "event": event} | known)
        place = self.folder / f"audit-{now:%Y-%m-%d}.jsonl"
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line.encode() + b"\n")  # one write: lines of processes do not mix
        finally:
            os.close(handle)
