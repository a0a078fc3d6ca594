"""Copy the results that lessons show into the library, for readers who have no checkout beside their notebook."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS, RECORDED = ROOT / "benchmarks" / "results", ROOT / "weakseg_lib" / "recorded"


def sources() -> list[Path]:
    tables = RESULTS.glob("reproduction/*_laptop.json")
    return sorted([*tables, *RESULTS.glob("ablation_*.json"), *RESULTS.glob("roi_align_*.json")])


if __name__ == "__main__":
    RECORDED.mkdir(exist_ok=True)
    for path in sources():
        shutil.copy(path, RECORDED)
