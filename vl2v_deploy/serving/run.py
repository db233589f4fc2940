"""`vl2v-deploy teacher serve`: the recipe's teacher behind HTTP until the process is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import uvicorn

from vl2v_deploy.client.decoding_processes import start_decoding_processes
from vl2v_deploy.errors import ServingError
from vl2v_deploy.models.teacher.load import load_teacher
from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.recipe import OpenClipRecipe, TeacherRecipe, TransformersRecipe
from vl2v_deploy.serving.app import create_app
from vl2v_deploy.serving.protocol import protocol_with_timeout
from vl2v_deploy.serving.service import served_name
from vl2v_deploy.serving.settings import ServeSettings
from vl2v_deploy.signals import Interrupted


def serve_recipe(
    recipe: TeacherRecipe,
    settings: ServeSettings,
    *,
    device: str = "cpu",
    name: str | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Loads the recipe's teacher and serves it until SIGTERM or Ctrl-C; what was accepted is answered then.

    device: where it computes
    name:   of the model, in URLs and requests; None = the last part of what the recipe calls it
    ready:  told in a line when requests are answered

    Raises ServingError for a teacher that cannot be served or an address that cannot be had, and what
    load_teacher and serve_teacher raise.
    """
    if not isinstance(recipe, OpenClipRecipe | TransformersRecipe):
        raise ServingError(_WHY_NOT.get(recipe.kind, f"teacher.kind: {recipe.kind} cannot be served"))
    with _bound(settings.host, settings.port) as listener:  # before the model is loaded, which takes its time
        # A batch is filled up to the teacher's batch size, so that an answer does not depend on the others in
        # it: of the recipe's own size the answers are those of the local teacher to the last bit.
        size = settings.max_batch or recipe.batch_size
        teacher = load_teacher(recipe.model_copy(update={"batch_size": size}), device)
        serve_teacher(teacher, name or served_name(recipe.names), settings, listener, ready)


_WHY_NOT = {
    "http": "teacher.kind: http: this teacher is a vendor's; serving its answers onward would spend its "
    "key's budget for others, and most terms of use forbid it. Serve a teacher that computes on this machine",
    "precomputed": "teacher.kind: precomputed: it knows the files of one data folder, and no image that a "
    "client could send. Serve a teacher that computes on this machine",
    "python": "teacher.kind: python: a recipe cannot load a Python object; "
    "vl2v_deploy.serving.app.create_app makes an ASGI application of it",
}


def serve_teacher(
    teacher: Teacher,
    name: str,
    settings: ServeSettings,
    listener: socket.socket,
    ready: Callable[[str], None] = print,
) -> None:
    """Serves a teacher at a bound socket until SIGTERM or Ctrl-C.

    Raises ServingError when another process listens there, DecodingError when images cannot be decoded in
    processes of their own.
    """
    if (
        settings.decode_deadline_s is not None
    ):  # not first within the application, whose failure is a traceback
        start_decoding_processes()
    app = create_app(teacher, name, settings)
    config = uvicorn.Config(
        app,
        http=protocol_with_timeout(settings.read_timeout_s),
        log_level="warning",
        access_log=False,
        ws="none",
        lifespan="on",
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=max(1, round(settings.stop_timeout_s)),
        server_header=False,
    )
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(socket.SOMAXCONN)
    except OSError as error:  # another process was faster
        raise _cannot_listen(host, port, error) from error
    shown = f"[{host}]" if ":" in host else host
    guarded = "with a key" if settings.key else "without a key"
    ready(
        f"Serving {teacher.identity} as {name} at http://{shown}:{port} ({guarded}): D = "
        f"{teacher.embedding_dim}, {teacher.image_size_px} px. OpenAI-style: /v1/embeddings; KServe v2: "
        f"/v2/models/{name}/infer; /health, /metrics"
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except Interrupted as told:  # it has answered all, and passes the signal on
        if told.number != signal.SIGTERM:
            raise


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> ServingError:
    reason = error.strerror or str(error)
    return ServingError(f"cannot listen at {host} port {port}: {reason}; choose another --port or --host")
