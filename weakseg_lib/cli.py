"""The command `weakseg`: what it understands. actions.py has what its commands do.

Exit status 0 when done, 2 with one line on stderr for a user's mistake, 130 when interrupted.
"""

import argparse
import os
import sys
import warnings

import weakseg_lib
from weakseg_lib import actions
from weakseg_lib.errors import InputError


def main(arguments=None) -> int:
    """Run one command; `arguments` defaults to the command line's. Returns the exit status."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = _warn
    speaks = os.environ.get("RANK", "0") == "0"  # of several processes, of which all fail alike, one tells
    try:
        if (getattr(options, "seed", None) or 0) < 0:
            raise InputError(f"--seed {options.seed}", "is negative", "give 0 or more")
        options.run(options)
    except InputError as error:
        if speaks:
            print(f"weakseg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "the same command begins anew"
        if options.run in (actions.reproduce, actions.predict):
            again = "the same command goes on from where it stopped"
        elif options.run is actions.fit:
            again = "the training goes on from where it stopped with --resume"
        if speaks:
            print(f"weakseg: interrupted; {again}", file=sys.stderr)
        return 130
    return 0


def _warn(message, *_):
    from tqdm import tqdm

    tqdm.write(f"warning: {message}", file=sys.stderr)  # above a progress bar, not in it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "weakseg", description="3D instance segmentation from boxes and a few masks."
    )
    parser.add_argument("--version", action="version", version=weakseg_lib.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _add(commands, "simulate", actions.simulate, "write simulated stacks with exact labels")
    command.add_argument("specimen", choices=["hl60", "microglia", "celegans"])
    command.add_argument(
        "out", metavar="OUT", help="new folder; gets 01 (group 1), 02 (group 2) and their labels"
    )
    command.add_argument(
        "--stacks", type=int, help="stacks in each group (default: hl60 4, microglia 10 and 4, celegans 15)"
    )
    command.add_argument("--size", choices=["laptop", "paper"], default="laptop")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--swc", nargs="+", metavar="PATH", help="microglia: draw tracings, a zip or folder of one field each"
    )
    command.add_argument(
        "--tracks", nargs=2, metavar="FILE", help="celegans: draw real tracks (CSV), group 1 and group 2"
    )

    command = _add(
        commands, "annotate", actions.annotate, "make a weak annotation from full labels: NAME/01_WEAK"
    )
    command.add_argument("sequences", nargs="+", metavar="SEQ", help="sequence folder, NAME/01")
    command.add_argument(
        "--masks", type=float, default=0.2, help="share of the instances of a stack that get a mask"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--overwrite", action="store_true", help="replace annotation that was drawn by hand")

    command = _add(commands, "propose", actions.propose, "write boxes to be corrected: NAME/01_WEAK")
    command.add_argument("sequences", nargs="+", metavar="SEQ", help="sequence folder, NAME/01")
    command.add_argument(
        "--by",
        default="maxima",
        metavar="maxima|hl60|RUN|RESULT",
        help="smoothed maxima (default), weights, or a folder of results, whose masks come along",
    )
    command.add_argument("--diameter", type=float, metavar="UM", help="maxima: of a cell (default: measured)")
    command.add_argument("--score", type=float, help="weights: least score of a cell, 0 to 1")
    _add_device(command)
    _add_voxel_size(command)

    command = _add(commands, "rank", actions.rank, "say which cells to mask next")
    command.add_argument(
        "trained", metavar="RUN", help="run folder of a `weakseg fit` on boxes and some masks"
    )
    command.add_argument("sequence", metavar="SEQ", help="sequence folder with its SEQ_WEAK beside it")
    command.add_argument("--number", type=int, default=10, help="how many (default 10)")
    command.add_argument(
        "--by",
        metavar="WAY",
        help="random (default: benchmarks/results/which_to_mask), disagreement of the masks of mirrored and noisy "
        "views, difference from the masked cells, or both",
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--json", metavar="FILE", help="also write them to FILE")
    _add_device(command)
    _add_voxel_size(command)

    command = _add(commands, "fit", actions.fit, "train on weakly annotated sequences")
    command.add_argument(
        "sequences", nargs="+", metavar="SEQ", help="sequence folder with its SEQ_WEAK beside it"
    )
    command.add_argument("--out", required=True, metavar="RUN", help="run folder to write")
    command.add_argument(
        "--method",
        choices=["weak", "voxresnet"],
        help="weak: boxes and some masks (default); voxresnet: the paper's comparison, from full labels",
    )
    command.add_argument("--preset", choices=["laptop", "paper"])
    command.add_argument("--config", metavar="FILE", help="JSON file of settings")
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings"
    )
    limit = command.add_mutually_exclusive_group()
    limit.add_argument("--steps", type=int, help="training steps")
    limit.add_argument("--minutes", type=float, help="training time instead of steps")
    command.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    command.add_argument("--seed", type=int, help="of weights and crops (default 0)")
    command.add_argument("--json", metavar="FILE", help="also write the run's numbers to FILE")
    _add_device(command)
    _add_voxel_size(command)

    command = _add(commands, "predict", actions.predict, "segment stacks with a trained run")
    command.add_argument(
        "trained", metavar="RUN", help="run folder of `weakseg fit`, or hl60: weights that come along"
    )
    command.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="sequence folder, TIFF, ND2, CZI or OME-Zarr"
    )
    command.add_argument("--out", required=True, metavar="DIR", help="folder for masks and boxes")
    command.add_argument("--frame", type=int, metavar="T", help="time point to take from a 4D image")
    command.add_argument(
        "--score", type=float, help="least score of a cell, 0 to 1 (default: chosen in training)"
    )
    command.add_argument(
        "--reading",
        choices=["grown", "literal"],
        default="grown",
        help="VoxResNet: components grown back into their boundary, or alone",
    )
    command.add_argument(
        "--again",
        action="store_true",
        help="also predict stacks that are done: whose result is newer than weights and image, with the same options",
    )
    command.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine; 0 for none (default: by cores and memory, from 8 stacks on without a GPU)",
    )
    command.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler whose workers predict, tcp://HOST:8786, or local",
    )
    command.add_argument(
        "--blocks",
        action="store_true",
        help="OME-Zarr of any size piece by piece, into an OME-Zarr; without it only from 2^30 voxels on",
    )
    _add_device(command)
    _add_voxel_size(command)

    command = _add(
        commands, "reproduce", actions.reproduce, "run one of the paper's experiments and write its table"
    )
    command.add_argument("experiment", choices=["hl60", "microglia", "celegans"])
    command.add_argument("--size", choices=["laptop", "paper"], default="laptop")
    command.add_argument(
        "--data", metavar="PATH", help="folder of the paper's set (default: simulated stacks)"
    )
    command.add_argument("--out", metavar="DIR", help="default: results/reproduce_EXPERIMENT_SIZE")
    command.add_argument("--seeds", type=int, default=1, help="how many, from 0 on (default 1)")
    command.add_argument(
        "--curve", action="store_true", help="also other shares of the masks, and VoxResNet on fewer stacks"
    )
    _add_device(command)

    command = _add(commands, "evaluate", actions.evaluate, "score a result against the truth")
    command.add_argument(
        "result", metavar="RESULT", help="folder of `weakseg predict --out`, or one mask TIFF"
    )
    command.add_argument("truth", metavar="TRUTH", help="NAME/01, NAME/01_GT, NAME, or one label TIFF")
    command.add_argument("--frames", help='only these: "80-149", "01:80-149,02:50-79" or "predicted"')
    command.add_argument(
        "--picture", metavar="PNG", help="also draw hits, misses and false alarms of the worst stack"
    )
    command.add_argument("--json", metavar="FILE", help="also write every number to FILE")
    _add_voxel_size(command)

    command = _add(commands, "import", actions.import_files, "bring images into a sequence folder, NAME/01")
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="TIFF, ND2, CZI, OME-Zarr, or a folder of them"
    )
    command.add_argument("--out", required=True, metavar="NAME/01", help="sequence folder to write")
    command.add_argument("--channel", type=int, metavar="C", help="channel to take, from 0")
    command.add_argument(
        "--axes", metavar="A", help="the files' axes in order, like YXZ, where they do not say it"
    )
    command.add_argument("--frame", type=int, metavar="T", help="time point to take, from 0")
    command.add_argument(
        "--slices", action="store_true", help="FILE is a folder of 2D images, the slices of one stack"
    )
    command.add_argument("--append", action="store_true", help="add to the images that are there")
    _add_voxel_size(command)

    command = _add(commands, "export", actions.export, "write a result as other tools read it")
    command.add_argument("result", metavar="RESULT", help="folder of `weakseg predict --out`")
    command.add_argument("--to", required=True, metavar="OUT", help="folder to write")
    command.add_argument("--images", metavar="NAME/01", help="the images, for intensities and OME-Zarr")
    command.add_argument(
        "--as", choices=["imagej", "ome-zarr", "csv", "all"], default="all", dest="form", help="default: all"
    )
    _add_voxel_size(command)
    return parser


def _add(commands, name, run, text):
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _add_device(command):
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def _add_voxel_size(command):
    text = "voxel size in um, where the files do not have it"
    command.add_argument("--voxel-size", nargs=3, type=float, metavar=("Z", "Y", "X"), help=text)
