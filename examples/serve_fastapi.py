"""A student behind HTTP: an encoded image in the body, JSON out.

pip install fastapi uvicorn
VL2V_BUNDLE=bundles/quickstart uvicorn --app-dir examples serve_fastapi:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

One process, one student: concurrent requests are gathered into batches. Limits on what clients ask:

VL2V_MAX_QUEUE          images in work at once; beyond it the answer is 503
VL2V_MAX_BYTES          of an image (413); VL2V_MAX_HELD_BYTES: of all in work together (503)
VL2V_READ_TIMEOUT_S     for each 64 KB of an image to come (408)
VL2V_DECODE_DEADLINE_S  for decoding an image, after which its process is killed; 0 = none, in threads
VL2V_FORMATS            that are decoded: JPEG,PNG,WEBP,GIF unless others are named

uvicorn's --limit-concurrency bounds the connections; with --http vl2v_deploy.serving.protocol:TimedProtocol
headers that never end are given up after 10 s.

With VL2V_TEACHER, a file of `vl2v-deploy teacher pack`, a teacher is asked where the student is unsure:

VL2V_TEACHER_URL       of the teacher, if it is not that of the file
VL2V_CASCADE           the benchmark's cascade.json: when it is asked, whose answer is taken
VL2V_SHARE             in its place: the share of images that the teacher is asked about
VL2V_MAX_USD_PER_DAY   with VL2V_SPENT_FILE, which remembers across restarts; processes may share it
VL2V_AUDIT_RATE        share of confident answers that are compared with the teacher's
VL2V_TEACHER_TIMEOUT_S, VL2V_MIN_INTERVAL_S    wait for an answer, and after a failure
VL2V_KEEP              folder for the images that the teacher answered
curl --json '{"request_id": "...", "label": "mammal"}' http://127.0.0.1:8000/feedback
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Query, Request, Response

from vl2v_deploy import ApiTeacher
from vl2v_deploy.client import Cascade, Limits, MicroBatcher, Monitor, Student
from vl2v_deploy.client.decoding_processes import start_decoding_processes
from vl2v_deploy.client.images import WEB_FORMATS
from vl2v_deploy.client.monitor.exposition import CONTENT_TYPE
from vl2v_deploy.errors import BusyError, ClosedError, ImageError, UnknownRequest
from vl2v_deploy.serving.connections import BoundedBodies, unless_gone

MAX_QUEUE = int(os.environ.get("VL2V_MAX_QUEUE", "256"))
MAX_BYTES = int(os.environ.get("VL2V_MAX_BYTES", "20000000"))
MAX_HELD_BYTES = int(os.environ.get("VL2V_MAX_HELD_BYTES", "200000000"))
READ_TIMEOUT_S = float(os.environ.get("VL2V_READ_TIMEOUT_S", "10"))
LIMITS = Limits(
    max_bytes=MAX_BYTES,
    formats=tuple(os.environ.get("VL2V_FORMATS", ",".join(WEB_FORMATS)).split(",")),
    decode_deadline_s=float(os.environ.get("VL2V_DECODE_DEADLINE_S", "10")) or None,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if "VL2V_BUNDLE" not in os.environ:
        raise RuntimeError("set VL2V_BUNDLE to a bundle written by `vl2v-deploy export`")
    if LIMITS.decode_deadline_s is not None:
        start_decoding_processes()
    with Student.load(os.environ["VL2V_BUNDLE"], limits=LIMITS) as student:
        # Bundles of earlier versions hold no reference to compare with.
        monitor = Monitor(student) if student.bundle.manifest.reference else None
        observer = monitor.observe_outputs if monitor else None
        batcher = MicroBatcher(student, max_batch=min(32, MAX_QUEUE), max_queue=MAX_QUEUE, observer=observer)
        async with AsyncExitStack() as open_until_the_end:
            app.state.batcher = await open_until_the_end.enter_async_context(batcher)
            app.state.monitor = monitor
            if "VL2V_TEACHER" in os.environ:
                app.state.cascade = await open_until_the_end.enter_async_context(cascade_of(batcher))
            yield  # closing answers what was accepted


def cascade_of(batcher: MicroBatcher) -> Cascade:
    """The cascade that the environment asks for."""
    get = os.environ.get
    share, most = get("VL2V_SHARE"), get("VL2V_MAX_USD_PER_DAY")
    timeout_s = float(get("VL2V_TEACHER_TIMEOUT_S", "5"))
    limits = LIMITS
    if limits.decode_deadline_s is not None:
        # Half the time for an answer: an image that is slow to decode is not taken for a slow teacher.
        limits = replace(limits, decode_deadline_s=min(limits.decode_deadline_s, timeout_s / 2))
    teacher = ApiTeacher.load(os.environ["VL2V_TEACHER"], limits=limits, url=get("VL2V_TEACHER_URL"))
    return Cascade(
        batcher,
        teacher,
        policy=get("VL2V_CASCADE"),
        share=None if share is None else float(share),
        max_usd_per_day=None if most is None else float(most),
        spent_file=get("VL2V_SPENT_FILE"),
        audit_rate=float(get("VL2V_AUDIT_RATE", "0")),
        timeout_s=timeout_s,
        min_interval_s=float(get("VL2V_MIN_INTERVAL_S", "10")),
        max_waiting=MAX_QUEUE,
        keep=get("VL2V_KEEP"),
    )


app = FastAPI(title="student", lifespan=lifespan)
app.add_middleware(
    BoundedBodies, max_body_bytes=MAX_BYTES, max_held_bytes=MAX_HELD_BYTES, timeout_s=READ_TIMEOUT_S
)


@app.post("/predict")
async def predict(request: Request, top: Annotated[int, Query(ge=1)] = 3) -> dict[str, Any]:
    """Label, probability and most probable classes of the image in the body; of a cascade who answered."""
    answering = getattr(request.app.state, "cascade", request.app.state.batcher)
    try:
        with monitor.operations.timed() if (monitor := request.app.state.monitor) else nullcontext():
            answer = answering.predict_async(await request.body(), top=top)
            prediction = await unless_gone(request, answer)
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


@app.get("/cascade")
def cascade(request: Request) -> dict[str, Any]:
    """What the cascade has done, spent and learnt since the start."""
    return asdict(cascade_in(request).summary())


@app.post("/feedback")
def feedback(request: Request, told: Annotated[dict[str, str], Body()]) -> dict[str, str]:
    """The right label of an earlier answer: {"request_id": ..., "label": ...}."""
    try:
        cascade_in(request).feedback(told.get("request_id", ""), told.get("label", ""))
    except UnknownRequest as error:
        raise HTTPException(404, str(error)) from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    return {"status": "counted"}


def cascade_in(request: Request) -> Cascade:
    """The cascade of this service; 404 where there is none."""
    found = getattr(request.app.state, "cascade", None)
    if found is None:
        raise HTTPException(404, "there is no cascade here: set VL2V_TEACHER")
    return found


@app.get("/metrics")
def metrics(request: Request) -> Response:
    """For Prometheus: answers, errors, latency, batches, queue, drift from source validation, the bill."""
    state = request.app.state
    if state.monitor is None:
        raise HTTPException(404, "the bundle has no reference statistics: export the run again")
    cascade: Cascade | None = getattr(state, "cascade", None)
    summary = cascade.summary() if cascade else None
    text = state.monitor.metrics(
        state.batcher.statistics,
        escalated=summary.escalated if summary else None,
        spent_usd=summary.spent_usd if summary else None,
        budget_usable=summary.budget_usable if summary else None,
    )
    return Response(text, media_type=CONTENT_TYPE)
