"""The files around the code: that they say the same, and that what they promise is there."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import weakseg_lib
from weakseg_lib.cli import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
# conda's pytorch brings triton where there is one, Zeiss's reader comes by pip; pip itself belongs to the
# environment and not to the project.
PIP_ONLY, CONDA_ONLY = {"triton", "pylibczirw"}, {"python", "pip"}
# Spelt in parts, so that this file does not name them either.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pypi", "python", "org"),
        ("download", "pytorch", "org"),
        ("anaconda", "org"),
        ("anaconda", "com"),
        ("conda", "io"),
        ("npmjs", "org"),
    )
]


def requirements() -> dict[str, Requirement]:
    """Everything that pyproject.toml asks for, extras included, by name."""
    texts = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    return {canonicalize_name(r.name): r for r in map(Requirement, texts)}


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock.txt").read_text("utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r for r in found}


@pytest.fixture(scope="module")
def own_files() -> list[Path]:
    """The files that are in the repository, or would be after the next commit."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so what belongs to it is not known")
    return [path for name in listed if name and (path := ROOT / name).is_file()]


def test_every_requirement_is_pinned_to_a_version_in_its_range():
    asked, pinned = requirements(), pins()
    assert asked.keys() == pinned.keys()
    for name, pin in pinned.items():
        (version,) = pin.specifier
        assert version.operator == "==", f"{pin} does not name one version"
        assert asked[name].specifier.contains(version.version), f"{pin} is not in {asked[name]}"
        assert pin.marker == asked[name].marker


def test_conda_environment_asks_for_the_same_ranges():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    texts = [text for text in environment["dependencies"] if isinstance(text, str)]
    asked = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in map(Requirement, texts)}
    assert asked["python"] == PROJECT["requires-python"]
    own = {name: r.specifier for name, r in requirements().items() if name not in PIP_ONLY}
    assert {name: spec for name, spec in asked.items() if name not in CONDA_ONLY} == own
    assert environment["dependencies"][-1] == {"pip": ["-e .[formats]"]}


def test_library_imports_nothing_that_it_does_not_ask_for():
    brought_by = {"IPython": "ipykernel", "matplotlib_inline": "ipykernel"}
    brought_by |= {"skimage": "scikit-image", "traitlets": "ipywidgets"}
    for path in (ROOT / "weakseg_lib").rglob("*.py"):
        for name in imported(path) - sys.stdlib_module_names - {"weakseg_lib"}:
            assert canonicalize_name(brought_by.get(name, name)) in requirements(), f"{path} imports {name}"


def test_a_plain_installation_can_import_the_library():
    """What a module imports at once must be of the plain installation; only what needs JupyterLab may ask for more."""
    plain = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]} | {"triton"}
    for path in (ROOT / "weakseg_lib").rglob("*.py"):
        if path.name in ("widgets.py", "lessons.py") or path.parent.name == "annotator":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for name in imported_by(at_once) - sys.stdlib_module_names - {"weakseg_lib"}:
            assert canonicalize_name({"skimage": "scikit-image"}.get(name, name)) in plain, f"{path}: {name}"


def imported(path) -> set[str]:
    """The top-level names of the modules that a file imports, anywhere in it."""
    return imported_by(ast.walk(ast.parse(path.read_text("utf-8"))))


def imported_by(nodes) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == weakseg_lib.__version__
    assert "version" in PROJECT["dynamic"]  # and is read from weakseg_lib


def test_citation_can_be_read():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert paper["doi"] in (ROOT / "README.md").read_text("utf-8")
    assert [author["family-names"] for author in paper["authors"]][0] == "Zhao"


def test_one_public_address_everywhere(own_files):
    """pyproject.toml has it, `make stamp` carries it to the others."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["repository-code"] == ADDRESS, "run `make stamp`"
    for path in own_files:
        if path.suffix in (".md", ".ipynb"):
            text = path.read_text("utf-8")
            for address in re.findall(r"(?:git clone |git\+)(https?://[^\s\"'@\\`]+)", text):
                assert address.removesuffix(".git") == ADDRESS, f"{path}: run `make stamp`"


def test_links_to_colab_are_of_this_address(own_files):
    where = "https://colab.research.google.com/github" + urlparse(ADDRESS).path + "/blob/main/notebooks/"
    for path in own_files:
        if path.suffix == ".ipynb" or path.name == "README.md":
            text = path.read_text("utf-8")
            for link in re.findall(r"https://colab\.research\.google\.com/(?!assets/)[^\s)\"]+", text):
                assert link.startswith(where), f"{path}: run `make stamp`"
                assert (ROOT / "notebooks" / link.removeprefix(where).removesuffix("\\n")).is_file(), link


def test_recorded_results_are_those_of_the_benchmarks():
    copies = ROOT / "weakseg_lib" / "recorded"
    found = sorted((ROOT / "benchmarks/results").glob("**/*.json"))
    originals = {path.name: path.read_bytes() for path in found}
    assert {p.name for p in copies.glob("*.json")} >= {"hl60_laptop.json", "roi_align_cpu.json"}
    for path in copies.iterdir():
        assert path.read_bytes() == originals[path.name], f"{path.name}: run `make refresh`"


def test_no_package_registry_is_named(own_files):
    """Where packages come from is the machine's own setting."""
    for path in own_files:
        content = path.read_bytes()
        for host in REGISTRIES:
            assert host.encode() not in content, f"{path} names {host}"


def test_clone_stays_small(own_files):
    # A clone of 25 MB takes seconds; data and trained runs belong elsewhere.
    assert sum(path.stat().st_size for path in own_files) < 25e6


@pytest.mark.parametrize("command", [["-m", "weakseg_lib", "--help"], ["-m", "weakseg_lib", "fit", "--help"]])
def test_command_line_starts(command):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("usage: weakseg"), done.stderr


def test_help_does_not_wait_for_torch():
    """torch takes seconds to import; someone who asks for help need not wait for it."""
    code = "import sys, weakseg_lib.cli; assert not {'torch', 'matplotlib', 'scipy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_installed_command_is_the_command_line():
    module, _, function = PROJECT["scripts"]["weakseg"].partition(":")
    assert (module, function) == (main.__module__, main.__name__)


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text("utf-8")
    assert sys.platform == "win32" or script.stat().st_mode & 0o100, f"{script} cannot be executed"
