"""A run folder: what training leaves behind and prediction starts from."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import torch

from weakseg_lib.config import Config, with_settings
from weakseg_lib.data.files import atomic_path, read_json
from weakseg_lib.device import memory_format, pick_device
from weakseg_lib.errors import InputError
from weakseg_lib.model.network import Network
from weakseg_lib.model.voxresnet import VoxResNet

RUN_FORMAT = 1
# Run folders that come with the library, each with its card.
PRETRAINED = Path(__file__).parent / "pretrained"
# What prediction needs to know beside the weights.
NEEDED = {
    "weak": (
        "anchor_sizes",
        "working_voxel_um",
        "has_masks",
        "score_threshold",
        "nms_threshold",
        "mask_level",
    ),
    "voxresnet": (
        "working_voxel_um",
        "has_masks",
        "cell_level",
        "smallest_share",
        "background_level",
        "median_voxels",
    ),
}
RUN, CONFIG, LOG, CHECKPOINT, WEIGHTS = "run.json", "config.json", "log.csv", "checkpoint.pt", "weights.pt"


@dataclass(frozen=True)
class Run:
    """A finished training: network (averaged weights, evaluation mode), its settings, and run.json as a dict.

    info: what NEEDED names, and more: working_voxel_um (z, y, x), anchor_sizes (A, 3) working voxels, ...
    """

    folder: Path
    config: Config
    info: dict
    network: Network | VoxResNet


def make_network(config: Config, info: dict) -> Network | VoxResNet:
    """The network of the method that the settings name, with random weights."""
    return VoxResNet(config) if config.method == "voxresnet" else Network(config, info["anchor_sizes"])


def find_run(name) -> Path:
    """The run folder `name`, or, where there is none, the one of that name that comes with the library ("hl60")."""
    own = PRETRAINED / str(name)
    return own if str(name).isidentifier() and not Path(name).exists() and own.is_dir() else Path(name)


def load_run(folder, device="auto") -> Run:
    """Read a finished run folder, or one that comes with the library by its name.

    Raises InputError where it is missing, not a run folder, of another format, unfinished or damaged.
    """
    folder = find_run(folder)
    info = read_info(folder)
    if not info.get("finished"):
        raise InputError(
            folder, "its training has not finished", "continue it with `weakseg fit ... --resume`"
        )
    config = read_config(folder)
    missing = [key for key in NEEDED[config.method] if key not in info]
    if missing:
        raise InputError(folder / RUN, f"has no {', '.join(missing)}", "train again")
    network = make_network(config, info)
    weights = folder / WEIGHTS
    try:
        network.load_state_dict(load_tensors(weights))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            weights, f"does not fit {CONFIG} ({str(error).splitlines()[0]})", "train again"
        ) from None
    network.to(pick_device(device), memory_format=memory_format()).eval()
    return Run(folder, config, info, network)


def read_info(folder: Path) -> dict:
    """run.json of a run folder, checked to be of this library's format."""
    if not (folder / RUN).is_file():
        raise InputError(
            folder, f"is not a run folder (it has no {RUN})", "give the folder of `weakseg fit --out`"
        )
    info = read_json(folder / RUN)
    if info.get("format") != RUN_FORMAT:
        version = info.get("weakseg", "?")
        problem = f"is a run of format {info.get('format')} (weakseg {version}), this reads {RUN_FORMAT}"
        raise InputError(folder, problem, "install that version of weakseg, or train again")
    return info


def read_config(folder: Path) -> Config:
    path, settings = folder / CONFIG, read_json(folder / CONFIG)
    config = with_settings(Config(), settings.items(), path)
    missing = sorted(set(config.to_json()) - set(settings))
    if missing:
        raise InputError(path, f"is of another version, without {', '.join(missing)}", "train again")
    return config


def save_tensors(path: Path, value):
    """torch.save, whole or not at all."""
    # By way of memory: torch hides a full disk behind an error of its own.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with atomic_path(path) as tmp:
        tmp.write_bytes(buffer.getbuffer())


def load_tensors(path: Path):
    """torch.load to the CPU. Raises InputError where the file is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(path, "no such file", "train again") from None
    except Exception as error:  # torch.load raises nearly anything for a damaged file
        problem = f"is damaged ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
        raise InputError(path, problem, "train again") from None


def read_log(path: Path, steps: int) -> list[dict]:
    """The rows of log.csv up to `steps`, those of the last checkpoint; none where there is no log yet."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows if row["step"] <= steps]


def write_log(path: Path, rows: list[dict]):
    with atomic_path(path) as tmp, open(tmp, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
