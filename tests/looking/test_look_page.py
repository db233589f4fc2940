"""The page of `look` in a real Chromium: readable, self-contained and small, at a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import DESKTOP, PHONE, chromium, opened
from tests.helpers.contrast import CONTRAST
from tests.helpers.looks import made_up_look
from vl2v_deploy.looking.answers import Look
from vl2v_deploy.looking.choosing import counts_by_domain, least_sure, mistakes_by_domain
from vl2v_deploy.looking.html import html_from_look, html_of_mistakes
from vl2v_deploy.looking.words import headline

HOSTILE = "</script><img src=x onerror=alert(1)><b>&\"'${{7*7}}"
VIEWS = [(DESKTOP, False), (PHONE, True)]
LOOKS: dict[str, dict[str, Any]] = {
    "usual": {"count": 90},
    "hostile": {
        "count": 60,
        "classes": (HOSTILE, f"line\n{HOSTILE}", "plain"),
        "domains": (f"z{HOSTILE}", "\x1b[2J", "photo"),
        "note": f"{HOSTILE}\x1b",
    },
    "folder": {"count": 60, "labelled": False, "note": HOSTILE},
    "many classes": {"count": 120, "classes": tuple(f"class_{n}" for n in range(60)), "teacher": False},
}


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Look]:
    folder = tmp_path_factory.mktemp("pictures")
    return {name: made_up_look(folder / f"{n}", **how) for n, (name, how) in enumerate(LOOKS.items())}


@pytest.fixture(scope="module")
def pages(looks: dict[str, Look], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for number, (name, look) in enumerate(looks.items()):
        (folder / f"{number}.html").write_text(html_from_look(look), encoding="utf-8")
        assert name in LOOKS
    return {name: folder / f"{number}.html" for number, name in enumerate(looks)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("name", LOOKS)
def test_the_file_needs_nothing_else(name: str, pages: dict[str, Path]) -> None:
    text = re.sub("base64,[A-Za-z0-9+/=]+", "base64,", pages[name].read_text(encoding="utf-8"))
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert {address for address in addresses if "w3.org" not in address} == set()
    assert "@import" not in text and "NaN" not in text and not re.search(r"\bnan\b", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    images = re.findall(r"<img [^>]*>", text)
    assert images and all(re.search(r' alt="[^"]+"', image) for image in images)
    assert all(' src="data:image/webp;base64,' in image for image in images)


def test_the_page_of_the_worst_pictures_stays_small(tmp_path: Path) -> None:
    domains = tuple(f"domain {n}" for n in range(30))
    look = made_up_look(tmp_path, count=1200, domains=domains, side_px=160)
    text = html_from_look(look)
    assert len(text.encode()) < 10_000_000
    assert "6 domains with higher accuracy are not shown here" in text


@pytest.mark.slow
@pytest.mark.parametrize(("size", "dark"), VIEWS)
@pytest.mark.parametrize("name", LOOKS)
def test_it_reads_well(
    name: str, size: tuple[int, int], dark: bool, looks: dict[str, Look], pages: dict[str, Path], browser: Any
) -> None:
    with opened(browser, pages[name].as_uri(), size, dark=dark) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert page.locator("h1").inner_text().split() == headline(looks[name]).split()
        texts = page.evaluate(CONTRAST)
        assert len(texts) > 100
        assert [t for t in texts if t["ratio"] < 4.5] == []
        assert [t for t in texts if t["px"] < 11] == []
        box = page.locator("svg.map").bounding_box()
        assert box["width"] > 250 and box["height"] > 150
        for image in page.locator(".shot img").all()[:12]:
            image.scroll_into_view_if_needed()
            assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 40


def test_every_mistake_has_its_three_names(
    looks: dict[str, Look], pages: dict[str, Path], browser: Any
) -> None:
    look = looks["usual"]
    a, classes = look.answers, look.subject.classes
    with opened(browser, pages["usual"].as_uri()) as page:
        shots = page.locator("#mistakes .shot")
        rows = [row for rows in mistakes_by_domain(look).values() for row in rows]
        assert shots.count() == len(rows)
        for number, row in enumerate(rows):
            said = shots.nth(number).inner_text().splitlines()
            assert said[0] == classes[a.label[row]]
            assert said[2] == classes[a.index[row]] != said[0]
            if a.teacher[row] >= 0:
                assert said[3].startswith("teacher, ") and said[4] == classes[a.teacher[row]]
            assert said[-1] == Path(a.images[row].path).name
        right = counts_by_domain(look)["photo"].right
        page.select_option("#confusion-domain", label="photo")
        cells = page.locator("#confusion-matrix tbody tr").all()
        assert sum(int(row.locator("td").nth(n).inner_text() or 0) for n, row in enumerate(cells)) == right
        # the teacher has not answered everything: its shares would be wrong
        assert page.locator("#confusion-engine option").all_inner_texts() == ["student"]


def test_the_least_sure_of_a_folder_come_first(
    looks: dict[str, Look], pages: dict[str, Path], browser: Any
) -> None:
    look = looks["folder"]
    with opened(browser, pages["folder"].as_uri()) as page:
        names = page.locator("#least .shot .file").all_inner_texts()
        rows = least_sure(look.answers, len(names))
        assert names == [Path(look.answers.images[row].path).name for row in rows]
        assert page.locator("#shares .bars > span").count() == 3 * len(look.subject.classes)
        assert "broken.png" in page.locator("#shares").inner_text()


@pytest.mark.slow
def test_a_point_shows_its_image_and_a_key_lifts_its_points(
    looks: dict[str, Look], pages: dict[str, Path], browser: Any
) -> None:
    look = looks["usual"]
    with opened(browser, pages["usual"].as_uri()) as page:
        circle = page.locator("svg.map circle").nth(40)
        row = int(circle.get_attribute("data-row"))
        circle.dispatch_event("click")
        words = page.locator("#point p").inner_text()
        assert look.subject.classes[look.answers.label[row]] in words.splitlines()[0]
        assert page.locator("#point img").get_attribute("src").startswith("data:image/webp")
        page.get_by_role("button", name="domain", exact=True).click()
        assert page.locator(".key.domain").is_visible() and page.locator(".key.class").is_hidden()
        page.locator(".key.domain button").first.click()
        lifted = page.locator("svg.map circle.only")
        assert lifted.count() == int((look.answers.domain == 0).sum())
        fill = "e => getComputedStyle(e).fill"
        colours = [page.locator(f"svg.map circle.d{n}").first.evaluate(fill) for n in range(3)]
        assert len(set(colours)) == 3
        page.get_by_role("button", name="mistakes", exact=True).click()
        wrong = int((~look.answers.right).sum())
        assert page.locator("svg.map circle.w").count() == wrong and lifted.count() == 0


def test_hostile_names_are_text(looks: dict[str, Look], pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages["hostile"].as_uri()) as page:
        assert page.locator("img[src=x]").count() == 0 and page.locator("body b").count() == 0
        assert page.locator("#confusion-matrix tbody th").first.text_content() == HOSTILE
        assert page.locator(".warnings").inner_text() == f"{HOSTILE}\\x1b"
        assert f"z{HOSTILE}" in page.locator("#mistakes").inner_text()
        assert page.locator(".key.class button").nth(1).text_content() == f"line\\x0a{HOSTILE}"
        assert "\\x1b[2J" in page.locator("#confusion-domain").text_content()
        page.locator("svg.map circle").nth(3).dispatch_event("click")
        assert page.locator("#point img").count() == 1
    part = html_of_mistakes(looks["hostile"])
    assert "<img src=x" not in part and "</script>" not in part and part.count("<img ") > 1


def test_it_can_be_read_without_scripts(pages: dict[str, Path], browser: Any) -> None:
    with opened(browser, pages["usual"].as_uri(), java_script_enabled=False) as page:
        assert page.locator("#confusion-pairs tr").count() >= 5
        assert page.locator("svg.map circle").count() == 90
        assert page.locator(".shot:visible").count() > 20


def test_many_classes_show_pairs(pages: dict[str, Path]) -> None:
    text = pages["many classes"].read_text(encoding="utf-8")
    assert "60 classes are too many for a matrix" in text and 'id="confusion-matrix"' not in text
    assert "Against the teacher" not in text
