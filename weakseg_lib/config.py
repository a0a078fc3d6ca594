"""Every choice of the method in one place: a dataclass, two presets, and reading of `--config` and `--set`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from weakseg_lib.errors import InputError


@dataclass(frozen=True)
class Config:
    """Settings of one training run. Sizes are in *working voxels*: voxels after resampling to `cell_size`."""

    method: str = (
        "weak"  # boxes and some masks, the paper's; "voxresnet": its comparison, learns from full labels
    )
    # data
    cell_size: float = 16.0  # median box side after resampling, in working voxels; 0 = never resample
    smallest: float = (
        0.4  # boxes with sides below this share of the median are not taught: mostly slips of the mouse
    )
    smooth: float = 0.7  # sigma of the Gaussian against noise, in working voxels, on axes that are not shrunk
    crop: tuple[int, int, int] = (40, 88, 88)
    batch: int = 2
    # backbone: feature maps at strides 1, 2, 4, ...; one number of channels each (reconstructed: Fig. 2 is missing)
    channels: tuple[int, ...] = (16, 32, 64, 64)
    blocks: int = 2  # VoxRes blocks a stride
    top_down: bool = True  # add coarser maps to finer ones, so that the head sees wide and sharp
    norm: str = "batch"  # or "group", which sees a tile as a whole: seams between tiles
    # detector
    classes: int = 2  # c of the paper: background and cell
    anchors: int = 3
    head_stride: int = 2
    loss: str = "default"  # "paper": Eq. 1 on sampled anchors (reconstructed), IoU matching, binary targets
    box_weight: float = 2.0  # lambda of Eq. 1: weight of the regression loss
    # masks
    roi_strides: tuple[int, int] = (1, 2)  # the "two different layers" of section 2.2 (reconstructed)
    roi_size: int = 14  # s of the paper; one x2 up-convolution makes masks of 2 s (reconstructed)
    roi_margin: float = (
        0.2  # the mask's region is longer than the box by this share: a tight box must not cut a cell
    )
    mask_channels: int = 32
    mask_skip: bool = False  # the mask head also looks at the finest map at the masks' own resolution
    rois: int = 8  # regions a crop for the mask head
    soft_targets: bool = True  # mask targets are the covered share of each mask voxel, not 0 or 1
    dice: float = (
        0.0  # weight of a Dice term beside the paper's cross-entropy, for cells that fill little of their box
    )
    box_supervision: float = (
        0.0  # weight of the projection loss on instances without a mask; 0 = the paper's rule
    )
    # VoxResNet
    border_um: float = 0.5  # thickness of the boundary class, inside the instance (not given in the paper)
    branch_channels: int = 8  # of each of the enlarged maps (reconstructed)
    # optimisation
    steps: int = 1000  # 0 = no limit
    minutes: float = 0.0  # 0 = no limit; the schedule ends with the steps or the minutes, whichever is first
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    clip: float = 5.0  # largest norm of the gradient
    average: float = 0.995  # exponential moving average of the weights; 0 = none
    precision: str = "auto"  # "float32", "bfloat16"; auto = bfloat16 where the device computes it natively
    # augmentation (flips are always on, quarter turns where a crop is as high as wide)
    zoom: float = 0.15  # random scale, +- this share
    contrast: float = 0.3  # random gain and gamma, +- this share in the log
    noise: float = 0.06  # largest standard deviation of added noise, as a share of the bright level
    blur: float = 0.0  # largest sigma of added blur, in voxels
    # prediction
    tile: tuple[int, int, int] = (32, 224, 224)  # core of a tile, without its overlap with the others
    views: int = 4  # of 8 mirror images that are looked at and averaged; time grows with them
    candidates: int = 10000  # most boxes of a tile that go into non-maximum suppression

    def replace(self, **changes) -> "Config":
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict:
        return dataclasses.asdict(self)


LAPTOP = Config()
# The paper's crops and batch (section 3) on the full-resolution stack, its widths from VoxResNet (Chen et al. 2016).
PAPER = Config(
    cell_size=0.0,
    crop=(64, 64, 128),
    batch=4,
    channels=(32, 64, 64, 64),
    head_stride=4,
    roi_strides=(2, 4),
    steps=20000,
    mask_channels=64,
)
# What `loss=paper` also brings, unless set otherwise: the other departures from the paper's method.
PAPER_METHOD = {
    "soft_targets": False,
    "roi_margin": 0.0,
    "dice": 0.0,
    "box_supervision": 0.0,
    "box_weight": 1.0,
    "smallest": 0.0,
    "smooth": 0.0,
    "views": 1,
    "average": 0.0,
}
PRESETS = {"laptop": LAPTOP, "paper": PAPER}


def load_config(preset: str = "laptop", file=None, settings=()) -> Config:
    """The preset, changed by a JSON `file` and by `key=value` strings, in this order.

    Raises InputError for an unknown preset or key and for a value of the wrong type.
    """
    if preset not in PRESETS:
        raise InputError("--preset", f"unknown preset {preset!r}", f"choose one of {', '.join(PRESETS)}")
    config = PRESETS[preset]
    if file is not None:
        try:
            changes = json.loads(Path(file).read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                file, f"not a readable JSON file ({error})", "give a JSON object of settings"
            ) from None
        if not isinstance(changes, dict):
            raise InputError(file, "not a JSON object", 'write it as {"key": value}')
        config = with_settings(config, changes.items(), file)
    pairs = []
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign:
            raise InputError(f"--set {text}", "no '=' in it", "write --set key=value")
        pairs.append((key.strip(), value.strip()))
    return with_settings(config, pairs, "--set")


def with_settings(config: Config, pairs, where) -> Config:
    """`config` with (key, value) pairs applied; text values are parsed to the type of the field."""
    fields = {f.name: f for f in dataclasses.fields(Config)}
    changes = {}
    pairs = list(pairs)
    if ("loss", "paper") in pairs:
        changes |= {key: value for key, value in PAPER_METHOD.items() if key not in dict(pairs)}
    for key, value in pairs:
        if key not in fields:
            raise InputError(where, f"unknown setting {key!r}", f"known are {', '.join(fields)}")
        changes[key] = _parse(key, value, getattr(config, key), where)
    config = config.replace(**changes)
    for key, fits in _LIMITS.items():
        if not fits(config, getattr(config, key)):
            raise InputError(
                where, f"{key}={getattr(config, key)} cannot work", f"see {key} in weakseg_lib/config.py"
            )
    return config


def _strides(config) -> list[int]:
    return [2**i for i in range(len(config.channels))]


# What a value must satisfy beyond its type, so that a slip is told at once and not by a traceback an hour later.
_LIMITS = {
    "method": lambda c, v: v in ("weak", "voxresnet"),
    "border_um": lambda c, v: v >= 0,
    "branch_channels": lambda c, v: v >= 1,
    "cell_size": lambda c, v: v >= 0,
    "smooth": lambda c, v: v >= 0,
    "smallest": lambda c, v: 0 <= v < 1,
    "channels": lambda c, v: len(v) >= 2 and min(v) >= 1,
    "crop": lambda c, v: len(v) == 3 and min(v) > 0 and not any(n % _strides(c)[-1] for n in v),
    "batch": lambda c, v: v >= 1,
    "blocks": lambda c, v: v >= 0,
    "norm": lambda c, v: v in ("batch", "group"),
    "classes": lambda c, v: v >= 2,
    "anchors": lambda c, v: v >= 1,
    "head_stride": lambda c, v: v in _strides(c),
    "loss": lambda c, v: v in ("default", "paper"),
    "box_weight": lambda c, v: v >= 0,
    "roi_strides": lambda c, v: len(v) >= 1 and all(s in _strides(c) for s in v),
    "roi_size": lambda c, v: v >= 1,
    "roi_margin": lambda c, v: v >= 0,
    "mask_channels": lambda c, v: v >= 2,
    "rois": lambda c, v: v >= 1,
    "dice": lambda c, v: v >= 0,
    "box_supervision": lambda c, v: v >= 0,
    "steps": lambda c, v: v >= 0,
    "minutes": lambda c, v: v >= 0,
    "learning_rate": lambda c, v: v > 0,
    "weight_decay": lambda c, v: v >= 0,
    "clip": lambda c, v: v > 0,
    "average": lambda c, v: 0 <= v < 1,
    "precision": lambda c, v: v in ("auto", "float32", "bfloat16"),
    "zoom": lambda c, v: 0 <= v < 1,
    "contrast": lambda c, v: v >= 0,
    "noise": lambda c, v: v >= 0,
    "blur": lambda c, v: v >= 0,
    "tile": lambda c, v: len(v) == 3 and min(v) >= 1,
    "views": lambda c, v: 1 <= v <= 8,
    "candidates": lambda c, v: v >= 1,
}


def _parse(key, value, old, where):
    """`value`, text or from JSON, as the type of the default `old`."""
    try:
        if isinstance(value, str) and not isinstance(old, str):
            value = json.loads(f"[{value.strip('()[]')}]" if isinstance(old, tuple) else value.lower())
        if isinstance(old, tuple):
            return tuple(_whole(v) for v in value)
        if isinstance(old, bool) or isinstance(value, bool):
            if type(value) is not type(old):
                raise ValueError
            return value
        return _whole(value) if isinstance(old, int) else type(old)(value)
    except (TypeError, ValueError):
        raise InputError(
            where, f"{key}={value} is not of the type of its default {old!r}", "mend the value"
        ) from None


def _whole(value) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError
    return int(value)
