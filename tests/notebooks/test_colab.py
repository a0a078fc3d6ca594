"""Notebooks as Colab runs them: no checkout beside them, and a set-up cell that installs the library and nothing else.

Stand-ins take the place of Google's module and of pip: that pip notes what it was asked for and unpacks the library's
own wheel contents, so that the notebook can only find what a user's installation would hold.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra `notebooks` is not installed")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIP = """
import json, os, shutil, sys
with open(os.environ["STANDIN_ASKED"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
shutil.copytree(os.environ["STANDIN_BUILD"], os.environ["STANDIN_SITE"], dirs_exist_ok=True)
"""
RUN = """
import sys, nbformat
sys.path.append(sys.argv[2])
from run_notebook import asking_again
from nbclient import NotebookClient

class Client(NotebookClient):  # answers that nbclient loses are asked for again, as in `make run`
    async def async_start_new_kernel_client(self, **options):
        client = await super().async_start_new_kernel_client(**options)
        client.shell_channel.get_msg = asking_again(client.shell_channel.get_msg)
        return client

book = nbformat.read(sys.argv[1], as_version=4)
book.cells = [cell for cell in book.cells if cell.cell_type == "code"]
book.cells[0].source = "import google.colab\\n" + book.cells[0].source
book.cells.append(nbformat.v4.new_code_cell("import weakseg_lib; print('from', weakseg_lib.__file__)"))
Client(book, timeout=None, extra_arguments=["--log-level=CRITICAL"]).execute()
print("".join(o.get("text", "") for o in book.cells[-1].outputs))
"""


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """What an installation of the library holds: its modules, and the other files that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("wheel")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = ["**/*.py", *settings["package-data"]["weakseg_lib"]]
    for file in [file for pattern in patterns for file in (ROOT / "weakseg_lib").glob(pattern)]:
        target = folder / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_colab_with_the_library_alone(path, tmp_path, build):
    site, fake, there = tmp_path / "site", tmp_path / "fake", tmp_path / "content"
    for folder in (site, fake / "google" / "colab", fake / "pip", there):
        folder.mkdir(parents=True)
    (fake / "google" / "colab" / "__init__.py").touch()
    (fake / "pip" / "__init__.py").touch()
    (fake / "pip" / "__main__.py").write_text(PIP)
    shutil.copy(path, there)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WEAKSEG")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(fake), str(site)]),
        "STANDIN_ASKED": str(tmp_path / "asked"),
        "STANDIN_BUILD": str(build),
        "STANDIN_SITE": str(site),
        "WEAKSEG_QUICK": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", RUN, path.name, str(ROOT / "notebooks")],
        cwd=there,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"from {site}" in run.stdout, run.stdout
    (asked,) = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    # The annotator's own package is all that may come with the library.
    extras = "[annotator,zarr]" if path.name.startswith("08") else ""
    assert asked == ["install", "--quiet", f"weakseg_lib{extras} @ git+{address}"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_in_the_notebook_needs_the_checkout(path):
    code = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    assert not re.search(r"benchmarks/|data_scripts|\.\./|docs/|tests/", code)
