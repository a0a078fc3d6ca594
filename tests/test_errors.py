import pickle

import pytest

from weakseg_lib.errors import InputError


def test_is_one_line_even_where_the_cause_has_several():
    error = InputError("a.tif", "cannot be read (line 1\n  line 2)", "copy it again")
    assert str(error) == "a.tif: cannot be read (line 1 line 2); copy it again"


def test_survives_the_way_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(InputError("a.tif", "is 2D", "give a stack")))
    assert (error.where, error.problem, error.fix) == ("a.tif", "is 2D", "give a stack")
    assert str(error) == "a.tif: is 2D; give a stack"


def test_is_one_line_in_a_notebook_too(capsys):
    shell = pytest.importorskip("IPython").core.interactiveshell.InteractiveShell()
    shell.run_cell("from weakseg_lib import Sequence; Sequence('nowhere')")
    shown = capsys.readouterr()
    assert (
        shown.out + shown.err
    ).strip() == "InputError: nowhere: no such folder; give a sequence folder like NAME/01"
