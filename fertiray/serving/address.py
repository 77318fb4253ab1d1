"""Where a service listens."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from fertiray.errors import InputError


@dataclass(frozen=True)
class Address:
    """Where a service listens.

    Attributes:
        host: loopback unless told otherwise.
        port: TCP port.
        certificate: PEM file of the TLS certificate chain; empty without TLS.
        key: PEM file of its key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise InputError("--tls-cert and --tls-key: give both, or neither")
        for file in filter(None, (self.certificate, self.key)):
            if not Path(file).is_file():
                raise InputError(f"{file}: no such file; give the PEM file")

    @property
    def url(self) -> str:
        """What to put into a browser."""
        scheme = "https" if self.certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def exposed(self) -> bool:
        """Whether tokens would cross a network unencrypted."""
        try:
            loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            loopback = self.host == "localhost"
        return not loopback and not self.certificate

    def require_free(self) -> None:
        """Raises InputError where something listens there already."""
        with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except (OSError, OverflowError) as error:
                said = error.strerror if isinstance(error, OSError) else error
                raise InputError(
                    f"--host {self.host} --port {self.port}: {said}; choose another"
                ) from error
