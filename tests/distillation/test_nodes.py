"""A run on two nodes of which one fails, or is told to end: the other ends too, and the run goes on later."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.many_runs import metrics_so_far, tiny_recipe, wait_until
from tests.helpers.nodes import Node, two_nodes
from vl2v_deploy.folders import partial_of
from vl2v_deploy.models.record import read_record
from vl2v_deploy.models.run_directory import CHECKPOINT

STEPS = 300
# An odd number of images in a step: the two processes get shares of different size.
OPTIONS = ("--set=distill.batch_per_domain=3", f"--set=distill.steps={STEPS}", "--set=checkpoint_every_s=0")
ENDS_WITHIN_S = 60


def said(node: Node) -> str:
    return node.log.read_text()


def has_trained(run: Path, lines: int) -> bool:
    """Whether Distill has logged more than so many lines, and there is a checkpoint."""
    return metrics_so_far(run).count('"distill"') > lines and (partial_of(run) / CHECKPOINT).is_file()


@pytest.mark.long
def test_a_killed_node_ends_the_job_which_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """In turn the node of the first process, which writes the checkpoints, and the other."""
    recipe, alone, out = tiny_recipe(tmp_path / "recipe"), tmp_path / "alone", tmp_path / "out"
    with two_nodes(recipe, alone, *OPTIONS, logs=tmp_path) as nodes:
        assert [node.agent.wait(timeout=300) for node in nodes] == [0, 0], "".join(map(said, nodes))
    lines = 0
    for killed_rank in (0, 1):
        resume = ("--resume",) * (killed_rank == 1)
        with two_nodes(recipe, out, *OPTIONS, *resume, logs=tmp_path) as nodes:
            wait_until(partial(has_trained, out, lines), "a run that trains")
            killed, other = sorted(nodes, key=lambda node: node.rank() != killed_rank)
            killed.kill()
            assert other.agent.wait(timeout=ENDS_WITHIN_S) not in (0, None)
        [error] = [line for line in said(other).splitlines() if line.startswith("Error: ")]
        assert "another of the 2 processes of this run has ended" in error and "--resume" in error
        assert "Traceback" not in said(other).partition("Error: ")[0]
        assert not out.exists() and (partial_of(out) / CHECKPOINT).is_file()
        lines = metrics_so_far(out).count('"distill"')
    with two_nodes(recipe, out, *OPTIONS, "--resume", logs=tmp_path) as nodes:
        assert [node.agent.wait(timeout=300) for node in nodes] == [0, 0], "".join(map(said, nodes))
    assert read_record(out).stages["distill"].steps == STEPS
    undisturbed = load_file(alone / "student.safetensors")
    resumed = load_file(out / "student.safetensors")
    for name, weights in undisturbed.items():
        assert torch.equal(resumed[name], weights), name
