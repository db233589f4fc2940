"""What ships inside an application; imports numpy, onnxruntime, Pillow and the standard library only."""

from vl2v_deploy.client.bundle import Bundle, open_bundle
from vl2v_deploy.client.micro_batcher import BatcherStatistics, MicroBatcher
from vl2v_deploy.client.preprocess import preprocess
from vl2v_deploy.client.student import Prediction, Student, Verification

__all__ = [
    "BatcherStatistics",
    "Bundle",
    "MicroBatcher",
    "Prediction",
    "Student",
    "Verification",
    "open_bundle",
    "preprocess",
]
