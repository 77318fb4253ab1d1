"""What the service takes in at most; beyond it the answer is 413, 429 or 503, never a crash."""

from __future__ import annotations

from dataclasses import dataclass

from fertiray.data.images import CROP


@dataclass(frozen=True)
class Limits:
    """Bounds of requests, archives and queues. Those of a single image are ``data.images.CROP``.

    Attributes:
        body_bytes: of one request; what is larger is uploaded in parts. (Serve's proxy holds in
            memory what its replicas have not taken yet, so this also bounds that.)
        images: of one ``/v1/score`` request.
        requests: interactive ones at a time in one replica of the door, computed or waiting.
        upload_bytes: of one archive.
        files: of one archive.
        unpacked_bytes: of one archive, unpacked.
        waiting: accepted jobs that have not begun, of all clinics together.
        waiting_of_one: the same, of one clinic.
        uploads: archives of a clinic, those of waiting jobs included.
        receiving: requests with an archive or a part of one, at a time in one replica of the door.
        free_bytes: of disk that must be left.
    """

    body_bytes: int = 8 * CROP.max_bytes
    images: int = 64
    requests: int = 128
    upload_bytes: int = 8 * 2**30
    files: int = 200_000
    unpacked_bytes: int = 32 * 2**30
    waiting: int = 200
    waiting_of_one: int = 20
    uploads: int = 50
    receiving: int = 8
    free_bytes: int = 2 * 2**30
