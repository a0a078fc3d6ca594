"""Tracings of real cells (SWC files, as NeuroMorpho.Org has them) drawn as simulated stacks.

An SWC file is a cell: a row a point, `id type x y z radius parent`, micrometres, parent -1 at the root (Cannon
et al., J Neurosci Methods 84:49 (1998)). A field of view is a zip or a folder of cells that share a frame of
reference, so that they keep their true arrangement; or a single file. The cells are real, the image is simulated.
"""

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from weakseg_lib.data.simulate.microglia import MicrogliaSettings, microglia_settings
from weakseg_lib.data.simulate.trees import Tree
from weakseg_lib.errors import InputError

SOMA_UM = 4.0  # radius, where a tracing has only a point for the soma
LEAST_SOMA_UM = 2.0  # a root thinner than this is such a point
SOMA_TYPE = 1
COLUMNS = "id type x y z radius parent"


def swc_settings(size="laptop") -> MicrogliaSettings:
    """Settings for real microglia, which are 50-60 um across: a stack of 43 x 208 x 208 um, a brighter stain.

    "laptop": 32x160x160 voxels of (1.35, 1.3, 1.3) um; "paper": 64x512x512 of (0.675, 0.406, 0.406) um.
    """
    settings = microglia_settings(size)
    voxel = tuple(um / n for um, n in zip((43.2, 208.0, 208.0), settings.shape, strict=True))
    return replace(settings, voxel_size=voxel, photons=2400.0)


def read_swc(path, text=None) -> Tree:
    """The cell in an SWC file, points (z, y, x) in um.

    text: its content, where it isn't to be read from `path` (a file in a zip). A soma that is only a point
    gets a radius of 4 um; one of NeuroMorpho.Org's three points is the ball that they stand for.
    Raises InputError, with file and line, for rows that aren't seven numbers, radii below 0, ids used twice,
    parents that aren't there, and cells with no root, two roots or a loop.
    """
    if text is None:
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})", "check the name") from error
    rows, lines = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        values = line.split("#")[0].split()
        if values:
            rows.append(_row(values, f"{path} line {number}"))
            lines.append(number)
    if not rows:
        raise InputError(path, "holds no points", f"give an SWC file: {COLUMNS} in each row")
    table = np.array(rows)
    ids = table[:, 0].astype(int).tolist()
    index = {i: k for k, i in enumerate(ids)}
    if len(index) < len(ids):
        k = next(k for k, i in enumerate(ids) if index[i] != k)
        raise InputError(f"{path} line {lines[index[ids[k]]]}", f"id {ids[k]} is used twice", _REPAIR)
    above = table[:, 6].astype(int).tolist()
    for k, parent in enumerate(above):
        if parent != -1 and parent not in index:
            raise InputError(f"{path} line {lines[k]}", f"parent {parent} isn't in the file", _REPAIR)
    roots = [k for k, parent in enumerate(above) if parent == -1]
    if len(roots) > 1:
        problem = "a second root (parent -1): the cell is in pieces, or these are two cells"
        raise InputError(f"{path} line {lines[roots[1]]}", problem, "give one whole cell a file")
    parents = np.array([index.get(parent, k) for k, parent in enumerate(above)])
    end = parents
    for _ in range(len(ids).bit_length()):
        end = end[end]  # twice as far up each time
    if not roots or (end != roots[0]).any():
        k = int((end != roots[0]).argmax()) if roots else 0
        raise InputError(f"{path} line {lines[k]}", "its parents go in a circle", _REPAIR)
    return _tree(table, parents, roots[0])


_REPAIR = "export the tracing again, or repair the row"


def _row(values, where) -> list[float]:
    try:
        row = [float(value) for value in values]
    except ValueError:
        row = []
    if len(row) != 7 or not np.isfinite(row).all() or any(row[k] % 1 for k in (0, 1, 6)):
        raise InputError(where, f"not the seven numbers {COLUMNS}", _REPAIR)
    if row[5] < 0:
        raise InputError(where, f"radius {row[5]:g} is below 0", _REPAIR)
    return row


def _tree(table, parents, root) -> Tree:
    """The cell of checked rows (n, 7), its root first and its soma a ball."""
    points, radii = table[:, 4:1:-1].copy(), table[:, 5].copy()
    soma = np.flatnonzero(table[:, 1] == SOMA_TYPE)
    if len(soma) == 3 and (parents[soma] == root).all():
        points[soma] = points[root]  # the other two are on the surface, up and down
    if radii[soma].max(initial=radii[root]) < LEAST_SOMA_UM:
        radii[root] = SOMA_UM
    order = np.argsort(np.arange(len(points)) != root, kind="stable")
    place = np.argsort(order)
    return Tree(points[order], radii[order], place[parents[order]])


def read_field(path) -> list[Tree]:
    """The cells of a field of view, sorted by file name: a zip or folder of SWC files, or one SWC file.

    Raises InputError as `read_swc` does, for a path without SWC files, for a damaged zip, and for cells whose
    somas lie in each other: they don't share a frame of reference.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "no such file or folder", "check the name")
    try:
        trees = {name: read_swc(name, text) for name, text in _texts(path)}
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(path, f"cannot be read ({error})", "fetch it again") from error
    if not trees:
        raise InputError(path, "holds no SWC files", "give a .swc file, or a zip or folder of them")
    for (a, one), (b, two) in combinations(trees.items(), 2):
        if np.linalg.norm(one.points[0] - two.points[0]) < max(one.radii[0], two.radii[0]):
            problem = f"{Path(a).name} and {Path(b).name} have their somas in the same place"
            raise InputError(path, problem, "give cells that aren't of one field of view one by one")
    return list(trees.values())


def _texts(path) -> Iterator[tuple[str, str]]:
    """(name for messages, content) of the SWC files at a path."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                # A Mac leaves a second, hidden file beside each.
                if name.lower().endswith(".swc") and not name.startswith("__MACOSX/"):
                    yield f"{path}/{name}", archive.read(name).decode("utf-8", "replace")
        return
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.suffix.lower() == ".swc" and not file.name.startswith("."):
            yield str(file), file.read_text(encoding="utf-8", errors="replace")


def field_windows(trees, settings) -> list[list[Tree]]:
    """Cut a field into stacks side by side that share no cell: for each, its cells, moved to its corner.

    As few windows as hold all somas sideways, and one in depth, around their middle; those without a soma
    are left out. A cell is in the window that has its soma, and is cut where it leaves it.
    """
    size = settings.extent_um
    somas = np.array([tree.points[0] for tree in trees])
    low, high = somas.min(0), somas.max(0)
    count = ((high - low) // size).astype(int) * (0, 1, 1) + 1
    corner = (low + high) / 2 - count * size / 2
    windows = {}
    for tree, at in zip(trees, np.floor((somas - corner) / size).astype(int), strict=True):
        if ((at >= 0) & (at < count)).all():
            moved = replace(tree, points=tree.points - (corner + at * size))
            windows.setdefault(tuple(at.tolist()), []).append(moved)
    return [windows[at] for at in sorted(windows)]


def swc_windows(paths, settings, stacks=None) -> dict[int, list[list[Tree]]]:
    """Training and test windows of tracings: {1: ..., 2: ...}, each a list of windows (`field_windows`).

    paths: fields of view (`read_field`). The last is the test, the others are for training; a single one is
    shared out by its windows. stacks: how many each must have at least (default: one).
    Raises InputError as `read_field` does, and where there are too few.
    """
    fields = [field_windows(read_field(path), settings) for path in paths]
    if len(fields) == 1:
        half = (len(fields[0]) + 1) // 2
        fields = [fields[0][:half], fields[0][half:]]
    train, test = [window for found in fields[:-1] for window in found], fields[-1]
    if min(len(train), len(test)) < (1 if stacks is None else stacks):
        held = f"enough for {len(train)} stacks for training and {len(test)} for the test"
        fix = "give more fields of view, or fewer --stacks"
        raise InputError("--swc " + " ".join(map(str, paths)), held, fix)
    return {1: train, 2: test}
