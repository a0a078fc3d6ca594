"""What all notebooks begin with: this machine, how large the lesson may be, one stack for all, and exercises."""

import importlib.util
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib_inline.backend_inline import set_matplotlib_formats

import weakseg_lib
from weakseg_lib.data.annotation import WeakAnnotation, annotate
from weakseg_lib.data.files import read_json
from weakseg_lib.data.simulate.hl60 import hl60_frames, hl60_settings
from weakseg_lib.data.stacks import Stack
from weakseg_lib.device import pick_device
from weakseg_lib.errors import InputError
from weakseg_lib.plots import JPEG

SIZES = ("auto", "small", "large")
EXAMPLE_SEED = 0  # the running example is the first stack of `weakseg simulate hl60 OUT`


@dataclass(frozen=True)
class Lesson:
    """Where a notebook runs. device: of its tensors. large: whether it may take what a GPU can do. quick: a test run,
    that only shows that every cell works. work: the notebook's own folder, made, for what it writes."""

    device: torch.device
    large: bool
    quick: bool
    work: Path

    def pick(self, small, large, quick=None):
        """The value for this size; `quick`, where given, is for test runs."""
        if self.quick and quick is not None:
            return quick
        return large if self.large else small


def begin(name: str, size: str = "auto") -> Lesson:
    """Open the lesson `name`: choose its size, make its folder, and print both, with versions and device.

    size: "auto" is large where torch sees a GPU; "small" and "large" insist. The folder is NAME below
    $WEAKSEG_RESULTS, or below results/ beside the library's checkout, or below ./results. WEAKSEG_QUICK=1 asks for a
    test run. Raises InputError for another size.
    """
    if size not in SIZES:
        raise InputError(f"SIZE = {size!r}", "unknown size", f"choose one of {', '.join(SIZES)}")
    _keep_figures_small(int(os.environ.get("WEAKSEG_DPI", 100)))
    device = pick_device()
    large = size == "large" or (size == "auto" and device.type == "cuda")
    why = "as asked" if size != "auto" else "there is a GPU" if large else "no GPU was found"
    print(f"size: {'large' if large else 'small'}, {why}; SIZE = 'small' or 'large' insists")
    place = next((p for p in (Path.cwd(), *Path.cwd().parents) if (p / "weakseg_lib").is_dir()), Path.cwd())
    results = Path(os.path.relpath(os.environ.get("WEAKSEG_RESULTS") or place / "results"))
    work = results / name
    work.mkdir(parents=True, exist_ok=True)
    print("for whoever helps you:", _machine(device))
    return Lesson(device, large, os.environ.get("WEAKSEG_QUICK") == "1", work)


def _keep_figures_small(dpi: int):
    """Make figures that a notebook shows JPEGs of `dpi` dots an inch, so that its file stays small. (run_notebook.py,
    which saves them, asks for fewer than a reader at a screen gets.)"""
    set_matplotlib_formats("jpeg", pil_kwargs=JPEG)
    plt.rcParams["figure.dpi"] = dpi


def _machine(device: torch.device) -> str:
    """One line for whoever asks for help: versions, device, and which RoIAlign computes there."""
    triton = metadata.version("triton") if importlib.util.find_spec("triton") else "none"
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    )
    able = device.type == "cuda" and triton != "none" and torch.cuda.get_device_capability() >= (8, 0)
    return (
        f"weakseg {weakseg_lib.__version__}, python {platform.python_version()}, torch {torch.__version__}, triton "
        f"{triton} | device {where} | RoIAlign backend {'triton' if able else 'separable'}"
    )


def example_stack(group: int = 1) -> Stack:
    """The stack that all lessons show, simulated in memory: (32, 160, 160) uint16 with labels, about 17 nuclei.

    `group` 2 is darker and more crowded.
    """
    image, labels = next(hl60_frames(group, seed=EXAMPLE_SEED))
    name = f"{group:02d}/t000"
    return Stack(image, hl60_settings(group).voxel_size, name, Path(name), labels=labels)


def example_annotation(share: float = 0.2) -> WeakAnnotation:
    """The running example's weak annotation: a box for every nucleus, masks for a `share` of them."""
    return annotate(example_stack().labels, share, EXAMPLE_SEED)


def recorded(name: str) -> dict:
    """A result of benchmarks/results that lessons show, by its name without .json; copies come with the library."""
    return read_json(Path(weakseg_lib.__file__).parent / "recorded" / f"{name}.json")


@contextmanager
def exercise(title: str) -> Iterator[None]:
    """Check an answer: assertions inside say with their message what is still wrong; nothing is raised.

    with exercise("1. IoU of two boxes"):
        assert iou(a, a) == 1, "a box and itself: the IoU must be 1"
    """
    try:
        yield
    except NotImplementedError:
        print(f"{title}: not yet. Replace the line that raises NotImplementedError by your own.")
    except AssertionError as error:
        print(f"{title}: not yet. {error or 'One of the checks does not hold.'}")
    except Exception as error:  # whatever a learner's code may raise is an answer, too
        # What a function without `return` gives is found out only by what is done with it.
        hint = " Does your function return something in every case?" if "NoneType" in str(error) else ""
        print(f"{title}: not yet. It stops with {type(error).__name__}: {error}{'.' if hint else ''}{hint}")
    else:
        print(f"{title}: right!")


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print how long the cell's work took."""
    start = time.perf_counter()
    yield
    print(f"{name}: {time.perf_counter() - start:.1f} s")
