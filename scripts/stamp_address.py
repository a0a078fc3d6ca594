"""Carry the public address in pyproject.toml into every file that names it: what `make stamp` runs.

CITATION.cff tells which address the files have now; it is the last to change, so that a run that was cut short can be
repeated.
"""

import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).parents[1]
CITATION = ROOT / "CITATION.cff"


def main() -> int:
    new = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
    old = re.search(r"^repository-code: (\S+)$", CITATION.read_text("utf-8"), re.MULTILINE)[1]
    if new == old:
        print(f"every file has {new} already")
        return 0
    for path in [*stamped_files(), CITATION]:
        text = path.read_text("utf-8")
        if old in text or colab(old) in text:
            count = text.count(old) + text.count(colab(old))
            stamped = text.replace(old, new).replace(colab(old) + "/", colab(new) + "/")
            path.write_text(stamped, "utf-8", newline="\n")
            print(f"{path.relative_to(ROOT)}: {count} x {old} -> {new}")
    return 0


def colab(address: str) -> str:
    """Where Colab opens the files of a GitHub repository."""
    return "https://colab.research.google.com/github" + urlparse(address).path


def stamped_files() -> list[Path]:
    """The files besides CITATION.cff in which the address may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "notebooks").rglob("*.ipynb"))]


if __name__ == "__main__":
    sys.exit(main())
