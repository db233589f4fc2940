"""Charts as files: SVG for report.html, in a wide and a narrow version, and the PNG for a README."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vl2v_deploy.benchmarking.judge.words import upper_first
from vl2v_deploy.benchmarking.report.palette import LIGHT
from vl2v_deploy.benchmarking.schema import Report
from vl2v_deploy.client.target_words import TargetWords
from vl2v_deploy.errors import MissingExtra
from vl2v_deploy.escapes import html_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# As wide as the page shows them at 1280 and 390 pixels, so that text has the size it was given.
FULL_PX, HALF_PX, PHONE_PX = 994, 464, 328
PNG_SCALE = 2


@dataclass(frozen=True)
class Chart:
    """A chart of report.html.

    name:    of its element, and of the function in `drawings`
    title:   above it
    caption: what it shows; also its description for screen readers. {accuracy}, {last} and {seen} stand
             for what the target is called
    full:    whether it takes the whole width of the page
    svgs:    the wide and the narrow version
    """

    name: str
    title: str
    caption: str
    full: bool = False
    svgs: tuple[str, ...] = ()


CHARTS = (
    Chart(
        "pareto",
        "Accuracy against cost",
        "{accuracy} with its 95 % interval against cost. The dotted line joins the Pareto front.{seen}",
    ),
    Chart("latency", "Latency, every sample", "Share of images answered within a time."),
    Chart(
        "domains",
        "Accuracy by domain",
        "Lines are 95 % intervals{last}.{seen}",
        full=True,
    ),
    Chart(
        "cascade",
        "Asking where the student is unsure",
        "Between the student alone and the teacher alone. Bands are 95 % intervals; rings are the "
        "threshold of cascade.json, chosen on source validation.{seen}",
    ),
    Chart(
        "cascade_domains",
        "The cascade in every domain",
        "Accuracy against the share of images that is really sent. Rings are the threshold of cascade.json."
        "{seen}",
    ),
    Chart(
        "volume",
        "Cost against volume",
        "Total cost, the student's with its distillation. Circles are break-even points.",
        full=True,
    ),
)


def charts_of(report: Report) -> dict[str, Chart]:
    """Every chart that the report has data for, by name, in reading order.

    Raises MissingExtra without matplotlib.
    """
    made = {}
    for general in CHARTS if report.results.engines else ():
        chart, versions = _captioned(general, report.measurements.target_words), []
        for version, width_px in (("wide", FULL_PX if chart.full else HALF_PX), ("narrow", PHONE_PX)):
            ids = f"{chart.name}-{version}"
            with _settings(ids):
                figure = _drawing_of(chart.name)(report, width_px)
                if figure is not None:
                    versions.append(_svg_from_figure(figure, ids, chart, version))
        if versions:
            made[chart.name] = replace(chart, svgs=tuple(versions))
    return made


def _captioned(chart: Chart, words: TargetWords) -> Chart:
    last = f"; the {'unseen' if words.is_unseen else 'target'} domain comes last"
    caption = chart.caption.format(
        accuracy=upper_first(words.accuracy),
        last="" if words.is_source else last,
        seen=f" The target is no unseen domain here{words.marks}." if words.marks else "",
    )
    return replace(chart, caption=caption)


def write_picture(report: Report, path: Path) -> None:
    """The accuracy-cost chart as a PNG on white, for a README.

    Raises MissingExtra without matplotlib.
    """
    with _settings("picture"):
        figure = _drawing_of("pareto")(report, 720)
        figure.savefig(path, format="png", dpi=72 * PNG_SCALE, facecolor="white")


def write_cascade_picture(report: Report, path: Path) -> None:
    """The cascade's accuracy against its cost as a PNG on white; only of a report that has a cascade.

    Raises MissingExtra without matplotlib.
    """
    with _settings("cascade-picture"):
        figure = _drawing_of("cascade")(report, 720)
        figure.savefig(path, format="png", dpi=72 * PNG_SCALE, facecolor="white")


def _svg_from_figure(figure: Figure, ids: str, chart: Chart, version: str) -> str:
    """An <svg> to put into HTML: text stays text, colours are CSS variables, ids begin with `ids`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{ids}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{ids}-", text)
    # The page's own font instead of matplotlib's, which the reader may not have.
    text = re.sub(r"font-family: [^;\"]+;? ?", "", text)
    # A <style> would apply to the whole page, whose own style has these rules.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    (box,) = re.findall(r'viewBox="([^"]+)"', text[:600])
    opening = (
        f'<svg class="chart {version}" viewBox="{box}" role="img" '
        f'aria-labelledby="{ids}-title {ids}-caption" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{ids}-title">{html_text(chart.title)}</title>'
        f'<desc id="{ids}-caption">{html_text(chart.caption)}</desc>'
    )
    return opening + text[text.index(">") + 1 :]


@contextmanager
def _settings(ids: str) -> Iterator[None]:
    """matplotlib as charts need it: text as text, `$` as a dollar, the same ids in every run."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", "train") from error
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": ids, "text.parse_math": False}
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        # The browser has fonts for characters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _drawing_of(name: str) -> Callable[[Report, int], Any]:
    from vl2v_deploy.benchmarking.report import drawings  # brings in matplotlib

    draw: Callable[[Report, int], Any] = getattr(drawings, f"draw_{name}")
    return draw
