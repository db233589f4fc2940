"""The page: one self-contained file, which loads nothing from the network."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from itertools import chain
from typing import Any

import numpy as np

from vl2v_deploy.benchmarking.report.html import MOST_CLASSES_OF_A_MATRIX, MOST_PAIRS
from vl2v_deploy.benchmarking.report.palette import DARK, LIGHT, css_variables
from vl2v_deploy.errors import MissingExtra
from vl2v_deploy.looking.answers import NOBODY, Look
from vl2v_deploy.looking.choosing import (
    PICTURES_OF_FOLDER,
    SURE,
    class_shares,
    confusion,
    counts_by_domain,
    counts_of,
    disagreements,
    least_sure,
    mistakes_by_domain,
    points_of_map,
    surest,
    weak_classes,
)
from vl2v_deploy.looking.component_map import colour_rules, principal_components, svg_of_map
from vl2v_deploy.looking.thumbnails import thumbnails
from vl2v_deploy.looking.words import headline, lead, percent, share
from vl2v_deploy.names import shown

PICTURE_PX, POINT_PX = 128, 56
LIGHT_PAGE = {"ground": "#f5f6f8", "zero": "#f0f2f5", "good": "#00704f", "bad": "#b3261e", "light": "0.55"}
LIGHT_PAGE |= {"warn-ground": "#fff6dd", "warn-rule": "#dcb95a"}
DARK_PAGE = {"ground": "#12161b", "zero": "#232a32", "good": "#3fcf9f", "bad": "#ff8f85", "light": "0.75"}
DARK_PAGE |= {"warn-ground": "#2e2712", "warn-rule": "#75611f"}


def html_from_look(look: Look) -> str:
    """The whole page.

    Raises MissingExtra without jinja2, ImageError for an image that was changed meanwhile.
    """
    shown_rows = _labelled(look) if look.labelled else _unlabelled(look)
    return _rendered("look.html.j2", _common(look) | _map(look) | _pictures(look, shown_rows) | shown_rows)


def html_of_mistakes(look: Look) -> str:
    """Part of a page, for a notebook: the most confident mistakes, without labels the least sure answers."""
    if look.labelled:
        domain, rows = next(iter(mistakes_by_domain(look).items()))
        title = f"Most confident mistakes in {domain}"
    else:
        rows, title = least_sure(look.answers, PICTURES_OF_FOLDER), "Least sure answers"
    values = {"rows": rows, "title": title}
    return _rendered("pictures.html.j2", _common(look) | _pictures(look, values) | values)


def _rendered(name: str, values: Mapping[str, Any]) -> str:
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtra("jinja2", "train") from error
    page = files("vl2v_deploy.looking") / "page"
    report = files("vl2v_deploy.benchmarking.report") / "page"

    def text_of(folder: Any, file: str) -> str:
        return str((folder / file).read_text(encoding="utf-8"))

    def printable(value: Any) -> Any:
        return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=printable,
        loader=jinja2.FunctionLoader(lambda template: text_of(page, template)),
    )
    environment.filters |= {"percent": percent, "share": share}
    return environment.get_template(name).render(
        **values,
        css=Markup(text_of(report, "report.css") + text_of(page, "look.css")),
        pictures_css=Markup(text_of(page, "pictures.css")),
        confusion_js=Markup(text_of(report, "report.js")),
        js=Markup(text_of(page, "look.js")),
        light=Markup(css_variables(LIGHT | LIGHT_PAGE)),
        dark=Markup(css_variables(DARK | DARK_PAGE)),
        markup=Markup,
    )


def _common(look: Look) -> dict[str, Any]:
    return {
        "look": look,
        "subject": look.subject,
        "answers": look.answers,
        "classes": [shown(name) for name in look.subject.classes],
        "domains": [shown(name) for name in look.domains],
        "NOBODY": NOBODY,
        "SURE": SURE,
        "headline": headline(look),
        "lead": lead(look),
        "day": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _labelled(look: Look) -> dict[str, Any]:
    counts = counts_by_domain(look)
    everything = np.arange(len(look.answers))
    confused = confusion(look.answers, look.answers.index, everything)
    return {
        "counts": counts,
        "all": counts_of(look, everything, sum(look.of.values())),
        "mistakes": mistakes_by_domain(look),
        "disagreements": disagreements(look.answers) if look.teacher else {},
        "weak": weak_classes(look),
        "confusions": _confusions(look),
        "most_confused": _most_confused(confused),
    }


def _unlabelled(look: Look) -> dict[str, Any]:
    answers, most = look.answers, min(PICTURES_OF_FOLDER, max(1, len(look.answers) // 2))
    shares = class_shares(answers, len(look.subject.classes))
    usual = look.subject.usual_shares or [None] * len(shares)
    rows = sorted(zip(look.subject.classes, shares, usual, strict=True), key=lambda row: -row[1])
    return {
        "least": least_sure(answers, most),
        "most": surest(answers, np.ones(len(answers), dtype=bool), most),
        "shares": [row for row in rows if row[1] or row[2]],
    }


def _pictures(look: Look, values: Mapping[str, Any]) -> dict[str, Any]:
    """The thumbnails of every row that `values` names."""
    rows = chain(
        *values.get("mistakes", {}).values(),
        *values.get("disagreements", {}).values(),
        *(weak.rows for weak in values.get("weak", ())),
        *(values.get(name, ()) for name in ("least", "most", "rows")),
    )
    return {"pictures": thumbnails(rows, look.answers.images, look.limits, PICTURE_PX, "Pictures")}


def _map(look: Look) -> dict[str, Any]:
    from markupsafe import Markup  # comes with jinja2, which is asked for first

    rows = points_of_map(look.answers)
    components = principal_components(look.answers.embedding)
    small = thumbnails(rows, look.answers.images, look.limits, POINT_PX, "Pictures of the map")
    classes, domains = len(look.subject.classes), len(look.domains)
    return {
        "map": Markup(svg_of_map(look, rows, components)),
        "map_css": Markup(colour_rules("c", classes, "class") + "\n" + colour_rules("d", domains, "domain")),
        "map_rows": rows,
        "explained": components.explained,
        "points": {row: _point(look, row, small[row].url) for row in rows},
    }


def _point(look: Look, row: int, url: str) -> dict[str, str]:
    """What is shown of a point that is pointed at."""
    answers, classes = look.answers, look.subject.classes
    said = f"student: {classes[answers.index[row]]} {percent(answers.confidence[row])} %"
    lines = [shown(said)]
    if answers.label[row] != NOBODY:
        lines.insert(0, shown(f"{classes[answers.label[row]]}, {look.domains[answers.domain[row]]}"))
    if answers.teacher[row] != NOBODY:
        sure = percent(answers.teacher_confidence[row])
        lines.append(shown(f"teacher: {classes[answers.teacher[row]]} {sure} %"))
    return {"url": url, "words": "\n".join(lines)}


def _confusions(look: Look) -> dict[str, Any]:
    """Counts of (class, answer) by who answers and domain, as report.js takes them; the first is all."""
    answers, classes = look.answers, [shown(name) for name in look.subject.classes]
    matrix = len(classes) <= MOST_CLASSES_OF_A_MATRIX
    parts = [np.arange(len(answers)), *(look.rows_of(number) for number in range(len(look.domains)))]
    if len(look.domains) == 1:
        parts = parts[1:]
    counts: dict[str, Any] = {
        "totals": [np.bincount(answers.label[rows], minlength=len(classes)).tolist() for rows in parts]
    }
    # Of a teacher that has not answered everything, the shares would be wrong.
    who = [answers.index] + [answers.teacher] * bool(answers.asked.all())
    for number, index in enumerate(who):
        found = [confusion(answers, index, rows) for rows in parts]
        counts[str(number)] = found if matrix else [_most_confused(pairs) for pairs in found]
    return {"classes": classes, "matrix": matrix, "counts": counts}


def _most_confused(pairs: list[list[int]]) -> list[list[int]]:
    wrong = [pair for pair in pairs if pair[0] != pair[1]]
    return sorted(wrong, key=lambda pair: -pair[2])[:MOST_PAIRS]
