"""Bringing images of any readable form into a sequence folder: NAME/01/t000.tif, ..., and NAME/dataset.json."""

import re
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from weakseg_lib.data.axes import VOXEL_SIZE, by_import
from weakseg_lib.data.files import IMAGE_NAME, atomic_paths, read_json, write_json
from weakseg_lib.data.ome_zarr import is_zarr
from weakseg_lib.data.plausible import differ, in_words, warn_once
from weakseg_lib.data.slices import natural
from weakseg_lib.data.stacks import Sequence, dataset_voxel_size, frame_name, read_stack, write_tiff
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
    slices=False,
) -> Sequence:
    """Write images as the frames of one sequence, all or none of them; return the `Sequence`.

    files: images, or folders of images, which are taken in the order of their names with 2 before 10; or one.
    The files of a multi-file OME-TIFF are one image. out: the sequence folder, NAME/01. channel, axes, frame,
    voxel_size: as in `read_stack`, for every file; where neither a file nor a dataset.json beside it says one, that
    of NAME/dataset.json is taken. append: number the new frames after those that are there. tell: called with a line
    on each image, what was understood of it (a function of a str, or None). slices: `files` are folders, and each is
    one stack of 2D images. NAME/dataset.json gets the voxel size, where all images have the same and it has none,
    and under "imported" where each frame came from.

    Raises InputError as `read_stack` does, where `out` has frames and `append` is False, where it is the place
    of labels or annotation or no NAME/01, and for a folder without images. Warns where NAME/dataset.json has another
    voxel size. An earlier frame is never replaced, and after an error no new folder is left.
    """
    out, sources = Path(out), _expand(files, slices)
    first, digits = _first_number(out, append)
    sources = _whole(sources, tell)
    numbers = [frame_name(t, digits) for t in range(first, first + len(sources))]
    targets = [out / f"t{number}.tif" for number in numbers]
    dataset = out.parent / "dataset.json"
    known = read_json(dataset) if dataset.is_file() else {}
    said = dataset_voxel_size(dataset)
    origin, understood, sizes = {}, [], set()
    bar = tqdm(sources, "importing", unit="image", disable=not progress or len(sources) == 1)
    with _no_empty_folders(out), atomic_paths(*targets, dataset) as (*new, new_dataset):
        for source, target, tmp in zip(bar, targets, new, strict=True):
            stack = read_stack(source, voxel_size, None, frame, channel, axes, dataset)
            write_tiff(tmp, stack.image, stack.voxel_size)
            sizes.add(stack.voxel_size)
            chosen = {"file": str(source.resolve()), "channel": channel, "axes": axes, "frame": frame}
            chosen = {name: value for name, value in chosen.items() if value is not None}
            origin[f"{out.name}/{target.name}"] = chosen
            understood.append(f"{target.name} from {source.name}: {describe(stack)}")
        if len(sizes) == 1:
            known = {"voxel_size_um": list(*sizes)} | known
        write_json(new_dataset, known | {"imported": known.get("imported", {}) | origin})
    for line in understood if tell else ():
        tell(line)
    for size in sorted(sizes):
        if said and differ(size, said):
            problem = f"has new images of {in_words(size)}, and {dataset} says {in_words(said)}"
            warn_once(f"{out}: {problem}; that of an image goes first, correct the one that is wrong")
    return Sequence(out)


def describe(stack) -> str:
    """Return what is known of a `Stack` in one line: shape, voxel size, type and the range of its values."""
    shape, size = (" x ".join(f"{n:g}" for n in numbers) for numbers in (stack.image.shape, stack.voxel_size))
    low, high = np.min(stack.image), np.max(stack.image)
    return f"{shape} voxels (Z x Y x X) of {size} um, {stack.image.dtype}, values {low:g} to {high:g}"


@contextmanager
def _no_empty_folders(out):
    """Remove the folders that were made for `out` where the block fails."""
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _expand(files, slices):
    """The images among `files` and in the folders among them, or the folders of slices (list of Path)."""
    paths = [Path(path) for path in ([files] if isinstance(files, str | Path) else files)]
    if slices:
        for path in paths:
            if not path.is_dir() or is_zarr(path):
                raise InputError(path, "is no folder of slices", "give a folder, or leave `--slices` out")
        return paths
    sources = []
    for path in paths:
        if not path.is_dir() or is_zarr(path):
            sources.append(path)
            continue
        visible = [file for file in path.iterdir() if file.name[0] != "."]
        inside = [file for file in visible if file.suffix.lower() in READABLE]
        pngs = [file for file in visible if file.suffix.lower() == ".png"]
        if pngs and not inside:
            fix = f"if they are the slices of one stack: {by_import(f'--slices {VOXEL_SIZE}', 'FOLDER')}"
            raise InputError(path, f"is a folder of 2D images ({len(pngs)} PNG)", fix)
        if not inside:
            raise InputError(path, "is a folder without images", f"give images: {', '.join(READABLE)}")
        sources += sorted(inside, key=natural)
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


def _first_number(out, append):
    """The number of the first new frame, and how many digits numbers have."""
    if out.name.endswith(("_GT", "_WEAK", "_RES")):
        problem = "is the place of labels, annotation or results, not of images"
        raise InputError(out, problem, "give a sequence folder like NAME/01")
    if not any(IMAGE_NAME.fullmatch(file.name) for file in out.glob("t*.tif")):
        if not re.fullmatch(r"\d\d", out.resolve().name):
            raise InputError(out, "is no sequence folder like NAME/01", f"give {out / '01'}")
        return 0, 3
    there = Sequence(out)
    if not append:
        problem = f"holds images already ({len(there.frames)}), and none is replaced"
        raise InputError(out, problem, "add to them with `--append`, or choose another folder")
    return there.frames[-1] + 1, there.digits
