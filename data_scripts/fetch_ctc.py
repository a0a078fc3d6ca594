"""Get a set of the Cell Tracking Challenge and lay it out so that weakseg reads it.

    python data_scripts/fetch_ctc.py Fluo-N3DH-SIM+            all of it, 3 GB, into data/Fluo-N3DH-SIM+
    python data_scripts/fetch_ctc.py Fluo-N3DH-SIM+ --needed   only the frames that the experiments use
    python data_scripts/fetch_ctc.py Fluo-N3DH-SIM+ --frames 01:0,10-70 02:5
    python data_scripts/fetch_ctc.py Fluo-N3DH-CE --from Fluo-N3DH-CE.zip

Files keep the names that the challenge gave them: 01/t000.tif, 01_GT/SEG/man_seg000.tif, and so on; a
dataset.json with the voxel size is added. Stopped at any point, it goes on from there when run again. The whole
archive stays in data/archives; remove it when you have what you want.
"""

import argparse
import io
import re
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from download import SPARE, check_free_space, download, hash_of
from remote_file import NoRanges, RemoteFile
from tqdm import tqdm
from unzip import extract, open_zip

from weakseg_lib.data.files import write_json
from weakseg_lib.data.stacks import Sequence, frame_name
from weakseg_lib.errors import InputError

SERVER = "https://data.celltrackingchallenge.net/training-datasets"
TERMS = """\
{name}: {about}
From the Cell Tracking Challenge, on its terms: https://celltrackingchallenge.net/datasets. In short: cite and
acknowledge it in what you publish; for public use other than the challenge itself, ask the providers of the
data, whom it names there, for permission; for commercial use, ask them and the organisers; do not pass the data on.
Please cite:
  {cite}"""
CITE = [
    "Ulman et al., Nat Methods 14:1141 (2017), doi 10.1038/nmeth.4473",
    "Cell Tracking Challenge, https://celltrackingchallenge.net",
]


@dataclass(frozen=True)
class Dataset:
    """What is known of a set before it is here."""

    about: str
    voxel_size: tuple[float, float, float]  # um, (z, y, x)
    sha256: str  # of the zip archive
    size: int | None = None  # of the zip archive in bytes, where known
    needed: dict | None = None  # frames that the experiments use: sequence to set of int; None for all


DATASETS = {
    "Fluo-N3DH-SIM+": Dataset(
        "simulated nuclei of HL60 cells, with exact labels",
        (0.2, 0.125, 0.125),
        "f874a297a97ba2b144f2cbe9f06f66f57996251e89b17f7d5ef96a5d99d0fd11",
        # Zhao et al. 2018: 13 stacks for training, 100 for the test.
        needed={
            "01": {0, *range(10, 71, 10), *range(80, 150)},
            "02": {*range(0, 41, 10), *range(50, 80)},
        },
    ),
    "Fluo-N3DH-CE": Dataset(
        "embryos of C. elegans, with a marker in every nucleus and labels on a few single slices",
        (1.0, 0.09, 0.09),
        "eb3d37cacb3b51d3a427a0c43deaaf1d60cf2eba009f12569e720c2c2fd1e04c",
        size=3_428_322_151,
    ),
}


def main(argv=None):
    """Run the command line; return the exit status (0 done, 2 wrong input, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=DATASETS, help=" or ".join(DATASETS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("data"), metavar="DIR", help="default: %(default)s")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--needed", action="store_true", help="only the frames that the experiments use")
    part.add_argument("--frames", nargs="+", metavar="SEQ:FRAMES", help="only these, as 01:0,10-70")
    parser.add_argument("--from", dest="source", type=Path, metavar="ZIP", help="an archive you have already")
    args = parser.parse_args(argv)
    dataset = DATASETS[args.name]
    print(TERMS.format(name=args.name, about=dataset.about, cite="\n  ".join(CITE)), flush=True)
    try:
        frames = dataset.needed if args.needed else parse_frames(args.frames) if args.frames else None
        if args.needed and frames is None:
            print("The experiments use all of this set.")
        folder = fetch(args.name, args.out, frames, args.source)
        print(*describe(folder, dataset.voxel_size), sep="\n")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run again to go on from here", file=sys.stderr)
        return 130
    return 0


def parse_frames(words):
    """Return the frames that words like "01:0,10-70" name: a dict of sequence to set of int."""
    frames = {}
    for word in words:
        match = re.fullmatch(r"(\d\d):(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)", word)
        if not match:
            raise InputError(f"--frames {word}", "is not understood", "write it like 01:0,10-70")
        for span in match[2].split(","):
            first, _, last = span.partition("-")
            if int(last or first) < int(first):
                raise InputError(f"--frames {word}", f"{span} goes backwards", "put the smaller number first")
            frames.setdefault(match[1], set()).update(range(int(first), int(last or first) + 1))
    return frames


def fetch(name, out, frames=None, source=None):
    """Write set `name` to OUT/NAME and return that folder (Path).

    frames: sequence ("01") to frames (set of int), None for all. source: the set's zip archive, if it is here.
    All of a set is downloaded to OUT/archives first, where it stays, and its sha256 is checked. Of some frames,
    only their bytes are; each file is then checked by the CRC that the archive has for it.

    Raises InputError where the disk is too small, the archive cannot be had, is another one or damaged, or
    lacks some of the frames. Files that are there already are kept.
    """
    dataset, url, folder = DATASETS[name], f"{SERVER}/{name}.zip", out / name
    kept = out / "archives" / f"{name}.zip"
    if source is not None:
        found = hash_of(source)
        if found != dataset.sha256:
            problem = f"has sha256 {found} and not {dataset.sha256}" if found else "no such file"
            raise InputError(source, problem, f"give the whole archive as it comes from {url}")
    elif frames is None:
        if not kept.is_file():
            check_room_for_all(url, dataset, kept, folder)
        source = download(url, kept, dataset.sha256)
    else:
        print(
            "Only parts of the archive are downloaded: instead of its sha256, the CRC of each file is checked."
        )
    parts = open_zip(source, source, "remove it and run again") if source else open_remote(url, dataset)
    with parts as archive:
        members = choose(archive, name, frames, source or url)
        check_free_space(out, lacking(members, out) + SPARE)
        write_json(
            folder / "dataset.json",
            {"voxel_size_um": dataset.voxel_size, "name": name, "source": url, "cite": CITE},
        )
        total = sum(info.file_size for info in members)
        with tqdm(desc=name, total=total, unit="B", unit_scale=True, leave=False) as bar:
            for info in members:
                extract(archive, info, out / info.filename, bar)
    return folder


def check_room_for_all(url, dataset, kept, folder):
    """Raise InputError where the disk is too small for the archive and what is in it, before anything is sent."""
    try:
        with open_remote(url, dataset) as archive:
            unpacked = lacking(choose(archive, folder.name, None, url), folder.parent)
            size = archive.fp.raw.size
    except NoRanges:
        return  # The archive's table of contents comes last: look again when all of it is here.
    part = kept.with_name(kept.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    check_free_space(folder.parent, max(size - have, 0) + unpacked + SPARE)


@contextmanager
def open_remote(url, dataset):
    """Give the zip archive at `url`, of which only what is used is downloaded (ZipFile)."""
    with io.BufferedReader(RemoteFile(url), 1 << 16) as file:
        if dataset.size not in (None, file.raw.size):
            problem = f"the server's file has {file.raw.size} bytes and not {dataset.size}"
            raise InputError(url, problem, "it was changed; use a copy of the earlier one with `--from`")
        with open_zip(file, url, "run again; what has arrived is kept") as archive:
            yield archive


def choose(archive, name, frames, where):
    """Return the members to unpack (list of ZipInfo): all of the set's files, or those of some frames.

    Markers of a frame that has full labels say nothing new, and are taken only with all the rest.
    Raises InputError, with `where`, for an archive that is not of this set or lacks some of the frames.
    """
    # Nothing but plain names below NAME/, so that no member can be written outside of it.
    inside = re.compile(rf"{re.escape(name)}(/\w[\w.+-]*)+", re.ASCII)
    members = [info for info in archive.infolist() if inside.fullmatch(info.filename)]
    if not any(_frame_of(info, name) for info in members):
        raise InputError(where, f"holds no images of {name}", "give the archive of this set")
    if frames is None:
        return members
    kinds = {}
    for info in members:
        if found := _frame_of(info, name):
            sequence, kind, t = found
            kinds.setdefault((sequence, t), {}).setdefault(kind, []).append(info)
    wanted = [(sequence, t) for sequence in sorted(frames) for t in sorted(frames[sequence])]
    absent = [
        f"{sequence}/t{frame_name(t)}" for sequence, t in wanted if "t" not in kinds.get((sequence, t), {})
    ]
    if absent:
        some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise InputError(where, f"has no frame {some}", "ask for frames that it has")
    chosen = [
        info
        for key in wanted
        for kind, infos in kinds[key].items()
        if kind != "man_track" or "man_seg" not in kinds[key]
        for info in infos
    ]
    tables = {f"{name}/{sequence}_GT/TRA/man_track.txt" for sequence in frames}
    return chosen + [info for info in members if info.filename in tables]


def lacking(members, out):
    """Return how many bytes of the members' files are not below OUT yet (int)."""
    files = [(info.file_size, out / info.filename) for info in members]
    return sum(size for size, path in files if not path.is_file() or path.stat().st_size != size)


def describe(folder, voxel_size):
    """Return a line about each sequence (list of str), after reading its first stack.

    Raises InputError where that stack or its labels cannot be read.
    """
    lines = []
    for path in sorted(folder.glob("[0-9][0-9]")):
        sequence = Sequence(path)
        first = sequence.frames[0]
        stack = sequence.read(first, with_labels=sequence.has_labels(first))
        full = sum(map(sequence.has_labels, sequence.frames))
        slices = Counter(
            file.name.split("_")[2] for file in path.parent.glob(f"{path.name}_GT/SEG/man_seg_*_*.tif")
        )
        line = f"{path}: {len(sequence.frames)} stacks, the first {stack.image.shape}; full labels of {full}"
        if slices:
            line += f", labels of {sum(slices.values())} single slices in {len(slices)} others"
        if stack.voxel_size != voxel_size:
            line += (
                f"; the image itself says voxels of {stack.voxel_size} um and not {voxel_size}, and counts"
            )
        lines.append(line)
    return lines


def _frame_of(info, name):
    """Return sequence, kind and frame of a member (str, str, int), None for what belongs to no frame.

    kind: "t" image, "man_seg" full labels, "man_seg_" labels of one slice, "man_track" markers.
    """
    place = r"(\d\d)(?:/(?=t)|_GT/SEG/(?=man_seg)|_GT/TRA/(?=man_track))"
    file = r"(t|man_seg|man_track)(?:(\d{3,})|_(\d{3,})_\d+)\.tif"
    match = re.fullmatch(rf"{re.escape(name)}/{place}{file}", info.filename)
    if not match:
        return None
    sequence, kind, volume, slice_of = match.groups()
    return sequence, kind if volume else f"{kind}_", int(volume or slice_of)


if __name__ == "__main__":
    sys.exit(main())
