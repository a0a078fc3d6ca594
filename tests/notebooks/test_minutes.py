"""A lesson's minutes stand in three places: in itself, in the README's table, in the teacher's. They agree."""

import math
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra `notebooks` is not installed")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells_of_row(text: str, start: str) -> list[str]:
    """The cells of the one line of a Markdown table that begins so."""
    (row,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_minutes_agree(path):
    first = nbformat.read(path, as_version=4).cells[0].source
    own = int(re.search(r"\*\*Time:\*\* CPU (\d+) min", first)[1])
    number = path.name[:2]
    readme = cells_of_row((ROOT / "README.md").read_text("utf-8"), f"| [{number} ")
    assert int(readme[2]) == own
    measured = cells_of_row((ROOT / "notebooks/INSTRUCTOR.md").read_text("utf-8"), f"| {number} |")[1]
    most, unit = re.search(r"(\d+) (s|min)$", measured).groups()  # of "3 to 5 min" the 5
    assert math.ceil(int(most) / (60 if unit == "s" else 1)) == own
