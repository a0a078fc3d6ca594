"""Gather what `weakseg reproduce` wrote into benchmarks/results/reproduction: tables, pictures, and how they were made.

    python benchmarks/publish_reproduction.py results/reproduce_hl60_laptop results/reproduce_microglia_laptop ...

notes.md there is written by hand: what was seen, what differs, what did not work. It stands above the tables.
"""

import argparse
import json
import shutil
from pathlib import Path

from common import RESULTS
from PIL import Image

from weakseg_lib.annotation_time import printed_hours
from weakseg_lib.data.files import atomic_write_text
from weakseg_lib.experiments import EXPERIMENTS, SHARES
from weakseg_lib.pictures import draw_reproduction

TARGET = RESULTS / "reproduction"


def command(out: Path, table: dict) -> str:
    """The call that gives such a table."""
    rows = table["rows"]
    call = f"weakseg reproduce {table['experiment']} --size {table['size']}"
    call += f" --seeds {max(len(row['seeds']) for row in rows)}"
    call += " --curve" * (sum(row["method"] == "weak" for row in rows) > 1)
    given = json.loads((out / "experiment.json").read_text())["data"]
    return call + (
        "" if Path(out / given).resolve() == (out / "data").resolve() else f" --data {Path(given).name}"
    )


def section(out: Path) -> str:
    """The table of one experiment, its command and its pictures, which are copied."""
    table = json.loads((out / "table.json").read_text())
    name = f"{table['experiment']}_{table['size']}"
    rows = table["rows"]
    shutil.copyfile(out / "table.json", TARGET / f"{name}.json")
    fewer = sorted({row["stacks"] for row in rows if row["method"] == "voxresnet"})[:-1]
    main, pictures = EXPERIMENTS[table["experiment"]].masks, []
    for path in draw_reproduction(out):
        if path.name == "hours.png" and len(rows) < 2:
            continue
        other = [f"voxresnet_{n}_" for n in fewer] + [f"weak_{s:g}_" for s in SHARES if s != main]
        if "literal" in path.name or any(f"worst_{row}" in path.name for row in other):
            continue  # a clone is to stay small: of VoxResNet the best reading, all stacks; of ours the paper's share
        picture = TARGET / f"{name}_{path.name}"
        if path.name == "hours.png":
            shutil.copyfile(path, picture)
        else:  # of noisy images, a fifth of the PNG
            picture = TARGET / f"{name}_{path.stem}.jpg"
            Image.open(path).convert("RGB").save(picture, quality=70, optimize=True)
        pictures.append(f"![{path.stem.replace('_', ' ')}]({picture.name})")
    minutes = "; ".join(f"{row['row']} {'/'.join(map(str, row['fit_minutes']))}" for row in rows)
    first = rows[0]
    gpu = max(row.get("gpu_gib") or 0 for row in rows)
    gpu = f", of the GPU {gpu:.1f} GiB" if gpu else ""
    text = (out / "table.md").read_text().replace("# ", "## ", 1)
    return "\n".join(
        [
            text,
            f"Command: `{command(out, table)}`. Device: {first['device']}, {first['threads']} thread(s), torch "
            f"{first['torch']}. Training, minutes of each seed: {minutes}. Most memory of the process, all rows: "
            f"{max(row['peak_gib'] for row in rows):.1f} GiB{gpu}.",
            "",
            *pictures,
            "",
        ]
    )


def hours() -> str:
    lines = [
        "## The paper's hours against its own rule",
        "",
        "T = N b + f N m with m = 30 b, from the printed time of full annotation (weakseg_lib/annotation_time.py).",
        "",
        "| | printed (h) | computed (h) | residual (h) |",
        "|---|---|---|---|",
    ]
    lines += [f"| {p.what} | {p.printed} | {p.computed:.2f} | {p.residual:+.2f} |" for p in printed_hours()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="OUT")
    options = parser.parse_args()
    TARGET.mkdir(exist_ok=True)
    notes = (TARGET / "notes.md").read_text() if (TARGET / "notes.md").is_file() else ""
    parts = [notes, *(section(out) for out in options.folders), hours()]
    atomic_write_text(TARGET / "README.md", "\n".join(parts))
    print(f"wrote {TARGET / 'README.md'}")


if __name__ == "__main__":
    main()
