"""The README inside a Triton model repository: its models, how to start a server, how to query it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vl2v_deploy.client.bundle import Bundle, engine_precision
from vl2v_deploy.client.onnx_file import FileAccuracy
from vl2v_deploy.client.passport import Passport
from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.escapes import markdown_cell, markdown_code
from vl2v_deploy.exporting.targets.triton_config import Model
from vl2v_deploy.exporting.targets.triton_deploy import (
    COMPOSE,
    RELEASE,
    SERVICE,
    on_gpu,
    server_options,
    service_text,
)

README = "README.md"


def readme_text(bundle: Bundle, models: Sequence[Model], left_out: Mapping[str, str]) -> str:
    """The whole README, Markdown."""
    name = bundle.name
    parts = [
        f"# Triton model repository of {markdown_cell(name)}",
        f"Written by `vl2v-deploy export --triton` from the bundle {markdown_code(name)}: "
        f"{len(bundle.classes)} classes, images of {bundle.image_size_px} px, embeddings of "
        f"{bundle.embedding_dim}. The configurations follow Triton's published schema; **no Triton server "
        "was started to make or to check this folder**, so run the check at the end once on yours.",
        "## Models",
        _table(bundle, models),
        *_notes(bundle, models, left_out),
        "## Start a server",
        *_server(models),
        "## KServe",
        *_kserve(models),
        "## Ask it",
        *_client(bundle, models),
    ]
    return "\n\n".join(parts) + "\n"


def _table(bundle: Bundle, models: Sequence[Model]) -> str:
    short = _target_words(bundle).short
    lines = [
        f"| model | file of the bundle | runs in | on | largest batch | accuracy ID % | {short} % |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for model in models:
        accuracy = _accuracy(bundle, model)
        shown = ["not known"] * 2
        if accuracy:
            shown = [
                f"{100 * accuracy.id:.1f}",
                accuracy.ood_text if accuracy.ood is None else f"{100 * accuracy.ood:.1f}",
            ]
        lines.append(
            f"| {markdown_code(model.name)} | {markdown_code(model.file)} | {model.backend} | "
            f"{model.device.upper()} | {model.max_batch} | {' | '.join(shown)} |"
        )
    return "\n".join(lines)


def _accuracy(bundle: Bundle, model: Model) -> FileAccuracy | None:
    """Of the file itself, or of the one that an engine was built from."""
    built_from = engine_precision(model.precision) if model.passport else model.precision
    made = bundle.manifest.precisions.get(built_from)
    return made.accuracy if made else None


def _notes(bundle: Bundle, models: Sequence[Model], left_out: Mapping[str, str]) -> list[str]:
    notes = [
        "Accuracy is what export measured through each ONNX file on held-out images: ID is the mean of the "
        f"source domains, {_target_words(bundle).short} the target domain, {_seen(bundle)}."
    ]
    onnx = {model.precision: model.device for model in models if model.backend == "onnxruntime"}
    if onnx.get("fp16") == "cpu":
        notes.append(
            "onnxruntime has no fp16 arithmetic on most CPUs: `student_fp16` is smaller there, hardly faster."
        )
    if onnx.get("int8") == "gpu":
        notes.append(
            "onnxruntime's int8 kernels are for CPUs, so expect no gain from `student_int8` on a GPU; int8 "
            "on GPUs is what TensorRT engines are for."
        )
    for model in models:
        if passport := model.passport:
            notes.append(_of_engine(model, passport))
    if left_out:
        listed = "\n".join(f"- `{file}`: {reason}" for file, reason in left_out.items())
        notes.append(f"Left out of this repository:\n\n{listed}")
    return notes


def _seen(bundle: Bundle) -> str:
    words = _target_words(bundle)
    if words.is_unseen:
        return "which the student never saw"
    return f"which is no unseen domain here ({words.role})"


def _target_words(bundle: Bundle) -> TargetWords:
    run = bundle.manifest.run
    return run.target_words if run else TargetWords()


def _of_engine(model: Model, passport: Passport) -> str:
    profile = passport.profile
    parts = [
        f"`{model.name}` was built with TensorRT {passport.version} for {passport.gpu or 'a GPU'} "
        f"of compute capability {', '.join(passport.compute_capabilities)}, batches {profile.min} to "
        f"{profile.max}, best at {profile.opt}; its accuracy above is that of the ONNX file it was "
        "built from."
    ]
    if passport.version_compatible:
        parts.append("Later versions of TensorRT run it too, if the server is started as below.")
    else:
        parts.append(
            "It loads only in a Triton release with that exact version (NVIDIA's support matrix lists them)."
        )
    if profile.min > 1:
        parts.append(f"It refuses batches of fewer than {profile.min}.")
    if passport.usable is None:
        parts.append("**Its answers have not been compared with the student's yet.**")
    return " ".join(parts)


def _server(models: Sequence[Model]) -> list[str]:
    gpus = "--gpus all " if on_gpu(models) else ""
    config = "".join(f" {option}" for option in server_options(models))
    first = models[0].name
    return [
        f"Triton {RELEASE} or later (ONNX files of IR version 10 need onnxruntime 1.18 or later):",
        _block(
            "sh",
            f'docker run --rm {gpus}-p 8000:8000 -p 8001:8001 -p 8002:8002 -v "$PWD":/models:ro \\\n'
            f"  nvcr.io/nvidia/tritonserver:{RELEASE}-py3 tritonserver --model-repository=/models{config}\n"
            "curl --fail localhost:8000/v2/health/ready  # in another terminal",
        ),
        "It loads every model here, and does not start if one of them cannot be loaded. To serve one only, "
        f"add `--model-control-mode=explicit --load-model={first}`. Requests are batched on the server; how "
        "long one waits for others, and how many instances run, is set in each `config.pbtxt`. Triton's "
        "`perf_analyzer` finds what is best on your machine.",
        f"`{COMPOSE}` starts the same server with Docker Compose, restarts it when it fails, and waits until "
        "all models are loaded:",
        _block("sh", "docker compose up --detach --wait"),
    ]


def _kserve(models: Sequence[Model]) -> list[str]:
    return [
        "Upload this folder to where your cluster reads models from, name it as `storageUri` in "
        f"`{SERVICE}`, and apply that:",
        _block("yaml", service_text(models).rstrip("\n")),
        "`runtimeVersion` matters: KServe's own choice of Triton (23.05) is too old for these files.",
    ]


def _client(bundle: Bundle, models: Sequence[Model]) -> list[str]:
    model = models[0]
    answers = f"logits_{model.precision}"
    decoding = f"{bundle.image_size_px}" + ", draft=False" * (not bundle.draft)
    few = min(8, model.max_batch)
    threshold = bundle.manifest.confidence.abstain_below
    unsure = (
        f" With a largest probability under {threshold:.3f} the student is unsure (threshold of the bundle)."
        if threshold is not None
        else ""
    )
    return [
        "Images are made ready by the client, so that nothing larger than the student's input is sent: "
        f"uint8 (B, {bundle.image_size_px}, {bundle.image_size_px}, 3) RGB, made by `vl2v_deploy.client` "
        f"({bundle.manifest.preprocessing}); "
        "scaling and mean/std are inside the graph. Logits are calibrated: their softmax "
        f"is the confidence.{unsure}",
        _block("sh", "pip install vl2v-deploy 'tritonclient[http]'"),
        _block(
            "python",
            "from pathlib import Path\n"
            "\n"
            "import numpy as np\n"
            "import tritonclient.http as triton\n"
            "from vl2v_deploy.client.preprocess import pixels_from_source\n"
            "\n"
            "server = triton.InferenceServerClient('localhost:8000')\n"
            "\n"
            "def ask(images, model):\n"
            '    """Logits (B, K) and embeddings (B, D) of uint8 images (B, S, S, 3)."""\n'
            "    tensor = triton.InferInput('images', list(images.shape), 'UINT8')\n"
            "    tensor.set_data_from_numpy(images)\n"
            "    answer = server.infer(model, [tensor])\n"
            "    return answer.as_numpy('logits'), answer.as_numpy('embedding')\n"
            "\n"
            f"images = np.stack([pixels_from_source('photo.jpg', {decoding})])\n"
            f"logits, embedding = ask(images, '{model.name}')\n"
            f"labels = Path('{model.name}/labels.txt').read_text(encoding='utf-8').splitlines()\n"
            "print(labels[logits[0].argmax()])",
        ),
        "The check: the bundle's golden samples through the server, against what was recorded at export.",
        _block(
            "python",
            "with np.load('BUNDLE/golden/expected.npz') as golden:\n"
            f"    logits, _ = ask(golden['images'][:{few}], '{model.name}')\n"
            f"    print(np.abs(logits - golden['{answers}'][:{few}]).max())  # next to nothing",
        ),
    ]


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
