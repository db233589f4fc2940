"""Students as ONNX graphs without a run: a timm net with random weights, its graph as export writes it."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import timm
import torch
import torch.nn.functional as F
from torch import nn

from vl2v_deploy.client.preprocess import Pixels
from vl2v_deploy.exporting.graph.student_graph import DeployedStudent, deployed_student, write_onnx
from vl2v_deploy.models.student import Student

SIZE_PX, CLASSES, DIM = 32, 5, 16


def random_student(backbone: str) -> Student:
    """A student of this timm backbone with random weights, BatchNorm statistics included."""
    torch.manual_seed(0)
    options = {"img_size": SIZE_PX} if "vit" in backbone else {}
    net = timm.create_model(backbone, num_classes=0, **options).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    width = net(torch.zeros(1, 3, SIZE_PX, SIZE_PX)).shape[1]
    student = Student(net, nn.Linear(width, DIM), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval()
    # A random net says nearly the same of all pictures: spread its embeddings out, or labels never move.
    with torch.no_grad():
        features = student.features(torch.from_numpy(pictures(64)))  # (64, d_s)
        student.projector.bias.copy_(-0.9 * student.projector.weight @ features.mean(dim=0))
    return student


@functools.cache
def student_graph(backbone: str) -> tuple[DeployedStudent, onnx.ModelProto]:
    """The student as torch module and as fp32 graph."""
    return graph_of(random_student(backbone))


def graph_of(student: Student) -> tuple[DeployedStudent, onnx.ModelProto]:
    torch.manual_seed(1)
    run = SimpleNamespace(
        student=student,
        text_emb=F.normalize(torch.randn(CLASSES, DIM), dim=1),
        logit_scale=20.0,
        classes=[f"class {number}" for number in range(CLASSES)],
        recipe=SimpleNamespace(student=SimpleNamespace(image_size_px=SIZE_PX, backbone="a student")),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        write_onnx(run, path)  # type: ignore[arg-type]
        return deployed_student(run), onnx.load(path)  # type: ignore[arg-type]


def pictures(count: int, seed: int = 0) -> Pixels:
    """Blurry random pictures; uint8 (count, S, S, 3)."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=SIZE_PX, mode="bicubic").clamp(0, 1)
    pixels: Pixels = (255 * smooth).byte().permute(0, 2, 3, 1).contiguous().numpy().astype(np.uint8)
    return pixels
