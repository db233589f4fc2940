"""What ships inside an application; imports numpy, onnxruntime, Pillow and the standard library only."""

from typing import TYPE_CHECKING, Any

from vl2v_deploy.client.answers import Prediction
from vl2v_deploy.client.bundle import Bundle, open_bundle
from vl2v_deploy.client.images import Limits
from vl2v_deploy.client.micro_batcher import BatcherStatistics, MicroBatcher
from vl2v_deploy.client.monitor.monitor import Monitor
from vl2v_deploy.client.preprocess import pixels_from_source, preprocess
from vl2v_deploy.client.session import Runtime
from vl2v_deploy.client.student import Student
from vl2v_deploy.client.verification import Verification

if TYPE_CHECKING:
    from vl2v_deploy.client.cascade.answers import CascadePrediction
    from vl2v_deploy.client.cascade.cascade import Cascade
    from vl2v_deploy.client.cascade.kept import KeptFolder
    from vl2v_deploy.client.cascade.policy import CascadePolicy
    from vl2v_deploy.client.cascade.summary import CascadeSummary
    from vl2v_deploy.client.cascade.teacher import TeacherAnswers, teacher_from_embeddings

__all__ = [
    "BatcherStatistics",
    "Bundle",
    "Cascade",
    "CascadePolicy",
    "CascadePrediction",
    "CascadeSummary",
    "KeptFolder",
    "Limits",
    "MicroBatcher",
    "Monitor",
    "Prediction",
    "Runtime",
    "Student",
    "TeacherAnswers",
    "Verification",
    "open_bundle",
    "pixels_from_source",
    "preprocess",
    "teacher_from_embeddings",
]
# What not every application needs is imported when it is asked for: it takes its time.
_LATE = {
    "Cascade": "cascade.cascade",
    "CascadePolicy": "cascade.policy",
    "CascadePrediction": "cascade.answers",
    "CascadeSummary": "cascade.summary",
    "KeptFolder": "cascade.kept",
    "TeacherAnswers": "cascade.teacher",
    "teacher_from_embeddings": "cascade.teacher",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
