"""Which tables of boxes a program proposed and nobody looked at since: NAME/01_WEAK/proposed.json.

For each such frame the file holds a digest of its table and masks. A frame counts as looked at once `write_weak` saved
it, or once either file has changed in any other way, in a spreadsheet for example.
"""

import hashlib
from pathlib import Path

from weakseg_lib.data.files import read_json, write_json

MARK = "proposed.json"


def proposed_frames(sequence) -> list[int]:
    """The frames of a `Sequence` whose boxes are proposals that nobody looked at. Raises InputError for a damaged
    mark."""
    marks = _read(sequence)
    return [t for t in sequence.frames if str(t) in marks and marks[str(t)] == digest(*_files(sequence, t))]


def digest(boxes: Path, masks: Path) -> str:
    """Changes with a table of boxes and with the masks that go with it, there or not."""
    return hashlib.sha256(
        b"".join(f.read_bytes() if f.is_file() else b"-" for f in (boxes, masks))
    ).hexdigest()


def marked(sequence, t: int, value: str | None) -> dict[str, str]:
    """The content of the mark with frame `t` set to its digest, or with None left out."""
    return {k: v for k, v in (_read(sequence) | {str(t): value}).items() if v is not None}


def looked_at(sequence, t: int):
    """Note that a person saw the boxes of frame `t`: from now on they are an annotation as any other."""
    if str(t) in _read(sequence):
        write_json(sequence.weak_path / MARK, marked(sequence, t, None))


def _read(sequence) -> dict[str, str]:
    path = sequence.weak_path / MARK
    return read_json(path) if path.is_file() else {}


def _files(sequence, t: int) -> tuple[Path, Path]:
    return sequence.weak_boxes_path(t), sequence.weak_masks_path(t)
