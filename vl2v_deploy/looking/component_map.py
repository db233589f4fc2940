"""A map of the student's embeddings: their first two principal components, as an SVG drawing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vl2v_deploy.client.answers import Floats
from vl2v_deploy.escapes import html_text
from vl2v_deploy.looking.answers import NOBODY, Look

WIDTH, HEIGHT, MARGIN, RADIUS = 640, 480, 14, 4.5
PALETTE = 8  # colours --s0 to --s7 of a report; with more classes their hues are spread over the circle


class Components(NamedTuple):
    """place: (N, 2) of each image; explained: share of the variance that each direction holds."""

    place: npt.NDArray[np.float64]
    explained: tuple[float, float]


def principal_components(embedding: Floats) -> Components:
    """The two directions in which embeddings (N, D) vary most (Pearson 1901).

    A direction's sign is chosen so that its largest loading is positive: the same images, the same map.

    >>> line = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> place, explained = principal_components(line)
    >>> place[:, 0].round(3).tolist(), explained[0] > 0.999
    ([-1.414, 0.0, 1.414], True)
    """
    centred = embedding.astype(np.float64) - embedding.mean(0, dtype=np.float64)
    variance, directions = np.linalg.eigh(centred.T @ centred)  # rising; (D,), (D, D)
    total = float(variance.sum()) or 1.0
    two, shares = np.zeros((2, centred.shape[1])), [0.0, 0.0]
    for number in range(min(2, len(variance))):
        direction = directions[:, -1 - number]
        two[number] = direction if direction[np.abs(direction).argmax()] > 0 else -direction
        shares[number] = max(0.0, float(variance[-1 - number])) / total
    return Components(centred @ two.T, (shares[0], shares[1]))


def svg_of_map(look: Look, rows: tuple[int, ...], components: Components) -> str:
    """The drawing: a point for each row, classed c<class> d<domain> w or r (wrong or right).

    With labels a point's class is the true one, else the student's answer.
    """
    places = components.place[list(rows)]
    low, high = places.min(0), places.max(0)
    span = np.where(high > low, high - low, 1.0)
    room = np.array([WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN])
    points = MARGIN + (places - low) / span * room
    answers = look.answers
    circles = []
    for row, (x, y) in zip(rows, points, strict=True):
        label, domain = int(answers.label[row]), int(answers.domain[row])
        shown = int(answers.index[row]) if label == NOBODY else label
        state = "" if label == NOBODY else (" r" if answers.right[row] else " w")
        circles.append(
            f'<circle class="c{shown} d{domain}{state}" data-row="{row}" cx="{x:.1f}" cy="{HEIGHT - y:.1f}" '
            f'r="{RADIUS}"/>'
        )
    title = f"Embeddings of {len(rows):,} images in two dimensions"
    share = 100 * sum(components.explained)
    described = (
        f"Each point is an image; near points look alike to the student. {share:.0f} % of the variance."
    )
    return (
        f'<svg class="map" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="map-title map-desc" '
        f'xmlns="http://www.w3.org/2000/svg"><title id="map-title">{html_text(title)}</title>'
        f'<desc id="map-desc">{html_text(described)}</desc>{"".join(circles)}</svg>'
    )


def colour_rules(prefix: str, count: int, by: str) -> str:
    """CSS that colours points and keys of class <prefix><n> while the map is coloured `by` them."""
    rules = []
    for number in range(count):
        # neighbours by hue differ in lightness, too
        light = f"calc(var(--light) + {0.12 * (number % 2):.2f})"
        hue = 360 * number / count
        colour = f"var(--s{number})" if count <= PALETTE else f"oklch({light} .14 {hue:.0f})"
        name = f"{prefix}{number}"
        rules.append(f'[data-by="{by}"] .{name}, .key.{by} .{name} {{ --point: {colour}; }}')
    return "\n".join(rules)
