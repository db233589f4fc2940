"""A worker whose speed, answers, memory and failures are known, as a program and as an `EngineSpec`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from vl2v_deploy.benchmarking.measure.processes import EngineSpec

WORKER = """
import os, sys, time
import numpy as np
from vl2v_deploy.benchmarking.worker.process import Engine, main
from vl2v_deploy.errors import ProviderError

def load(settings):
    print("noise on stdout, as libraries make")
    behaviour, after = settings.get("behaviour"), settings.get("after", 4)
    if behaviour == "refuse":
        raise ProviderError("no such provider here")
    if behaviour == "stall_on_load":
        time.sleep(60)
    time.sleep(settings.get("load_s", 0.0))
    ballast = np.ones(settings.get("ballast_bytes", 0), np.uint8)
    calls = []

    def work(scope, images, per_image_s):
        calls.append(len(images))
        if behaviour == "die" and len(calls) > after:
            print("the fuse blew", file=sys.stderr, flush=True)
            os._exit(7)
        if behaviour == "stall" and len(calls) > after:
            print("waiting for Godot", file=sys.stderr, flush=True)
            time.sleep(60)
        if behaviour == "err" and len(calls) > after:
            raise ProviderError("the device was lost")
        if settings.get("log"):
            with open(settings["log"], "a") as log:
                log.write(f"{settings['name']} {scope} {list(images)}" + chr(10))
        time.sleep(per_image_s * len(images))

    def set_streams(streams):
        if settings.get("log"):
            with open(settings["log"], "a") as log:
                log.write(f"{settings['name']} streams {streams}" + chr(10))

    def classify(encoded):
        names = [int(e) for e in encoded]
        work("bytes_to_label", names, settings["classify_s"])
        answers = [(int(name in settings.get("wrong", ())), 0.75) for name in names]
        return answers[1:] if behaviour == "forget" else answers

    def to_logits(tensor):
        work("tensor_to_logits", tensor.tolist(), settings["logits_s"])
        return np.zeros((len(tensor), 2), np.float32)

    return Engine(
        classify=classify,
        to_tensor=lambda encoded: np.array([int(e) for e in encoded]),
        to_logits=to_logits,
        facts={"provider": "fake", "model_bytes": 5 + 0 * len(ballast), **settings.get("facts", {})},
        place=lambda tensor: lambda: work("session", tensor.tolist(), settings["session_s"]),
        set_streams=set_streams,
    )

sys.exit(main(load))
"""


@pytest.fixture
def fake(tmp_path: Path) -> Any:
    """spec(name, **settings) of a fake engine; its images are files that hold their number, 0 to 3."""
    script = tmp_path / "fake_worker.py"
    script.write_text(WORKER)
    images = []
    for number in range(4):
        images.append(tmp_path / f"{number}.img")
        images[-1].write_text(str(number))

    def spec(name: str = "fake", **settings: Any) -> EngineSpec:
        common = {"name": name, "threads": 1, "images": [str(p) for p in images]}
        times = {"classify_s": 0.004, "logits_s": 0.002, "session_s": 0.001}
        return EngineSpec(name, {**common, **times, **settings}, (sys.executable, str(script)))

    return spec
