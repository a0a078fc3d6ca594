"""Which tables of boxes a program proposed and nobody looked at since: NAME/01_WEAK/proposed.json.

For each such frame the file holds a digest of its table and masks, after that of the proposals before them, where there
were some. A frame counts as looked at once `write_weak` saved it, or once either file has changed in any other way, in
a spreadsheet for example.
"""

import hashlib
from pathlib import Path

from weakseg_lib.data.files import read_json, write_json

MARK = "proposed.json"


def proposed_frames(sequence) -> list[int]:
    """The frames of a `Sequence` whose boxes are proposals that nobody looked at. Raises InputError for a damaged
    mark."""
    marks = _read(sequence)
    return [t for t in sequence.frames if _is_proposed(sequence, t, marks)]


def is_proposed(sequence, t: int) -> bool:
    """Whether the boxes of frame `t` are proposals that nobody looked at. Raises as `proposed_frames`."""
    return _is_proposed(sequence, t, _read(sequence))


def weak_paths(sequence, t: int) -> tuple[Path, Path]:
    """The table and the masks of frame `t`, there or not."""
    return sequence.weak_boxes_path(t), sequence.weak_masks_path(t)


def digest(boxes: Path, masks: Path | None) -> str:
    """Changes with a table of boxes and with the masks that go with it, there or not."""
    return hashlib.sha256(
        b"".join(f.read_bytes() if f and f.is_file() else b"-" for f in (boxes, masks))
    ).hexdigest()


def mark(sequence, t: int, value: str):
    """Note that frame `t` has, or will have in a moment, proposals of this digest."""
    marks = _read(sequence)
    # Those that are there stay marked until the new ones have taken their place: that may fail.
    here = [digest(*weak_paths(sequence, t))] if _is_proposed(sequence, t, marks) else []
    write_json(sequence.weak_path / MARK, marks | {str(t): " ".join([*here, value])})


def looked_at(sequence, t: int):
    """Note that a person saw the boxes of frame `t`: from now on they are an annotation as any other."""
    marks = _read(sequence)
    if marks.pop(str(t), None):
        write_json(sequence.weak_path / MARK, marks)


def _read(sequence) -> dict[str, str]:
    path = sequence.weak_path / MARK
    return read_json(path) if path.is_file() else {}


def _is_proposed(sequence, t, marks):
    return str(t) in marks and digest(*weak_paths(sequence, t)) in str(marks[str(t)]).split()
