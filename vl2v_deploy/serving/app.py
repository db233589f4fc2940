"""The FastAPI application: both APIs, health, metrics, and how each error is worded."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vl2v_deploy import __version__
from vl2v_deploy.client.decoding_processes import start_decoding_processes
from vl2v_deploy.errors import BusyError, ClosedError
from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.serving.connections import BoundedBodies
from vl2v_deploy.serving.inputs import Refused
from vl2v_deploy.serving.kserve import kserve_router
from vl2v_deploy.serving.metrics import CONTENT_TYPE_LATEST, Metrics
from vl2v_deploy.serving.openai import openai_router
from vl2v_deploy.serving.service import Service
from vl2v_deploy.serving.settings import ServeSettings


def create_app(teacher: Teacher, name: str, settings: ServeSettings) -> FastAPI:
    """An ASGI application that serves one teacher; it owns a thread, which ends with its lifespan.

    name: of the model, in URLs and requests
    """
    service = Service(teacher, name, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if settings.decode_deadline_s is not None:
            await run_in_threadpool(start_decoding_processes)
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(title=name, version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(openai_router(service))
    app.include_router(kserve_router(service))

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "model": name, "version": service.version}

    @app.get("/metrics")
    def metrics(request: Request) -> Response:
        service.require_key(request)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    for kind in (Refused, BusyError, ClosedError, HTTPException, Exception):
        app.add_exception_handler(kind, _error_response)
    app.add_middleware(
        BoundedBodies,
        max_body_bytes=settings.max_body_bytes,
        max_held_bytes=settings.max_held_body_bytes,
        timeout_s=settings.read_timeout_s,
    )
    app.add_middleware(_Counted, metrics=service.metrics)
    return app


def _error_response(request: Request, error: Exception) -> JSONResponse:
    """The error as the API that was asked words it."""
    headers: dict[str, str] = {}
    match error:
        case Refused():
            status, message, headers = error.status, str(error), error.headers
        case BusyError() | ClosedError():
            status, message, headers = 503, str(error), {"Retry-After": "1"}
        case HTTPException():
            status, message = error.status_code, str(error.detail)
            headers = dict(error.headers or {})
        case _:  # uvicorn logs it with its traceback
            status, message = 500, "the teacher failed on this request; the server's log says why"
    return JSONResponse(_worded(request.url.path, status, message), status, headers)


def _worded(path: str, status: int, message: str) -> dict[str, Any]:
    if _api_of(path) == "kserve":
        return {"error": message}
    if status in (401, 422):  # what infinity-emb leaves to FastAPI
        return {"detail": message}
    return {"error": {"message": message, "type": None, "param": None, "code": status}}


def _api_of(path: str) -> str:
    if path == "/v2" or path.startswith("/v2/"):
        return "kserve"
    return "openai" if path.removeprefix("/v1") in ("/embeddings", "/models") else "other"


class _Counted:
    """Counts and times every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began, api = 500, time.perf_counter(), _api_of(scope["path"])

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.requests.labels(api, str(status)).inc()
            self._metrics.request_seconds.labels(api).observe(time.perf_counter() - began)
