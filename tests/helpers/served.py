"""A teacher behind a real HTTP server, in a thread of the test's own process."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from vl2v_deploy.models.teacher.protocol import Teacher
from vl2v_deploy.serving.app import create_app
from vl2v_deploy.serving.protocol import protocol_with_timeout
from vl2v_deploy.serving.settings import ServeSettings


@contextmanager
def served(teacher: Teacher, name: str = "colour", **settings: Any) -> Iterator[str]:
    """URL of the server; settings are ServeSettings' own."""
    chosen = ServeSettings(**settings)
    config = uvicorn.Config(
        create_app(teacher, name, chosen),
        http=protocol_with_timeout(chosen.read_timeout_s),
        log_level="critical",
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_uri(image: Image.Image) -> str:
    """data:image/png;base64,..."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def coloured_images(count: int) -> list[Image.Image]:
    """Images of four colours each, all different, 24 x 20."""
    colours = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    return [Image.fromarray(four).resize((24, 20), Image.Resampling.NEAREST) for four in colours]
