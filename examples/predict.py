"""Label image files.

python examples/predict.py bundles/quickstart photo.jpg other.png
"""

import sys

from vl2v_deploy.client import Student
from vl2v_deploy.errors import ImageError, VL2VError


def main(bundle: str, images: list[str]) -> int:
    """0, or 1 when an image could not be used."""
    bad = 0
    with Student.load(bundle) as student:
        for image, answer in zip(images, student.stream(images, on_error="yield"), strict=True):
            if isinstance(answer, ImageError):
                print(answer, file=sys.stderr)
                bad += 1
            else:
                unsure = "  (unsure: better not to rely on it)" if answer.abstained else ""
                print(f"{image}: {answer.label} {answer.probability:.2f}{unsure}")
    return 1 if bad else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except VL2VError as error:
        sys.exit(f"Error: {error}")
