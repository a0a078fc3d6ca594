"""What notebooks begin with, and what a check says of an answer that is none."""

import matplotlib.pyplot as plt
import pytest

pytest.importorskip("ipywidgets", reason="the extra `notebooks` is not installed")

from weakseg_lib import lessons


@pytest.mark.parametrize("asked, dpi", [(None, 100), ("75", 75)])
def test_pictures_are_sharper_on_a_screen_than_saved(asked, dpi, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WEAKSEG_RESULTS", str(tmp_path))
    monkeypatch.delenv("WEAKSEG_DPI", raising=False)
    if asked:  # by run_notebook.py
        monkeypatch.setenv("WEAKSEG_DPI", asked)
    with plt.rc_context():
        lessons.begin("some_lesson")
        assert plt.rcParams["figure.dpi"] == dpi
    assert "for whoever helps you: weakseg" in capsys.readouterr().out


def test_a_forgotten_return_is_told_as_such(capsys):
    with lessons.exercise("1. Double"):
        assert (lambda x: None)(2) + 1 == 5
    said = capsys.readouterr().out
    assert "TypeError" in said and said.endswith("Does your function return something in every case?\n")


def test_other_errors_are_told_as_they_are(capsys):
    with lessons.exercise("1. Double"):
        assert {}["two"]
    assert capsys.readouterr().out == "1. Double: not yet. It stops with KeyError: 'two'\n"
