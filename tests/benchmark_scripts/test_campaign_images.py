"""A short run of the campaign's images."""

from __future__ import annotations

from benchmarks.campaign import images


def test_hostile_mutated_images_are_pixels_or_an_image_error() -> None:
    counts = images.run(seed=0, count=400)
    assert counts.clean, counts.errors
    assert counts.attempts == 400 and counts.ok > 20 and counts.documented > 100
