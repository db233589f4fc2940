"""A student behind HTTP: an encoded image in the body, JSON out.

pip install fastapi uvicorn
VL2V_BUNDLE=bundles/quickstart uvicorn --app-dir examples serve_fastapi:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

One process, one student: concurrent requests are gathered into batches. Set VL2V_MAX_QUEUE to say how many
images may be in work at once, beyond which the answer is 503; VL2V_MAX_BYTES limits each image.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response

from vl2v_deploy.client import MicroBatcher, Monitor, Student
from vl2v_deploy.client.monitor.exposition import CONTENT_TYPE
from vl2v_deploy.errors import BusyError, ClosedError, ImageError

MAX_QUEUE = int(os.environ.get("VL2V_MAX_QUEUE", "256"))
MAX_BYTES = int(os.environ.get("VL2V_MAX_BYTES", "20000000"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if "VL2V_BUNDLE" not in os.environ:
        raise RuntimeError("set VL2V_BUNDLE to a bundle written by `vl2v-deploy export`")
    with Student.load(os.environ["VL2V_BUNDLE"]) as student:
        monitor = Monitor(student)
        async with MicroBatcher(
            student, max_batch=min(32, MAX_QUEUE), max_queue=MAX_QUEUE, observer=monitor.observe_outputs
        ) as batcher:
            app.state.batcher, app.state.monitor = batcher, monitor
            yield  # closing answers what was accepted


app = FastAPI(title="student", lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request, top: Annotated[int, Query(ge=1)] = 3) -> dict[str, Any]:
    """Label, probability and the most probable classes of the image in the body."""
    try:
        with request.app.state.monitor.operations.timed():
            prediction = await request.app.state.batcher.predict_async(await body_of(request), top=top)
    except ImageError as error:
        raise HTTPException(400, str(error)) from error
    except (BusyError, ClosedError) as error:
        raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from error
    return asdict(prediction)


@app.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """Which student answers here."""
    student = request.app.state.batcher.student
    return {"status": "ok", "precision": student.precision, "provider": student.provider}


@app.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    """What was done since the start; `in_flight` near VL2V_MAX_QUEUE says that one process is not enough."""
    statistics = request.app.state.batcher.statistics
    return asdict(statistics) | {"mean_batch": statistics.mean_batch}


@app.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus: answers, errors, latency, batches, queue, and drift from source validation."""
    state = request.app.state
    return Response(state.monitor.metrics(state.batcher.statistics), media_type=CONTENT_TYPE)


async def body_of(request: Request) -> bytes:
    """The request's body; never more of it in memory than is allowed, whatever its headers say."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise HTTPException(413, f"the image is larger than {MAX_BYTES} bytes")
    return bytes(body)
