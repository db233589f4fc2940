"""The FastAPI example as a cascade, under load: the teacher is killed in the middle and comes back.

No request may be lost, and what was billed must stay within the budget. The fake vendor keeps a bill of its
own, on disk before it answers; in the long test the teacher is `vl2v-deploy teacher serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.colour_bundle import make_colour_bundle, make_data
from tests.helpers.fake_vendor import fake_vendor, read_bill
from tests.helpers.tiny import write_recipe
from tests.helpers.vendor_recipes import vendor_recipe
from tests.serving.test_serve_command import serving
from tests.whole.test_examples import get, server, stop
from vl2v_deploy.client import open_bundle
from vl2v_deploy.client.cascade.budget import DailyBudget
from vl2v_deploy.exporting.finished.pack import pack_teacher
from vl2v_deploy.recipe import load_recipe

REQUESTS, AT_ONCE = 300, 24
USD = 0.001  # of a query, as vendor_recipe has it
MOST_QUERIES = 80


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cascade")
    return make_colour_bundle(folder / "colours", make_data(folder / "data"))


def pack(bundle: Path, out: Path, url: str, **teacher: Any) -> Path:
    """A teacher file for the colour student: whoever answers at the address, with D = 16."""
    recipe = load_recipe(bundle / "recipe.yaml")
    asked = vendor_recipe("openai", url, logit_scale=20.0, **teacher)
    pack_teacher(open_bundle(bundle), out, recipe.model_copy(update={"teacher": asked}))
    return out


def options(folder: Path, teacher: Path, **more: str) -> dict[str, str]:
    """The environment of a service that asks about every image."""
    return {
        "VL2V_TEACHER": str(teacher),
        "VL2V_SHARE": "1.0",
        "VL2V_MAX_USD_PER_DAY": str(USD * MOST_QUERIES),
        "VL2V_SPENT_FILE": str(folder / "spent"),
        "VL2V_TEACHER_TIMEOUT_S": "20",
        "VL2V_MIN_INTERVAL_S": "0.05",
        "VL2V_KEEP": str(folder / "kept"),
    } | more


async def under_load(
    address: str, images: list[bytes], at: dict[int, Callable[[], object]]
) -> list[httpx.Response]:
    """The answers to all images, so many asked at once; `at`: what to do when so many are answered."""
    answered, limits = 0, httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=address, timeout=120.0, limits=limits) as client:

        async def ask(image: bytes) -> httpx.Response:
            nonlocal answered
            answer = await client.post("/predict", content=image)
            answered += 1
            if answered in at:
                await asyncio.to_thread(at[answered])
            return answer

        return await asyncio.gather(*map(ask, images))


def images_of(bundle: Path) -> list[bytes]:
    files = sorted((bundle.parent / "data").rglob("*.png"))
    return [files[number % len(files)].read_bytes() for number in range(REQUESTS)]


def require_all_answered(answers: list[httpx.Response]) -> Counter[str]:
    """How many were answered for each reason; each is a whole answer, and the student's where it must be."""
    assert [answer.status_code for answer in answers] == [200] * REQUESTS
    said = [answer.json() for answer in answers]
    for one in said:
        assert one["by"] == ("teacher" if one["reason"] == "unsure" else "student")
        assert one["label"] == (one["teacher"] or one["student"])["label"]
    assert len({one["request_id"] for one in said}) == REQUESTS
    return Counter(one["reason"] for one in said)


@pytest.mark.slow
def test_a_teacher_is_killed_and_comes_back_and_no_request_is_lost(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with contextlib.ExitStack() as later:
        vendor = later.enter_context(fake_vendor(tmp_path / "vendor", dimensions=16))
        teacher = pack(bundle, tmp_path / "teacher.json", vendor.url("openai"))
        before = len(vendor.bill())  # of texts
        process, address = later.enter_context(server(bundle, log, **options(tmp_path, teacher)))

        def kill() -> None:
            os.kill(vendor.pid, signal.SIGKILL)

        answers = asyncio.run(under_load(address, images_of(bundle), {40: kill}))
        reasons = require_all_answered(answers)
        # Only now, so that some of the budget is left for what comes after.
        later.enter_context(fake_vendor(tmp_path / "vendor", dimensions=16, port=vendor.port))
        said = get(address, "/cascade")
        after = require_all_answered(asyncio.run(under_load(address, images_of(bundle), {})))
        billed = len(read_bill(tmp_path / "vendor")) - before
        request_id = answers[0].json()["request_id"]
        told = httpx.post(f"{address}/feedback", json={"request_id": request_id, "label": "red"})
        unknown = httpx.post(f"{address}/feedback", json={"request_id": "nobody", "label": "red"})
        wrong = httpx.post(f"{address}/feedback", json={"request_id": request_id, "label": "rde"})
        assert [answer.status_code for answer in (told, unknown, wrong)] == [200, 404, 422]
        assert get(address, "/cascade")["accuracy"]["labels"] == 1
        stop(process, log)
    assert reasons["unsure"] > 40 - AT_ONCE and after["unsure"] > 0 and after["budget"] > 0
    assert reasons["unsure"] + after["unsure"] <= billed <= MOST_QUERIES
    assert reasons["teacher_error"] + reasons["breaker_open"] > 0
    assert sum(reasons.values()) == said["images"] == REQUESTS
    spent = DailyBudget(tmp_path / "spent", None).spent_today_usd
    assert billed * USD <= spent + 1e-12 and spent <= MOST_QUERIES * USD + 1e-12
    lines = [line for file in tmp_path.rglob("answers.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) >= reasons["unsure"]


@pytest.mark.long
def test_a_local_teacher_that_is_served_is_killed_under_load(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    recipe = write_recipe(tmp_path / "tiny", tmp_path / "data")
    with serving(recipe, "--name", "teacher") as (url, teacher_process):
        teacher = pack(bundle, tmp_path / "teacher.json", url, model="teacher")
        with server(bundle, log, **options(tmp_path, teacher)) as (process, address):
            answers = asyncio.run(under_load(address, images_of(bundle), {40: teacher_process.kill}))
            reasons = require_all_answered(answers)
            said = get(address, "/cascade")
            stop(process, log)
    assert reasons["unsure"] > 10 and reasons["teacher_error"] + reasons["breaker_open"] > 50
    assert said["spent_today_usd"] <= MOST_QUERIES * USD + 1e-12
    assert said["spent_today_usd"] >= reasons["unsure"] * USD - 1e-12


@pytest.mark.slow
def test_a_restarted_service_has_no_money_left(bundle: Path, tmp_path: Path) -> None:
    image = images_of(bundle)[0]
    with fake_vendor(tmp_path / "vendor", dimensions=16) as vendor:
        teacher = pack(bundle, tmp_path / "teacher.json", vendor.url("openai"))
        environment = options(tmp_path, teacher, VL2V_MAX_USD_PER_DAY=str(3 * USD))
        reasons = []
        for _ in range(2):
            with server(bundle, tmp_path / "server.log", **environment) as (process, address):
                answers = [httpx.post(f"{address}/predict", content=image).json() for _ in range(4)]
                reasons += [answer["reason"] for answer in answers]
                stop(process, tmp_path / "server.log")
        images = [item for item in vendor.bill() if item.kind == "image"]
    assert reasons == ["unsure"] * 3 + ["budget"] * 5
    assert len(images) == 3


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VL2V_DEPLOY_CACHE", str(tmp_path / "cache"))
    yield
