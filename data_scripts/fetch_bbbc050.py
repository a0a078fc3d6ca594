"""Get BBBC050, nuclei of mouse embryos in 3D with complete labels, and lay it out as sequences.

    python data_scripts/fetch_bbbc050.py                     downloads 130 MB into data/bbbc050
    python data_scripts/fetch_bbbc050.py --from FOLDER       takes an unpacked copy instead

The result is one sequence an embryo, in the layout of the Cell Tracking Challenge that weakseg reads:

    data/bbbc050/train/01/t301.tif  01_GT/SEG/man_seg301.tif  ...  dataset.json
    data/bbbc050/test/01/...

The embryo is the unit of a split: its time points look alike, so all of them go to one side.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

from download import check_free_space, download
from tqdm import tqdm
from unzip import extract, open_zip

from weakseg_lib.data.files import write_json
from weakseg_lib.data.stacks import check_labels, frame_name, write_tiff
from weakseg_lib.data.tiff import read_tiff
from weakseg_lib.errors import InputError

ARCHIVES = {
    "https://data.broadinstitute.org/bbbc/BBBC050/Images.zip": (
        "29f100abbfebfb1986b8e87eac091e86d8ec27cd8194f9a1c02c805e76b6dcd8"
    ),
    "https://data.broadinstitute.org/bbbc/BBBC050/GroundTruth.zip": (
        "1f19b308730dccf217c4d4dcf5745ad0fcde4eeb9f9c9306b2c8abd1fe73e5d1"
    ),
}
IMAGES, LABELS = "Images", "GroundTruth_QCANet"  # the folders of a split in the archives
NEEDED = 1_000_000_000  # bytes: the archives (130 MB), their files unpacked, and these again as sequences
ABOUT = {
    "name": "BBBC050, nuclei of mouse embryonic cells",
    "source": "https://bbbc.broadinstitute.org/BBBC050",
    "licence": "CC BY 3.0 as public catalogues state it; check the source before you pass the data on",
    "cite": [
        "Tokuoka et al., npj Syst Biol Appl 6:32 (2020), doi 10.1038/s41540-020-00152-8",
        "Ljosa et al., Nat Methods 9:637 (2012)",
    ],
}


def main(argv=None):
    """Run the command line; return the exit status (0 done, 2 wrong input, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/bbbc050"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="an unpacked copy of the archives"
    )
    args = parser.parse_args(argv)
    print(f"{ABOUT['name']} ({ABOUT['source']})\nLicence: {ABOUT['licence']}")
    print(f"Please cite: {'; '.join(ABOUT['cite'])}")
    try:
        if args.source:
            sequences = lay_out(args.source, args.out)
        else:
            sequences = fetch(args.out)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run again to go on from here", file=sys.stderr)
        return 130
    print(f"{len(sequences)} sequences in {args.out}. Next: weakseg annotate {sequences[0]} --masks 0.2")
    return 0


def fetch(out, archives=None):
    """Download the archives into OUT/archives and lay them out; return the sequence folders.

    archives: sha256 of each address, by default the official ones. The archives stay, for another run.
    """
    archives = ARCHIVES if archives is None else archives
    check_free_space(out, NEEDED)
    unpacked = out / "unpacked"
    for url, sha256 in archives.items():
        archive = download(url, out / "archives" / url.rpartition("/")[2], sha256)
        unpack(archive, unpacked)
    sequences = lay_out(unpacked, out)
    shutil.rmtree(unpacked)
    return sequences


def unpack(archive, folder):
    """Write the volumes in a zip archive to FOLDER/SPLIT/KIND, and skip those that are there."""
    with open_zip(archive, archive, "remove it and run again") as contents:
        wanted = [info for info in contents.infolist() if _place(info.filename)[1]]
        for info in tqdm(wanted, desc=f"unpacking {archive.name}", unit="file", leave=False):
            extract(contents, info, folder.joinpath(*_place(info.filename), info.filename.rpartition("/")[2]))


def lay_out(source, out):
    """Write the volumes of an unpacked copy as sequences; return the sequence folders (list of Path, sorted).

    source: a folder with SPLIT/Images/*.tif and SPLIT/GroundTruth_QCANet/*.tif, at any depth. OUT/SPLIT/NN is
    embryo NN of a split. Volumes that are there already are kept, so an interrupted run can go on.
    Raises InputError where the source has no volumes, one is damaged, or labels do not fit their image.
    """
    images, labels = find_volumes(source)
    if not images:
        fix = "give the folder that holds Images/train/Images and GroundTruth/train/GroundTruth_QCANet"
        raise InputError(source, "has no images of BBBC050", fix)
    numbers = number_volumes(images)
    sequences = set()
    for (split, name), path in tqdm(images.items(), desc="writing sequences", unit="volume", leave=False):
        embryo, frame = numbers[split, name]
        sequence = out / split / f"{embryo:02d}"
        labels_folder = out / split / f"{embryo:02d}_GT" / "SEG"
        _convert(
            (path, sequence / f"t{frame_name(frame)}.tif"),
            (labels.get((split, name)), labels_folder / f"man_seg{frame_name(frame)}.tif"),
            voxel_size_of(split),
        )
        sequences.add(sequence)
    for split in sorted({split for split, _ in images}):
        write_json(out / split / "dataset.json", {"voxel_size_um": voxel_size_of(split), **ABOUT})
        count = sum(key[0] == split for key in images)
        unlabelled = sum(key[0] == split and key not in labels for key in images)
        print(f"{split}: {count} volumes" + (f", {unlabelled} of them without labels" if unlabelled else ""))
    return sorted(sequences)


def voxel_size_of(split):
    """Return the voxel size of a split, (z, y, x) um: the test embryos were taken with another microscope."""
    return (2.0, 0.8, 0.8) if split.lower().startswith("test") else (1.75, 0.8, 0.8)


def find_volumes(source):
    """Return the images and the labels below a folder: two dicts of (split, name) to path, in order."""
    if not source.is_dir():
        raise InputError(source, "no such folder", "give an unpacked copy of BBBC050")
    images, labels = {}, {}
    for path in sorted(source.rglob("*.tif*")):
        split, kind = _place(path.relative_to(source).as_posix())
        if kind:
            (images if kind == IMAGES else labels)[split, path.stem] = path
    return images, labels


def number_volumes(keys):
    """Return the numbers of embryo and frame, (int, int), for every (split, name): a dict.

    EmbNN_tTTT is embryo NN at time TTT. Names without Emb are numbered in their order, after the others.
    Raises InputError where two names get the same numbers.
    """
    numbers = {}
    for split in sorted({split for split, _ in keys}):
        names = sorted((name for other, name in keys if other == split), key=_natural)
        embryos = {_embryo(name): None for name in names}  # distinct, in order
        known = {base: int(base) for base in embryos if base.isdigit()}
        unknown = [base for base in embryos if base not in known]
        known |= {base: i for i, base in enumerate(unknown, start=1 + max(known.values(), default=0))}
        for name in names:
            time = re.search(r"t(\d+)$", name)
            numbers[split, name] = known[_embryo(name)], int(time[1]) if time else 0
    if len({(split, *place) for (split, _), place in numbers.items()}) < len(numbers):
        raise InputError("BBBC050", "two volumes have the same embryo and time", "keep one of them")
    return numbers


def _embryo(name):
    """Return what names an embryo in a file's name: its number, else all of it without the time."""
    match = re.search(r"Emb\D*(\d+)", name)
    return str(int(match[1])) if match else "name " + re.sub(r"_?t\d+$", "", name)


def _natural(name):
    """Return a sort key that puts 2 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _place(path):
    """Return the split and kind of a file in the official layout (str, str); None, None for any other."""
    match = re.fullmatch(rf"(?:.*/)?([^/]+)/({IMAGES}|{LABELS})/[^./][^/]*\.tiff?", path)
    return match.groups() if match else (None, None)


def _convert(image, labels, voxel_size):
    """Write an image and its labels, each given as (source or None, target), unless they are there."""
    (image_source, image_target), (labels_source, labels_target) = image, labels
    if image_target.is_file() and (labels_source is None or labels_target.is_file()):
        return
    # The data are known to be z-stacks, whatever the TIFF calls its axes.
    volume, _ = read_tiff(image_source, axes="ZYX")
    if labels_source is not None:
        truth = check_labels(read_tiff(labels_source, axes="ZYX")[0], labels_source, volume.shape)
        write_tiff(labels_target, truth, voxel_size)
    write_tiff(image_target, volume, voxel_size)


if __name__ == "__main__":
    sys.exit(main())
