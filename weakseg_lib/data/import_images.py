"""Bringing images of any readable form into a sequence folder: NAME/01/t000.tif, ..., and NAME/dataset.json."""

import re
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from weakseg_lib.data.files import IMAGE_NAME, atomic_paths, read_json, write_json
from weakseg_lib.data.ome_zarr import is_zarr
from weakseg_lib.data.stacks import Sequence, frame_name, read_stack, write_tiff
from weakseg_lib.data.tiff import tiff_parts
from weakseg_lib.errors import InputError

READABLE = (".tif", ".tiff", ".nd2", ".czi", ".zarr")


def import_images(
    files,
    out,
    channel=None,
    axes=None,
    frame=None,
    voxel_size=None,
    append=False,
    tell=tqdm.write,
    progress=True,
) -> Sequence:
    """Write images as the frames of one sequence, all or none of them; return the `Sequence`.

    files: images, or folders of images, which are taken in the order of their names with 2 before 10; or one.
    The files of a multi-file OME-TIFF are one image. out: the sequence folder, NAME/01. channel, axes, frame,
    voxel_size: as in `read_stack`, for every file. append: number the new frames after those that are there. tell:
    called with a line on each image, what was understood of it (a function of a str, or None). NAME/dataset.json
    gets the voxel size, where all images have the same and it has none, and under "imported" where each frame came
    from.

    Raises InputError as `read_stack` does, where `out` has frames and `append` is False, where it is the place
    of labels or annotation, and for a folder without images. An earlier frame is never replaced.
    """
    out, sources = Path(out), _expand(files)
    first, digits = _first_number(out, append)
    sources = _whole(sources, tell)
    numbers = [frame_name(t, digits) for t in range(first, first + len(sources))]
    targets = [out / f"t{number}.tif" for number in numbers]
    dataset = out.parent / "dataset.json"
    known = read_json(dataset) if dataset.is_file() else {}
    origin, sizes = {}, set()
    bar = tqdm(sources, "importing", unit="image", disable=not progress or len(sources) == 1)
    with atomic_paths(*targets, dataset) as (*new, new_dataset):
        for source, target, tmp in zip(bar, targets, new, strict=True):
            stack = read_stack(source, voxel_size, frame=frame, channel=channel, axes=axes)
            write_tiff(tmp, stack.image, stack.voxel_size)
            sizes.add(stack.voxel_size)
            chosen = {"file": str(source.resolve()), "channel": channel, "axes": axes, "frame": frame}
            chosen = {name: value for name, value in chosen.items() if value is not None}
            origin[f"{out.name}/{target.name}"] = chosen
            if tell:
                tell(f"{target.name} from {source.name}: {describe(stack)}")
        if len(sizes) == 1:
            known = {"voxel_size_um": list(*sizes)} | known
        write_json(new_dataset, known | {"imported": known.get("imported", {}) | origin})
    return Sequence(out)


def describe(stack) -> str:
    """Return what is known of a `Stack` in one line: shape, voxel size, type and the range of its values."""
    shape, size = (" x ".join(f"{n:g}" for n in numbers) for numbers in (stack.image.shape, stack.voxel_size))
    low, high = np.min(stack.image), np.max(stack.image)
    return f"{shape} voxels (Z x Y x X) of {size} um, {stack.image.dtype}, values {low:g} to {high:g}"


def _expand(files):
    """The images among `files` and in the folders among them (list of Path)."""
    sources = []
    for path in map(Path, [files] if isinstance(files, str | Path) else files):
        if not path.is_dir() or is_zarr(path):
            sources.append(path)
            continue
        inside = [file for file in path.iterdir() if file.suffix.lower() in READABLE and file.name[0] != "."]
        if not inside:
            raise InputError(path, "is a folder without images", f"give images: {', '.join(READABLE)}")
        sources += sorted(inside, key=_natural)
    return sources


def _whole(sources, tell):
    """The images without those files that are read with another, as parts of a multi-file OME-TIFF (list of Path)."""
    kept, first, left_out = [], {}, {}  # first: {part: file that it is read with}
    for source in sources:
        own = source.resolve()
        if own in first:
            left_out.setdefault(first[own], []).append(source.name)
            continue
        kept.append(source)
        if source.is_file() and source.suffix.lower() in (".tif", ".tiff"):
            first |= dict.fromkeys(tiff_parts(source) - {own}, source.name)
    for name, others in left_out.items():
        if tell:
            tell(f"{name} is one image in {1 + len(others)} files, to {others[-1]}")
    return kept


def _natural(file):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _first_number(out, append):
    """The number of the first new frame, and how many digits numbers have."""
    if out.name.endswith(("_GT", "_WEAK", "_RES")):
        problem = "is the place of labels, annotation or results, not of images"
        raise InputError(out, problem, "give a sequence folder like NAME/01")
    if not any(IMAGE_NAME.fullmatch(file.name) for file in out.glob("t*.tif")):
        return 0, 3
    there = Sequence(out)
    if not append:
        problem = f"holds images already ({len(there.frames)}), and none is replaced"
        raise InputError(out, problem, "add to them with `--append`, or choose another folder")
    return there.frames[-1] + 1, there.digits
