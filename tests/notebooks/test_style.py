"""The style that all notebooks keep, so that they read alike, run anywhere, and look right before they are run."""

import ast
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra `notebooks` is not installed")
transformer = pytest.importorskip(
    "IPython.core.inputtransformer2", reason="the extra `notebooks` is not installed"
)

FOLDER = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(FOLDER))
run_notebook = pytest.importorskip("run_notebook", reason="the extra `notebooks` is not installed")
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_KILOBYTES, MOST_CELLS, MOST_WORDS, MOST_LINES, MOST_COLUMNS = 300, 45, 1500, 25, 120
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
ABSOLUTE = re.compile(r"(?<![\w.:/~*])/(?:home|Users|work|tmp|root|content|mnt|opt|var)/|\b[A-Z]:\\\w")

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path):
    return nbformat.read(path, as_version=4)


def texts(book):
    return [cell.source for cell in book.cells if cell.cell_type == "markdown"]


def codes(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def outputs(book):
    return [output for cell in codes(book) for output in cell.outputs]


def printed(output):
    """All text in an output, also that which stands in for a picture."""
    data = output.get("data", {})
    return output.get("text", "") + data.get("text/plain", "") + data.get("text/html", "")


def has_picture(cell):
    return any(kind in output.get("data", {}) for output in cell.outputs for kind in PICTURES)


def parsed(cell):
    """The syntax tree of a code cell, magics and all."""
    return ast.parse(transformer.TransformerManager().transform_cell(cell.source))


def test_is_a_valid_notebook(path):
    nbformat.validate(read(path))


def test_opens_with_one_title_and_what_to_expect(path):
    book = read(path)
    titles = [line for text in texts(book) for line in text.splitlines() if line.startswith("# ")]
    assert len(titles) == 1
    first = book.cells[0].source
    assert first.startswith("# ")
    for part in ("You will", "You need"):
        assert part in first
    # A time that nobody measured is not guessed.
    assert re.search(r"Time:\W*CPU \d+ min(, GPU \d+ min|; on a GPU not measured yet)", first)


def test_is_short(path):
    book = read(path)
    assert len(book.cells) <= MOST_CELLS
    assert sum(len(text.split()) for text in texts(book)) <= MOST_WORDS
    for cell in codes(book):
        lines = cell.source.splitlines()
        assert len(lines) <= MOST_LINES, lines[0]
        assert max(map(len, lines), default=0) <= MOST_COLUMNS, lines[0]


def test_set_up_is_one_cell_that_installs_the_library_alone(path):
    installs = [cell.source for cell in codes(read(path)) if re.search(r"\bpip\b.*\binstall\b", cell.source)]
    assert len(installs) == 1
    assert '"google.colab" in sys.modules' in installs[0]
    # Colab has a torch that fits its GPU: another one, or another triton, breaks it.
    assert not re.search(r"\b(torch|triton|numpy)\b", installs[0])


def test_imports_end_in_a_line_with_versions_and_device(path):
    book = read(path)
    (first,) = [cell for cell in codes(book) if re.search(r"^(import|from) weakseg_lib", cell.source, re.M)][
        :1
    ]
    line = "".join(printed(output) for output in first.outputs).strip().splitlines()[-1]
    for part in ("weakseg", "torch", "device"):
        assert part in line


def test_every_figure_is_followed_by_a_sentence_on_it(path):
    cells = read(path).cells
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type == "code" and has_picture(cell):
            assert following is not None and following.cell_type == "markdown", cell.source[:60]
            assert len(following.source.split()) >= 10, following.source


def test_was_run_from_top_to_bottom_without_an_error(path):
    book = read(path)
    assert [cell.execution_count for cell in codes(book)] == list(range(1, len(codes(book)) + 1))
    assert not [output.ename for output in outputs(book) if output.output_type == "error"]
    assert any(has_picture(cell) for cell in codes(book))


def test_has_no_warning_in_its_output(path):
    for output in outputs(read(path)):
        assert output.get("name") != "stderr", output.text[:200]


def test_widgets_left_pictures_and_no_state(path):
    # Pages without a kernel show an error, or nothing, in place of a widget.
    book = read(path)
    assert "widgets" not in book.metadata
    assert not [output for output in outputs(book) if WIDGET_VIEW in output.get("data", {})]


def test_file_is_small(path):
    assert path.stat().st_size <= MOST_KILOBYTES * 1024


def test_names_no_absolute_path(path):
    book = read(path)
    for text in [cell.source for cell in book.cells] + [printed(output) for output in outputs(book)]:
        assert not ABSOLUTE.search(text), ABSOLUTE.search(text)


def test_sliders_have_names_and_wait_for_the_release(path):
    for cell in codes(read(path)):
        for node in ast.walk(parsed(cell)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("IntSlider", "FloatSlider")):
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert options.get("continuous_update") == "False" and "description" in options


def test_uses_nothing_that_colab_lacks(path):
    source = "\n".join(cell.source for cell in codes(read(path)))
    assert not re.search(r"ipympl|%matplotlib\s+(widget|notebook)", source)


def test_outputs_are_of_this_code(path):
    book = read(path)
    assert book.metadata.get("weakseg", {}).get("code") == run_notebook.code_mark(book), "run `make refresh`"


def test_headings_go_down_one_step_at_a_time(path):
    levels = [
        len(line) - len(line.lstrip("#"))
        for text in texts(read(path))
        for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines()
        if re.match(r"#+ ", line)
    ]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))


def test_pictures_in_texts_have_a_description(path):
    for text in texts(read(path)):
        assert not re.search(r"!\[\s*\]\(", text) and "<img" not in text


def test_links_lead_somewhere(path):
    for text in texts(read(path)):
        for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", text):
            assert (FOLDER / target.partition("#")[0]).exists(), target


def test_some_outputs_are_compared_when_the_tests_run(path):
    marked = [cell for cell in codes(read(path)) if "# NBVAL_CHECK_OUTPUT" in cell.source]
    assert marked or path.name.startswith("00")  # a training: no number of it is the same everywhere
    assert all(not has_picture(cell) for cell in marked)
