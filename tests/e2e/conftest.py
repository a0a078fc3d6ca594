"""A browser and a JupyterLab for tests (browser.py), and the annotator's page alone (annotator_hand.py)."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from annotator_hand import Hand  # noqa: E402
from browser import Page, find_browser, jupyterlab  # noqa: E402


@pytest.fixture
def page(tmp_path):
    """A page of a browser with a fresh profile. At the end a picture of it is left: last.png."""
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium (Debian, Ubuntu: apt install chromium)")
    pytest.importorskip("websocket", reason="websocket-client is not installed (it comes with jupyterlab)")
    page = Page(program, tmp_path / "profile")
    try:
        yield page
        page.save_picture(tmp_path / "last.png")
    finally:
        page.close()


@pytest.fixture
def hand(page):
    """The annotator's page without a kernel. At the end it has had no error."""
    hand = Hand(page)
    yield hand
    assert page.run("problems") == []


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab of its own with copies of all notebooks; what they write goes into tmp_path."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("jupyterlab is not installed (the extra `notebooks`)")
    with jupyterlab(tmp_path) as address:
        yield address
