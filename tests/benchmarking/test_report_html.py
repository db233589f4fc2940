"""report.html in a real Chromium: whole, readable, quiet and self-contained, at a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from test_benchmark_report import everything

from tests.helpers.browser import DESKTOP, PHONE, chromium, opened
from tests.helpers.cascade_measurements import cascade_measurements
from tests.helpers.contrast import CONTRAST
from tests.helpers.measurements import answers, engine, image_set, measurements, usual
from vl2v_deploy.benchmarking.judge.judge import judge
from vl2v_deploy.benchmarking.report.html import html_from_report
from vl2v_deploy.benchmarking.report.palette import DARK, LIGHT
from vl2v_deploy.benchmarking.report.render import markdown_from_report
from vl2v_deploy.benchmarking.schema import CascadeTerms, Prices, Report

PRICES = Prices(usd_per_hour=1.0, usd_per_1k_queries=0.1)
TERMS = CascadeTerms(
    max_usd_per_million=40.0, min_ood_accuracy=0.9, teacher_p50_ms=180.0, teacher_p99_ms=900.0
)
VIEWS = [(size, dark) for size in (DESKTOP, PHONE) for dark in (False, True)]
HOSTILE = "</script><img src=x onerror=alert(1)><b>&\"'${{7*7}}"

# Labels below an axis that are less than 3 px apart.
TOUCHING = """() => [...document.querySelectorAll("svg.chart")].flatMap((svg) => {
  if (!svg.checkVisibility()) return [];
  const ticks = [...svg.querySelectorAll("[id*='-xtick_'] text")];
  const gap = (i) => ticks[i + 1].getBoundingClientRect().left - ticks[i].getBoundingClientRect().right;
  return ticks.slice(1).flatMap((t, i) => gap(i) < 3 ? [`${ticks[i].textContent} | ${t.textContent}`] : []);
})"""

# Pairs of texts in one drawing whose boxes lie on each other.
OVERLAPS = """() => [...document.querySelectorAll("svg.chart")].flatMap((svg) => {
  if (!svg.checkVisibility()) return [];
  const texts = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
  const outside = texts.filter(([, b]) => b.left < svg.getBoundingClientRect().left - 2
    || b.right > svg.getBoundingClientRect().right + 2).map(([t]) => `${t} is outside`);
  return outside.concat(texts.flatMap(([a, x], i) => texts.slice(i + 1).filter(([, y]) =>
    Math.min(x.right, y.right) - Math.max(x.left, y.left) > 2
    && Math.min(x.bottom, y.bottom) - Math.max(x.top, y.top) > 4).map(([b]) => `${a} | ${b}`)));
})"""


def crowded() -> Report:
    """Eight engines, half of them on the same spot, and one that could not be had."""
    images = image_set(group_size=4)
    same = answers(images, 80)
    names = ("torch:fp32", "onnxruntime:fp32", "onnxruntime:fp16", "openvino:fp32", "openvino:fp16")
    engines = [engine(name, same, 4.0 + 0.2 * i, seed=i) for i, name in enumerate(names)]
    engines += [
        engine(f"{name}:int8", answers(images, 84), 2.0, seed=9) for name in ("onnxruntime", "openvino")
    ]
    engines.append(engine("teacher", answers(images, 40), 20.0))
    nothing: dict[str, Any] = {"cells": [], "processes": [], "status": "unavailable", "reason": "no GPU here"}
    return judge(measurements([*engines, engine("tensorrt:fp16", {}, 1.0, **nothing)], images), PRICES)


def hostile() -> Report:
    """Every name that a user chooses tries to leave its place."""
    classes, domains = [HOSTILE, "plain"], [HOSTILE, "photo", f"z{HOSTILE}"]
    images = image_set(classes=classes, domains=domains)
    engines = [
        engine(f"onnxruntime:{HOSTILE}", answers(images, 80), 4.0),
        engine("teacher", answers(images, 40), 9.0),
    ]
    m = measurements(engines, images, classes=classes, command=HOSTILE, notes=[HOSTILE])
    return judge(m.model_copy(update={"bundle": m.bundle.model_copy(update={"name": HOSTILE})}), PRICES)


LONG_NAMES = (
    "european_common_kingfisher_in_flight",
    "great_northern_diver_with_its_young",
    "hawk",
    "lesser spotted woodpecker on a dead tree",
)


def long_names() -> Report:
    """Class names of more than 30 characters, and costs over six decades."""
    images = image_set(classes=list(LONG_NAMES))
    engines = [
        engine("onnxruntime:fp32", answers(images, 80), 0.4),
        engine("onnxruntime:int8", answers(images, 84), 0.2),
        engine("teacher", answers(images, 40), 9000.0),
    ]
    prices = Prices(usd_per_hour=1.0, usd_per_1k_queries=1.0)
    return judge(measurements(engines, images, classes=list(LONG_NAMES)), prices)


REPORTS = {
    "long names": long_names,
    "usual": lambda: judge(usual(), PRICES),
    "everything": everything,
    "crowded": crowded,
    "hostile": hostile,
    "cascade": lambda: judge(cascade_measurements(1.2, 2.2, group_size=4), PRICES, TERMS),
}


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return {name: make() for name, make in REPORTS.items()}


@pytest.fixture(scope="module")
def files(reports: dict[str, Report], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    paths = {}
    for name, report in reports.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(html_from_report(report), encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


class Ids(HTMLParser):
    """Every id of a page, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name == "id" and value]


@pytest.mark.parametrize("name", REPORTS)
def test_the_file_needs_nothing_else(name: str, files: dict[str, Path]) -> None:
    text = files[name].read_text(encoding="utf-8")
    assert len(text) < 700_000
    # Names of XML namespaces are not fetched; nothing else may point outside.
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert {address for address in addresses if "w3.org" not in address} == set()
    assert "@import" not in text and "nan" not in re.findall(r"viewBox=\"([^\"]+)\"", text)
    ids = Ids(text).found
    assert len(ids) == len(set(ids))
    # Colours of charts follow the scheme: none is left as it was drawn.
    assert not [colour for colour in LIGHT.values() if text.count(colour) > 1]
    assert all(f"--{colour}: {DARK[colour]}" in text for colour in DARK)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "dark"), VIEWS)
@pytest.mark.parametrize("name", REPORTS)
def test_it_reads_well(
    name: str, size: tuple[int, int], dark: bool, files: dict[str, Path], browser: Any, tmp_path: Path
) -> None:
    with opened(browser, files[name].as_uri(), size, dark=dark) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        texts = page.evaluate(CONTRAST)
        assert len(texts) > 100
        assert [t for t in texts if t["ratio"] < (3.0 if t["svg"] else 4.5)] == []
        assert [t for t in texts if t["px"] < 11] == []
        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate(TOUCHING) == []
        charts = page.locator("svg.chart:visible")
        assert charts.count() == page.locator("figure").count() >= 3
        for number in range(charts.count()):
            box = charts.nth(number).bounding_box()
            assert box["width"] > 250 and box["height"] > 80
        # One of the two versions of each chart, the narrow one on a phone.
        shown = "narrow" if size == PHONE else "wide"
        assert page.locator(f"svg.{shown}:visible").count() == charts.count()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["usual", "crowded"])
def test_every_engine_verdict_and_warning_is_there(
    name: str, reports: dict[str, Report], files: dict[str, Path], browser: Any
) -> None:
    report = reports[name]
    with opened(browser, files[name].as_uri()) as page:
        assert page.locator("h1").inner_text() == report.results.headline
        text = page.locator("body").text_content()
        for verdict in report.results.verdicts:
            assert verdict.text in text
        marks = page.locator(".verdicts .mark").all_inner_texts()
        judged = [v for v in report.results.verdicts if v.about != "unavailable"]
        assert marks == [verdict.answer.capitalize() for verdict in judged]
        for warning in report.results.warnings:
            assert warning in text
        for engine_name in report.results.engines:
            assert page.locator(f"#accuracy table th:text-is('{engine_name}'):visible").count() >= 1
            legend = page.locator("#chart-pareto svg.wide text").filter(
                has_text=re.compile(f"^{engine_name}$")
            )
            assert legend.count() == 1
        for svg in page.locator("svg.chart").all():
            assert svg.get_attribute("role") == "img"
            labels = svg.get_attribute("aria-labelledby").split()
            assert all(page.locator(f"#{label}").text_content() for label in labels)


def nothing_measured() -> str:
    m = usual()
    failed = [e.model_copy(update={"status": "failed", "reason": "stalled"}) for e in m.engines]
    return html_from_report(judge(m.model_copy(update={"engines": failed}), PRICES))


@pytest.mark.slow
def test_a_page_of_nothing_measured_has_no_error(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "none.html").write_text(nothing_measured(), encoding="utf-8")
    with opened(browser, (tmp_path / "none.html").as_uri()) as page:
        assert page.locator("h1").inner_text() == "No engine of the student could be measured."


def test_a_tile_says_nothing_of_a_teacher_that_has_no_such_number() -> None:
    m = usual()
    engines = [e.model_copy(update={"model_bytes": None}) if e.kind == "teacher" else e for e in m.engines]
    assert "teacher 113" in html_from_report(judge(m, PRICES))
    assert "teacher -" not in html_from_report(judge(m.model_copy(update={"engines": engines}), PRICES))


@pytest.mark.slow
def test_the_matrix_is_of_the_engine_and_domain_that_are_chosen(files: dict[str, Path], browser: Any) -> None:
    with opened(browser, files["usual"].as_uri()) as page:
        assert page.locator("#confusion-engine option:checked").inner_text() == "onnxruntime:int8"
        assert page.locator("#confusion-domain option:checked").inner_text() == "sketch"
        for engine_name, wrong in (("onnxruntime:int8", 84), ("teacher", 40)):
            page.select_option("#confusion-engine", label=engine_name)
            page.select_option("#confusion-domain", label="photo")
            rows = page.locator("#confusion-matrix tbody tr").all()
            counts = [[int(cell or 0) for cell in row.locator("td").all_inner_texts()] for row in rows]
            assert sum(map(sum, counts)) == 400
            assert sum(counts[i][i] for i in range(4)) == 400 - wrong
            pairs = page.locator("#confusion-pairs tr td:nth-child(3)").all_inner_texts()
            off_diagonal = sorted((counts[i][j] for i in range(4) for j in range(4) if i != j), reverse=True)
            assert [int(n) for n in pairs] == [n for n in off_diagonal if n][:12]


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_long_names_of_classes_leave_the_numbers_in_sight(
    size: tuple[int, int], files: dict[str, Path], browser: Any
) -> None:
    with opened(browser, files["long names"].as_uri(), size) as page:
        around = page.locator(".scroll[aria-label='Most confused pairs']")
        assert around.evaluate("box => box.scrollWidth - box.clientWidth") <= 0
        right = around.evaluate("box => box.getBoundingClientRect().right")
        rows = page.locator("#confusion-pairs tr").all()
        assert len(rows) == 12
        for row in rows:
            assert row.locator("th").text_content() in LONG_NAMES
            share = row.locator("td").last
            assert share.evaluate("cell => cell.getBoundingClientRect().right") <= right + 0.5
            assert float(share.inner_text()) > 0
            # The numbers themselves stay on one line.
            assert share.evaluate("cell => getComputedStyle(cell).whiteSpace") == "nowrap"


@pytest.mark.slow
def test_hostile_names_are_text_in_markdown_and_on_the_terminal(reports: dict[str, Report]) -> None:
    report = reports["hostile"]
    markdown = markdown_from_report(report, "picture.png")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert not re.findall(r"<(script|img src=x|b>|a )", html)
    assert html.count("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;") > 10
    usual_rows = (
        MarkdownIt().enable("table").render(markdown_from_report(reports["usual"], "")).count("<table>")
    )
    assert html.count("<table>") == usual_rows
    lines = "x\n# y\n\n<b>z\x1b[2J"
    named = report.measurements.model_copy(
        update={"bundle": report.measurements.bundle.model_copy(update={"name": lines})}
    )
    broken = markdown_from_report(report.model_copy(update={"measurements": named}), "")
    assert broken.startswith("# Benchmark of x\\\\x0a# y\\\\x0a\\\\x0a&lt;b>z\\\\x1b[2J\n")


def test_hostile_names_are_text(files: dict[str, Path], browser: Any) -> None:
    with opened(browser, files["hostile"].as_uri()) as page:
        assert page.locator("img").count() == 0 and page.locator("body b").count() == 0
        assert page.locator(".eyebrow strong").inner_text() == HOSTILE
        assert page.locator("#confusion-matrix tbody th").first.text_content() == HOSTILE
        assert HOSTILE in page.locator("#confusion-domain").text_content()
        assert HOSTILE in page.locator("#how").text_content()
        assert page.locator("svg.chart text").filter(has_text="</script><img").count() >= 2


@pytest.mark.slow
def test_it_can_be_read_without_scripts_and_on_paper(files: dict[str, Path], browser: Any) -> None:
    with opened(browser, files["usual"].as_uri(), java_script_enabled=False) as page:
        assert page.locator("#confusion-pairs tr").count() == 10
        assert page.locator("svg.chart:visible").count() == page.locator("figure").count()
        page.emulate_media(media="print")
        assert page.locator("nav").is_hidden() and page.locator("h1").is_visible()


def test_hundreds_of_classes_stay_small_and_show_pairs() -> None:
    classes = [f"class_{i}" for i in range(345)]
    images = image_set(n=3450, classes=classes, domains=[f"domain {i}" for i in range(6)])
    engines = [engine(f"onnxruntime:{p}", answers(images, 900), 4.0) for p in ("fp32", "fp16", "int8")]
    engines.append(engine("teacher", answers(images, 600), 20.0))
    text = html_from_report(judge(measurements(engines, images, classes=classes), PRICES))
    assert len(text) < 1_000_000
    assert "345 classes are too many for a matrix" in text and 'id="confusion-matrix"' not in text
    assert text.count('<th scope="row">class_') >= 345  # the table by class
