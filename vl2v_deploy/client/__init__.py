"""What ships inside an application; imports numpy, onnxruntime, Pillow and the standard library only."""

from vl2v_deploy.client.answers import Prediction, Verification
from vl2v_deploy.client.bundle import Bundle, open_bundle
from vl2v_deploy.client.images import Limits
from vl2v_deploy.client.micro_batcher import BatcherStatistics, MicroBatcher
from vl2v_deploy.client.monitor.monitor import Monitor
from vl2v_deploy.client.preprocess import pixels_from_source, preprocess
from vl2v_deploy.client.session import Runtime
from vl2v_deploy.client.student import Student

__all__ = [
    "BatcherStatistics",
    "Bundle",
    "Limits",
    "MicroBatcher",
    "Monitor",
    "Prediction",
    "Runtime",
    "Student",
    "Verification",
    "open_bundle",
    "pixels_from_source",
    "preprocess",
]
