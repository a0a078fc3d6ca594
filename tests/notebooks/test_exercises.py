"""Exercises: an empty answer fails its check with a hint, and the solution passes."""

import contextlib
import io
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra `notebooks` is not installed")
pytest.importorskip("ipywidgets", reason="the extra `notebooks` is not installed")

FOLDER = Path(__file__).parents[2] / "notebooks"
# 08 is for one's own stacks and ends with things to try.
LESSONS = sorted(path for path in FOLDER.glob("*.ipynb") if not path.name.startswith("08"))
STUB, CHECK = re.compile(r"# Exercise (\d+)\b"), re.compile(r"# Check (\d+)\b")
ON_EACH = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
# (lesson, exercise): a wrong answer that is easily given, and a part of what it must be told.
WRONG = {
    ("05", 1): (
        """def detection_f1(iou, least=0.4):
            n = min((iou.max(0) > least).sum(), (iou.max(1) > least).sum())
            return 2 * n / sum(iou.shape)""",
        "only two pairs are one-to-one",
    ),
    ("05", 2): (
        """def seg(shared, sizes, true_sizes):
            jaccard = shared / (sizes[:, None] + true_sizes - shared)
            return jaccard[jaccard > 0.5].sum() / len(true_sizes)""",
        "more than half of the TRUE cell",
    ),
    ("06", 1): (
        """def annotation_hours(cells, share, box_seconds, ratio, stack_seconds):
            masks = math.ceil(round(share * sum(cells), 6))
            return ((sum(cells) + ratio * masks) * box_seconds + len(cells) * stack_seconds) / 3600""",
        "round up in each stack",
    ),
}

pytestmark = pytest.mark.filterwarnings("ignore")


def numbered(path, pattern) -> dict[int, str]:
    """Source of the cells that begin with the pattern, by their number."""
    cells = nbformat.read(path, as_version=4).cells
    found = [(pattern.match(c.source), c.source) for c in cells if c.cell_type == "code"]
    return {int(match[1]): source for match, source in found if match}


def solutions(path) -> dict[int, str]:
    text = (FOLDER / "solutions" / f"{path.stem}.py").read_text("utf-8")
    parts = re.split(r"^# %% Exercise (\d+)\b.*$", text, flags=re.MULTILINE)
    return {int(number): source for number, source in zip(parts[1::2], parts[2::2], strict=True)}


def imports(path) -> str:
    """The cell that imports the library, as it is outside of IPython."""
    cells = nbformat.read(path, as_version=4).cells
    return next(c.source for c in cells if c.cell_type == "code" and "lessons.begin" in c.source)


def answer(path, source: str, check: str) -> str:
    """What the check prints of an answer, in a notebook where only the imports were run before."""
    names, printed = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(imports(path), "imports", "exec"), names)
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "answer", "exec"), names)
        exec(compile(check, "check", "exec"), names)
    return printed.getvalue()


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WEAKSEG_RESULTS", str(tmp_path))
    monkeypatch.setenv("WEAKSEG_QUICK", "1")
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # lesson 03 sets it; here it is put back


@ON_EACH
def test_every_exercise_has_a_check_and_a_solution(path):
    stubs = numbered(path, STUB)
    assert 2 <= len(stubs) <= 4
    assert (
        list(stubs) == list(range(1, len(stubs) + 1)) == list(numbered(path, CHECK)) == list(solutions(path))
    )


@ON_EACH
def test_the_empty_answer_fails_with_a_hint(path):
    checks = numbered(path, CHECK)
    for number, stub in numbered(path, STUB).items():
        said = answer(path, stub, checks[number])
        assert "not yet" in said and "right!" not in said, (number, said)


@ON_EACH
def test_the_solution_passes(path):
    checks = numbered(path, CHECK)
    for number, solution in solutions(path).items():
        said = answer(path, solution, checks[number])
        assert "right!" in said and "not yet" not in said, (number, said)


@ON_EACH
def test_a_careless_answer_is_told_more_than_that_it_is_wrong(path):
    checks = numbered(path, CHECK)
    for number, stub in numbered(path, STUB).items():
        if "raise NotImplementedError" not in stub:
            continue  # a bug to be found: its stub is the careless answer
        said = answer(path, stub.replace("raise NotImplementedError", "return None"), checks[number])
        assert "not yet" in said and len(said.split()) >= 8, (number, said)


@pytest.mark.parametrize("lesson, number", WRONG)
def test_a_wrong_answer_is_told_why(lesson, number):
    (path,) = [path for path in LESSONS if path.stem.startswith(lesson)]
    wrong, hint = WRONG[lesson, number]
    said = answer(path, wrong, numbered(path, CHECK)[number])
    assert "not yet" in said and hint in said, said


@ON_EACH
def test_a_forgotten_return_is_guessed(path):
    checks = numbered(path, CHECK)
    for number, stub in numbered(path, STUB).items():
        said = answer(path, stub.replace("raise NotImplementedError", "pass"), checks[number])
        assert "NoneType" not in said or "return something" in said, (number, said)
