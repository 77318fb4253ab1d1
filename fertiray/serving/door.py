"""The door: every request passes here first, and closed is what it is by default.

It knows the caller by a bearer token before a single byte of the body is read, counts the body
against its limit, puts security headers on every answer, and writes the audit log. Where a route
has no place left it refuses by itself: under overload, what counts is what a refusal costs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fertiray import work
from fertiray.serving.audit import Audit
from fertiray.serving.limits import Limits
from fertiray.serving.service import Room
from fertiray.serving.tokens import Keyring, Token

PUBLIC = ("/", "/healthz", "/readyz")
PUBLIC_FOLDER = "/static/"
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
UNKNOWN = "send Authorization: Bearer TOKEN with a valid token; ask the operator for one"


@dataclass
class _Request:
    """What is noted of a request for the audit log."""

    started: float = field(default_factory=time.monotonic)
    received: int = 0
    status: int = 500
    route: str | None = None  # where the door answers itself; else the application knows it


class Door:
    """ASGI middleware around the whole interface.

    Args:
        app: what lies behind.
        keyring: the tokens.
        audit: the log.
        limits: ``body_bytes`` counts here.
        open_paths: further paths that need no token.
        rooms: by path, the places of its POST requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        audit: Audit,
        limits: Limits,
        open_paths: tuple[str, ...] = (),
        rooms: Mapping[str, Room] = MappingProxyType({}),
    ) -> None:
        self.app, self.keyring, self.audit, self.limits = app, keyring, audit, limits
        self.open_paths, self.rooms = (*PUBLIC, *open_paths), rooms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":  # lifespan; websockets have no route
            await self.app(scope, receive, send)
            return
        path, headers = scope["path"], Headers(scope=scope)
        request = _Request()
        answer = _answering(send, request, private=not path.startswith(PUBLIC_FOLDER), scope=scope)
        public = path in self.open_paths or path.startswith(PUBLIC_FOLDER)
        caller = None if public else self._caller(headers)
        scope.setdefault("state", {})["caller"] = caller
        most = self.limits.body_bytes
        try:
            if not public and caller is None:
                refusal = JSONResponse(
                    {"detail": UNKNOWN}, 401, {"www-authenticate": 'Bearer realm="fertiray"'}
                )
                await refusal(scope, receive, answer)
            elif path in self.rooms and scope["method"] == "POST" and self.rooms[path].full:
                request.route, refused = path, self.rooms[path].refusal()
                await JSONResponse(
                    {"detail": refused.detail}, refused.status_code, refused.headers
                )(scope, receive, answer)
            elif _declared(headers) > most:
                await JSONResponse({"detail": _too_large(most)}, 413)(scope, receive, answer)
            else:
                await self.app(scope, _counted(receive, request, most), answer)
        finally:
            self._note(scope, request, caller, public=public)

    def _caller(self, headers: Headers) -> Token | None:
        scheme, _, text = headers.get("authorization", "").partition(" ")
        return self.keyring.check(text.strip()) if scheme.lower() == "bearer" else None

    def _note(self, scope: Scope, request: _Request, caller: Token | None, *, public: bool) -> None:
        route = request.route or getattr(scope.get("route"), "path", None)
        seconds = time.monotonic() - request.started
        work.request(route, request.status, seconds)
        if public and request.status < 400:
            return
        self.audit.write(
            "request",
            method=scope["method"] if scope["method"] in METHODS else "other",
            route=route,
            status=request.status,
            clinic=caller.clinic if caller else None,
            token=caller.id if caller else None,
            job=scope["state"].get("job"),
            bytes_in=request.received or None,
            ms=round(1000 * seconds),
        )


def _declared(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isdecimal() and len(length) < 20 else 0


def _too_large(most: int) -> str:
    return f"the body is larger than {most} bytes; upload it in parts (POST /v1/uploads)"


def _counted(receive: Receive, request: _Request, most: int) -> Receive:
    async def counted() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            request.received += len(message.get("body", b""))
            if request.received > most:
                raise HTTPException(413, _too_large(most))
        return message

    return counted


def _answering(send: Send, request: _Request, *, private: bool, scope: Scope) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            request.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if private:
                headers.setdefault("cache-control", "no-store")
            if scope["scheme"] == "https":
                headers["strict-transport-security"] = "max-age=31536000"
        await send(message)

    return answer
