"""Weakly annotated 3D instance segmentation: a box around every cell, a mask on a few, every cell's mask out.

Zhao et al., "Deep Learning Based Instance Segmentation in 3D Biomedical Images Using Weak Annotation", MICCAI 2018.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "InputError": "errors",
    "Sequence": "data.stacks",
    "Stack": "data.stacks",
    "read_stack": "data.stacks",
    "read_labels": "data.stacks",
    "write_tiff": "data.stacks",
    "import_images": "data.import_images",
    "WeakAnnotation": "data.annotation",
    "annotate": "data.annotation",
    "annotate_sequence": "data.annotation",
    "boxes_of_labels": "data.annotation",
    "read_weak": "data.annotation",
    "write_weak": "data.annotation",
    "simulate_hl60": "data.simulate",
    "simulate_microglia": "data.simulate",
    "simulate_celegans": "data.simulate",
    "Config": "config",
    "load_config": "config",
    "box_iou": "ops.boxes",
    "encode": "ops.boxes",
    "decode": "ops.boxes",
    "nms": "ops.boxes",
    "roi_align_3d": "ops.roi_align",
    "roi_align_3d_multi": "ops.roi_align",
    "anchor_grid": "model.anchors",
    "anchor_sizes_from_boxes": "model.anchors",
    "match_iou": "model.anchors",
    "match_atss": "model.anchors",
    "VoxRes": "model.voxres",
    "Backbone": "model.voxres",
    "Detector": "model.detector",
    "MaskHead": "model.masks",
    "mask_loss": "model.masks",
    "Network": "model.network",
    "fit": "train",
    "Run": "runs",
    "load_run": "runs",
    "propose_boxes": "propose",
    "propose_sequence": "propose",
    "rank_for_masks": "rank",
    "predict": "prediction",
    "predict_stack": "prediction",
    "evaluate": "evaluation",
    "format_table": "evaluation",
    "Annotator": "annotator.widget",
    "measurements": "export",
    "napari_layers": "napari_view",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    # Imported on first use: `weakseg --help` should not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'weakseg_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"weakseg_lib.{_HOME[name]}"), name)


def __dir__():
    return __all__
