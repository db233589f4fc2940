"""Charts as files: SVG for report.html, in a wide and a narrow version, and the PNG for a README."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vl2v_deploy.benchmarking.report.palette import LIGHT
from vl2v_deploy.benchmarking.schema import Report
from vl2v_deploy.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# As wide as the page shows them at 1280 and 390 pixels, so that text has the size it was given.
FULL_PX, HALF_PX, PHONE_PX = 994, 464, 328
PNG_SCALE = 2


class Plan(NamedTuple):
    """A chart before it is drawn.

    name:  of its element, and of the function in `drawings`
    title: above it
    says:  in words what it shows; also what those hear who do not see it
    wide:  whether it takes the whole width
    """

    name: str
    title: str
    says: str
    wide: bool


class Chart(NamedTuple):
    """A chart of report.html: its plan and the SVG in a wide and a narrow version."""

    name: str
    title: str
    says: str
    wide: bool
    svgs: tuple[str, str]


PLANS = (
    Plan(
        "pareto",
        "Accuracy against cost",
        "OOD accuracy with its 95 % interval against what an image costs. The dotted line joins the Pareto "
        "front.",
        wide=False,
    ),
    Plan(
        "latency",
        "Latency, every sample",
        "Share of images answered within so many ms.",
        wide=False,
    ),
    Plan("domains", "Accuracy by domain", "Lines are 95 % intervals; the unseen one comes last.", wide=True),
    Plan(
        "volume",
        "Cost against volume",
        "Total cost, the student's with its distillation. Circles are break-even points.",
        wide=False,
    ),
    Plan(
        "sensitivity",
        "If the machine is not always busy",
        "Cost of a million images against utilisation.",
        wide=False,
    ),
    Plan(
        "roofline",
        "Share of the machine's limit",
        "Images a second of the session alone at its fastest setting, against what the machine's arithmetic "
        "or memory would allow.",
        wide=True,
    ),
)


def charts_of(report: Report) -> dict[str, Chart]:
    """Every chart that the report has data for, by name, in reading order.

    Raises MissingExtra without matplotlib.
    """
    drawings, canvas = _matplotlib()
    made = {}
    for plan in PLANS if report.results.engines else ():
        draw, versions = getattr(drawings, f"draw_{plan.name}"), []
        for narrow in (False, True):
            width = PHONE_PX if narrow else FULL_PX if plan.wide else HALF_PX
            salt = f"{plan.name}-{'narrow' if narrow else 'wide'}"
            with _settings(salt):
                figure = draw(report, canvas(width, 300 if narrow else 380, narrow))
                if figure is not None:
                    versions.append(svg_from_figure(figure, salt, plan.title, plan.says))
        if versions:
            made[plan.name] = Chart(*plan, svgs=(versions[0], versions[1]))
    return made


def write_picture(report: Report, path: Path) -> None:
    """The accuracy-cost chart as a PNG on white, for a README.

    Raises MissingExtra without matplotlib.
    """
    drawings, canvas = _matplotlib()
    with _settings("picture"):
        figure = drawings.draw_pareto(report, canvas(720, 420, False))
        drawings.add_legend(figure, report)
        figure.savefig(path, format="png", dpi=72 * PNG_SCALE, facecolor="white", bbox_inches="tight")


def svg_from_figure(figure: Figure, salt: str, title: str, says: str) -> str:
    """An <svg> to stand in HTML: text stays text, colours are CSS variables, ids are its own.

    salt:  different for each chart of a page
    title: its accessible name
    says:  its accessible description
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{salt}-", text)
    # The page's own font, which is there; matplotlib's would be looked for in vain.
    text = re.sub(r"font-family: [^;\"]+;? ?", "", text)
    # A <style> would reach beyond its drawing; the page's own has what it says.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    (box,) = re.findall(r'viewBox="([^"]+)"', text[:600])
    opening = (
        f'<svg viewBox="{box}" role="img" aria-labelledby="{salt}-title {salt}-says" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{salt}-title">{escape(title)}</title><desc id="{salt}-says">{escape(says)}</desc>'
    )
    return opening + text[text.index(">") + 1 :]


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    """matplotlib as charts need it: text as text, `$` as a dollar, the same ids in every run."""
    import matplotlib

    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False}),
    ):
        # The browser has fonts for names that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _matplotlib() -> tuple[Any, Any]:
    """The module of drawings, and what they are drawn on."""
    try:
        from vl2v_deploy.benchmarking.report import drawings
        from vl2v_deploy.benchmarking.report.canvas import Canvas
    except ImportError as error:
        raise MissingExtra("matplotlib", "train") from error
    return drawings, Canvas
