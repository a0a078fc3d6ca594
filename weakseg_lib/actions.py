"""What each command of `weakseg` does, given the options that cli.py has read.

The imports are inside the functions, so that `weakseg --help` does not wait for torch.
"""

import warnings
from pathlib import Path

from weakseg_lib.errors import InputError


def simulate(options):
    from weakseg_lib.data.simulate import SPECIMENS
    from weakseg_lib.data.stacks import Sequence

    more = {}
    for option, specimen in (("swc", "microglia"), ("tracks", "celegans")):
        if getattr(options, option):
            if options.specimen != specimen:
                raise InputError(f"--{option} with {options.specimen}", f"is for {specimen}", "leave it out")
            more[option] = getattr(options, option)
    folders = SPECIMENS[options.specimen](options.out, options.stacks, options.size, options.seed, **more)
    stacks = " and ".join(str(len(Sequence(folder).frames)) for folder in folders)
    print(f"wrote {', '.join(map(str, folders))}: {stacks} simulated stacks, full labels in ..._GT/SEG")


def annotate(options):
    from weakseg_lib.data.annotation import annotate_sequence

    for sequence in options.sequences:
        folder = annotate_sequence(sequence, options.masks, options.seed, overwrite=options.overwrite)
        print(f"wrote {folder}: a box for every instance, a mask for {options.masks:.0%} of them")


def fit(options):
    from weakseg_lib.data.files import write_json
    from weakseg_lib.plots import plot_curves, save_figure
    from weakseg_lib.processes import is_main
    from weakseg_lib.runs import LOG
    from weakseg_lib.train import fit

    run = fit(
        options.sequences,
        options.out,
        config_of(options),
        seed=options.seed,
        device=options.device,
        resume=options.resume,
        voxel_size=options.voxel_size,
    )
    if not is_main():
        return
    info = run.info
    hint = " (low: train longer)" if info["training_detection_f1"] < 0.5 else ""
    save_figure(plot_curves(run.folder / LOG), run.folder / "curves.png")
    if options.json:
        write_json(options.json, info)
    print(
        f"wrote {run.folder}: {_count(info['steps'], 'step')} in {info['seconds'] / 60:.1f} min on {info['device']}, "
        f"{info['instances']} boxes ({info['not_taught']} too small to teach) and {info['masks']} masks "
        f"in {info['stacks']} stacks; "
        f"detection F1 on the training stacks {info['training_detection_f1']:.3f}{hint}"
    )


def config_of(options):
    """The settings asked for; None where a resumed run is to keep its own."""
    from weakseg_lib.config import load_config

    asked = (options.method, options.preset, options.config, options.settings, options.steps, options.minutes)
    if options.resume and not any(asked) and (Path(options.out) / "run.json").is_file():
        return None
    config = load_config(options.preset or "laptop", options.config, options.settings)
    if options.method:
        config = config.replace(method=options.method)
    if options.steps is not None:
        config = config.replace(steps=_positive("--steps", options.steps), minutes=0.0)
    if options.minutes is not None:
        config = config.replace(steps=0, minutes=_positive("--minutes", options.minutes))
    return config


def _count(number, word):
    return f"{number} {word}{'' if number == 1 else 's'}"


def _positive(name, value):
    if not value > 0:
        raise InputError(f"{name} {value}", "must be more than 0", "give a larger number")
    return value


def predict(options):
    from weakseg_lib.data.plausible import VoxelSizeWarning
    from weakseg_lib.prediction import predict
    from weakseg_lib.runs import find_run, read_info

    # It is compared with the training's, and an error then says more.
    warnings.simplefilter("ignore", VoxelSizeWarning)
    cells = predict(
        options.trained,
        options.inputs,
        options.out,
        voxel_size=options.voxel_size,
        frame=options.frame,
        score=options.score,
        reading=options.reading,
        device=options.device,
        scheduler=options.scheduler,
        workers=options.workers,
        blocks=options.blocks,
        again=options.again,
    )
    alone = (
        ""
        if read_info(find_run(options.trained))["has_masks"]
        else ", boxes alone as it was trained without masks"
    )
    for folder, number in cells.items():
        hint = "" if number else " (train longer, or lower --score)"
        print(f"wrote {folder}: {number} cells{hint}{alone}")


def reproduce(options):
    from weakseg_lib.pictures import draw_reproduction
    from weakseg_lib.reproduce import reproduce

    out = options.out or f"results/reproduce_{options.experiment}_{options.size}"
    table = reproduce(
        options.experiment, out, options.size, options.data, options.seeds, options.curve, options.device
    )
    print(table.read_text())
    print(f"wrote {table}; pictures: {', '.join(p.name for p in draw_reproduction(table.parent))}")


def evaluate(options):
    from weakseg_lib.data.files import write_json
    from weakseg_lib.evaluation import evaluate, format_table

    scores = evaluate(options.result, options.truth, frames=options.frames, voxel_size=options.voxel_size)
    print(format_table(scores), end="")
    if options.json:
        write_json(options.json, scores)
    if options.picture:
        from weakseg_lib.pictures import draw_worst

        drawn = draw_worst(
            scores, options.result, options.truth, options.picture, options.frames, options.voxel_size
        )
        print(f"drew {drawn}: the stack with the lowest detection F1")


def import_files(options):
    from weakseg_lib.data.import_images import import_images

    sequence = import_images(
        options.files,
        options.out,
        channel=options.channel,
        axes=options.axes,
        frame=options.frame,
        voxel_size=options.voxel_size,
        append=options.append,
        slices=options.slices,
    )
    print(f"wrote {sequence.path}: {_count(len(sequence.frames), 'image')}")


def export(options):
    from weakseg_lib.export import FORMS, export

    forms = FORMS if options.form == "all" else (options.form,)
    written = export(options.result, options.to, options.images, forms, options.voxel_size)
    print(f"wrote {', '.join(map(str, written))}")


def propose(options):
    from weakseg_lib.data.stacks import Sequence
    from weakseg_lib.propose import propose_sequence

    for path in options.sequences:
        sequence = Sequence(path)
        numbers = propose_sequence(
            sequence,
            options.by,
            options.diameter,
            options.score,
            device=options.device,
            voxel_size=options.voxel_size,
        )
        empty = [t for t, number in numbers.items() if not number]
        kept = len(sequence.frames) - len(numbers)
        print(
            f"{sequence.weak_path}: {sum(numbers.values())} boxes to correct in {len(numbers) - len(empty)} stacks"
            + (f"; {kept} stacks have annotation, or no result, and are as they were" if kept else "")
        )
        if empty:
            found = f"{sequence.path}: nothing was found in frames {', '.join(map(str, empty))}, nothing is written"
            warnings.warn(f"{found}; draw their boxes, or try another --by or --diameter", stacklevel=2)


def rank(options):
    from weakseg_lib.data.files import write_json
    from weakseg_lib.rank import DEFAULT, rank_sequence
    from weakseg_lib.runs import load_run

    run = load_run(options.trained, options.device)
    number, by = _positive("--number", options.number), options.by or DEFAULT
    ranked = rank_sequence(
        run, options.sequence, number, by, seed=options.seed, voxel_size=options.voxel_size
    )
    print(f"the {len(ranked)} cells to mask next ({by})")
    print("frame   id   middle (z, y, x)  score")
    for cell in ranked:
        middle = ", ".join(
            f"{(a + b) / 2:.0f}" for a, b in zip(cell["box"][:3], cell["box"][3:], strict=True)
        )
        print(f"{cell['frame']:5d} {cell['id']:4d}   {middle:16}  {cell['score']:.3f}")
    if options.json:
        write_json(options.json, {"run": str(run.folder), "by": by, "cells": ranked})
