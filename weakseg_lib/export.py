"""Results in the forms that other tools read: label TIFFs for ImageJ, OME-Zarr, one table of measurements."""

import csv
import hashlib
import warnings
from pathlib import Path

import numpy as np
from skimage.measure import regionprops_table
from tqdm.auto import tqdm

from weakseg_lib.data.annotation import numbered_closely
from weakseg_lib.data.files import atomic_path, check_result_folder, read_json, write_json
from weakseg_lib.data.ome_zarr import is_zarr
from weakseg_lib.data.ome_zarr_write import write_ome_zarr
from weakseg_lib.data.stacks import Sequence, check_labels, read_image, read_stack, write_tiff
from weakseg_lib.errors import InputError
from weakseg_lib.result_files import BOX_COLUMNS, find_results, name_of, read_boxes

FORMS = ("imagej", "ome-zarr", "csv")
TABLE = "measurements.csv"
RECORD = "export.json"  # where export wrote: {"sha256": {file or folder: digest}} of what it made
INTENSITY = ("intensity_mean", "intensity_min", "intensity_max")
NOT_OURS = "move it away, or choose another folder with `--to`"
LARGEST_EXACT = 2**24  # the integers that float32, ImageJ's only type of 32 bits, has all


def measurements(labels, image=None, voxel_size=(1.0, 1.0, 1.0), boxes_table=None) -> dict[str, np.ndarray]:
    """Measure every instance: columns (n,) by name, a row for each id in `labels`, in order of ids.

    labels: (D, H, W) integer, 0 background. image: (D, H, W) or None, then there is no intensity. voxel_size:
    (z, y, x) um. boxes_table: what `read_table` returns, for scores and boxes; without it a box is the smallest
    that holds the instance, and there is no score.

    Columns: id; volume_um3, volume_voxels; centroid_{z,y,x}_um and centroid_{z,y,x} in voxels (0 is the centre
    of the first voxel); intensity_mean, _min, _max; score; z0..x1, half-open, voxels. Measured by
    skimage.measure.regionprops_table. An id that the table lacks has the score NaN and its smallest box.
    """
    wanted = ("label", "num_pixels", "centroid", "bbox") + (() if image is None else INTENSITY)
    ids, numbered = numbered_closely(np.asarray(labels))
    found = regionprops_table(numbered, image, properties=wanted)
    columns = {
        "id": ids,
        "volume_um3": found["num_pixels"] * np.prod(voxel_size),
        "volume_voxels": found["num_pixels"],
    }
    places = {axis: found[f"centroid-{i}"] for i, axis in enumerate("zyx")}
    columns |= {f"centroid_{a}_um": places[a] * size for a, size in zip("zyx", voxel_size, strict=True)}
    columns |= {f"centroid_{axis}": place for axis, place in places.items()}
    columns |= {name: found[name] for name in INTENSITY if name in found}
    boxes = {name: found[f"bbox-{i}"].astype(float) for i, name in enumerate(BOX_COLUMNS[1:])}
    if boxes_table is not None:
        row = {int(id_): i for i, id_ in enumerate(boxes_table["id"])}
        at = [(i, row[int(id_)]) for i, id_ in enumerate(columns["id"]) if int(id_) in row]
        here, there = np.array(at, int).reshape(-1, 2).T
        for name in boxes:
            boxes[name][here] = boxes_table[name][there]
        columns["score"] = np.full(len(columns["id"]), np.nan)
        columns["score"][here] = boxes_table["score"][there]
    return columns | boxes


def read_table(path) -> dict[str, np.ndarray]:
    """Return a result's boxesTTT.csv: columns (n,) by name, id, z0, ..., x1, and score (NaN where it has none).

    Raises InputError as `read_boxes` does.
    """
    ids, boxes = read_boxes(path)
    columns = {"id": ids} | dict(zip(BOX_COLUMNS[1:], boxes.T, strict=True))
    with open(path, newline="", encoding="utf-8-sig") as file:
        scores = [row.get("score") or "nan" for row in csv.DictReader(file)]
    try:
        return columns | {"score": np.array(scores, float)}
    except ValueError as error:
        raise InputError(path, f"has a score that is no number ({error})", "write the table again") from error


def export(result, out, images=None, forms=FORMS, voxel_size=None, progress=True) -> list[Path]:
    """Write what `predict` found in the forms that other tools read; return the files and folders written.

    result: a folder with maskTTT.tif and boxesTTT.csv. images: the sequence folder NAME/01 they belong to (or
    the image, of a result of one): needed for intensities and for an OME-Zarr with the image in it. forms: some
    of "imagej" (labelsTTT.tif), "ome-zarr" (cellsTTT.ome.zarr) and "csv" (measurements.csv, all stacks).
    voxel_size: (z, y, x) um, where the masks do not have it.

    Ids stay what they are. ImageJ's labels have 16 bits where the ids fit, else 32-bit float, which is exact to
    16 777 216. An earlier export is replaced, but nothing that export did not make or that was changed since:
    export.json has the digests. Raises InputError where such a thing is in the way, for a result without masks,
    images or masks that do not belong together, ids that ImageJ cannot hold, a missing package, and where a file
    cannot be written.
    """
    result, out = Path(result), Path(out)
    check_result_folder(out)
    stacks = stacks_of_result(result)
    if images is not None and len(stacks) > 1 and not is_sequence(images):
        raise InputError(
            images, f"is one image, the result is of {len(stacks)}", "give their folder, like NAME/01"
        )
    targets = {frame: _targets(out, files) for frame, files in stacks.items()}
    wanted = [target[form] for target in targets.values() for form in forms]
    record = _record(out)
    _refuse_to_replace(sorted(set(wanted)), record)
    written, rows = [], []
    try:
        for frame, files in tqdm(stacks.items(), "exporting", unit="stack", disable=not progress):
            labels, image, size, table = read_result(frame, files, images, voxel_size)
            if "imagej" in forms:
                written.append(targets[frame]["imagej"])
                write_tiff(written[-1], _for_imagej(labels, files.labels), size)
            if "ome-zarr" in forms:
                written.append(targets[frame]["ome-zarr"])
                write_ome_zarr(written[-1], image, labels, size, _properties(labels, table))
            if "csv" in forms:
                rows.append((frame, measurements(labels, image, size, table)))
        if "csv" in forms:
            written.append(out / TABLE)
            _write_measurements(written[-1], rows)
    finally:  # also of an export that was stopped: what is there already may be replaced by the next
        made = {path.name: _digest(path) for path in written if path.exists()}
        if made:
            write_json(out / RECORD, {"sha256": record | made})
    return written


def _targets(out, files) -> dict[str, Path]:
    """Where each form of one stack goes; NAME is 000, or _NAME of an image outside a sequence."""
    name = "" if files.labels is None else name_of(files.labels).removeprefix("mask")
    return {
        "imagej": out / f"labels{name}.tif",
        "ome-zarr": out / f"cells{name}.ome.zarr",
        "csv": out / TABLE,
    }


def _record(out) -> dict[str, str]:
    """What earlier exports made in a folder, {file or folder: digest}."""
    path = out / RECORD
    record = read_json(path).get("sha256") if path.exists() else {}
    if not isinstance(record, dict):
        raise InputError(path, "is no record of an export", NOT_OURS)
    return record


def _refuse_to_replace(paths, record):
    """Raise InputError where one of `paths` is there and is not as export left it."""
    for path in paths:
        if path.exists() and record.get(path.name) != _digest(path):
            problem = "is there already, and export did not make it or it was changed since"
            raise InputError(path, problem, NOT_OURS)


def _digest(path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    names = [f"{file.relative_to(path).as_posix()} {_digest(file)}" for file in files]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def is_sequence(images) -> bool:
    """Return whether the path of images is a folder of frames, and not one image."""
    return Path(images).is_dir() and not is_zarr(images)


def stacks_of_result(result) -> dict:
    """Return the stacks of a result of one sequence, {frame number or name: StackFiles}, in order.

    Raises InputError where there are none, and for a folder that holds the results of several sequences.
    """
    groups = find_results(result)
    if len(groups) > 1:
        names = ", ".join(f"{group}_RES" for group in groups)
        raise InputError(result, f"holds several results ({names})", "give one of them at a time")
    (stacks,) = groups.values()
    return {frame: stacks[frame] for frame in sorted(stacks, key=lambda t: (isinstance(t, str), t))}


def read_result(frame, files, images=None, voxel_size=None):
    """Return one stack of a result: labels (D, H, W) int32, image (D, H, W) or None, voxel size (z, y, x) um, table.

    frame, files: as `stacks_of_result` has them. images, voxel_size: as in `export`. table: see `read_table`, or
    None. Raises InputError as `export` does; warns of boxes that have no mask.
    """
    if files.labels is None:
        fix = "export needs masks: train with some, and predict again"
        raise InputError(files.boxes, "has no masks beside it", fix)
    labels, own_size = read_image(files.labels)
    labels, size, image = check_labels(labels, files.labels), voxel_size or own_size, None
    if images is not None:
        one = is_sequence(images) and isinstance(frame, int)
        stack = Sequence(images).read(frame, voxel_size=size) if one else read_stack(images, size)
        image, size = stack.image, stack.voxel_size
        if image.shape != labels.shape:
            problem = f"has shape {image.shape}, the masks {files.labels} have {labels.shape}"
            raise InputError(stack.path, problem, "give the images that were segmented")
    if size is None:
        raise InputError(files.labels, "has no voxel size", "give it with `--voxel-size Z Y X`")
    table = None if files.boxes is None else read_table(files.boxes)
    if table is not None and (lost := np.setdiff1d(table["id"], labels)).size:
        problem = f"{lost.size} of its boxes have no mask and are left out, {lost[0]} for one"
        warnings.warn(f"{files.boxes}: {problem}", stacklevel=3)
    return labels, image, size, table


def _for_imagej(labels, path):
    """Labels in a type that ImageJ shows: 16 bits where the ids fit, else 32-bit float."""
    if labels.max() > LARGEST_EXACT:
        fix = "number them anew, or choose `--as ome-zarr`"
        raise InputError(path, f"has ids to {labels.max()}, ImageJ holds none above {LARGEST_EXACT}", fix)
    return labels if labels.max() <= np.iinfo(np.uint16).max else labels.astype(np.float32)


def _properties(labels, table):
    scores = {} if table is None else dict(zip(table["id"].tolist(), table["score"].tolist(), strict=True))
    for id_ in np.unique(labels[labels > 0]).tolist():
        known = np.isfinite(scores.get(id_, np.nan))  # JSON has no NaN
        yield {"label-value": id_} | ({"score": scores[id_]} if known else {})


def _write_measurements(path, rows):
    """One line an instance of every frame; an empty cell where a value is not known."""
    names = list(dict.fromkeys(name for _, columns in rows for name in columns))
    with atomic_path(path) as tmp, open(tmp, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", *names])
        for frame, columns in rows:
            for i in range(len(columns["id"])):
                values = (columns[name][i] if name in columns else np.nan for name in names)
                writer.writerow([frame, *map(_written, values)])


def _written(value):
    if isinstance(value, np.integer):
        return str(value)  # all digits of an id
    return "" if np.isnan(value) else f"{value:.9g}"
