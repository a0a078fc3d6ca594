"""A document and its files in NAME/01_WEAK: read when opened, written after each change."""

import atexit
import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from weakseg_lib.annotator.clock import Clock
from weakseg_lib.annotator.document import Document
from weakseg_lib.data.files import DISK_FULL, read_json, write_json
from weakseg_lib.data.lock import Locked, frame_lock
from weakseg_lib.data.proposed import digest, is_proposed, looked_at, weak_paths
from weakseg_lib.data.stacks import frame_name
from weakseg_lib.data.weak_files import (
    ChangedOnDisk,
    put_back_weak,
    read_weak,
    replacing_weak,
    write_weak_files,
)
from weakseg_lib.errors import InputError

GATHER = 0.3  # s: changes that follow one another this fast are written together
RETRY = 5.0  # s: how long until what could not be written is tried again


@dataclass(frozen=True)
class _Mine:
    """What is drawn here, beside files that another program changed."""

    paths: tuple[Path, Path]  # of boxes and masks
    version: int  # of the document
    digest: str


class Autosave:
    """Opens the annotation of one frame as a `Document` and writes it, whole, soon after each change.

    sequence, t: the frame. stack: its `Stack`. proposals: the `WeakAnnotation` to start from where there is none on
    disk; it is written with the first change. tell: called with "saved", "saving" or "not saved", and a line that says
    why; also from another thread. read_only: do not take the lock, write nothing.

    Attributes: document; clock, a `Clock`; read_only, a line that says why, or ""; predicted_masks, how many masks a
    program made and nobody has looked at. What cannot be written stays in memory and is tried again. Where another
    program changed the files, they are left as they are, and what is drawn here goes into boxes000.mine.csv and
    mask000.mine.tif beside them. Raises InputError as `read_weak` does.
    """

    def __init__(self, sequence, t, stack, proposals=None, tell=lambda state, why: None, read_only=False):
        self.sequence, self.t, self.voxel_size = sequence, t, stack.voxel_size
        number = frame_name(t, sequence.digits)
        self.time_path = sequence.weak_path / f"time{number}.json"
        self.lock = frame_lock(sequence, t)
        self._tell, self._told = tell, None
        self.read_only = "opened to look only" if read_only else self._take_lock()
        try:
            # Before they are read: then a change in between is noticed, too.
            self._on_disk = digest(*weak_paths(sequence, t))
            is_new = not sequence.weak_boxes_path(t).is_file()
            annotation = proposals if is_new else read_weak(sequence, t, stack.image.shape)
            self.document = Document(stack.image.shape, stack.voxel_size, annotation)
            self.clock = Clock(read_json(self.time_path) if self.time_path.is_file() else {})
        except BaseException:
            self.lock.release()
            raise
        unseen = is_new or is_proposed(sequence, t)
        self.predicted_masks = self.document.mask_count if unseen else 0
        self._written = (0, -1 if is_new else 0)  # versions of the document and of its masks
        self._time_written = self.clock.to_keep()
        self._looked = False  # a person said that all is right, and that is not noted yet
        self._mine = None  # where another program changed the files: a `_Mine`
        self._saving, self._wake, self._stop = threading.Lock(), threading.Event(), threading.Event()
        if not self.read_only:
            atexit.register(self.close)
            threading.Thread(target=self._run, name="annotator", daemon=True).start()

    def changed(self):
        """Have the document written soon."""
        self._say("saving")
        self._wake.set()

    def save(self, looked=False):
        """Write what is not written yet, now; return whether all of it is in its place on disk (bool).

        looked: a person says that the boxes are right as they are: proposals are then an annotation as any other.
        """
        if self.read_only:
            return True
        with self._saving:
            self._looked = self._looked or looked
            try:
                self._write()
            except ChangedOnDisk as error:
                self._say("not saved", f"{error.problem}; {error.fix}")
                return False
            except Exception as error:  # whatever it is: the thread must live to try again
                self._say("not saved", _not_yet(error))
                return False
            self._say("saved")
            return True

    def close(self, reason="closed"):
        """Save and let others annotate; return whether that worked (bool). Afterwards this is read-only.

        What is kept beside files that another program changed is safe, too.
        """
        if not self.save() and not (self._mine and self._mine.version == self.document.version):
            return False
        self._stop.set()
        self._wake.set()
        with self._saving:
            self.read_only = self.read_only or reason
            self.lock.release()
        atexit.unregister(self.close)
        return True

    def _take_lock(self):
        """Return why the lock cannot be had; "" where it can, or where only the disk is to blame: that may pass."""
        try:
            self.lock.take()
            put_back_weak(self.sequence, self.t)
        except Locked as error:
            return str(error)
        except InputError as error:
            self._say("not saved", _not_yet(error))
        return ""

    def _run(self):
        while not self._stop.is_set():
            self._wake.wait(RETRY)
            self._wake.clear()
            self._stop.wait(GATHER)
            self.save()

    def _write(self):
        version, masks, annotation = self.document.snapshot()
        self.lock.take()
        if version != self._written[0] or (self._looked and self._is_unseen()):
            self._refuse_changed(version, annotation)
            self._say("saving")
            frame, changed = (self.sequence, self.t), masks != self._written[1]
            with replacing_weak(*frame, annotation, self.voxel_size, changed, self._on_disk) as written:
                pass
            self._on_disk, self._mine = written, None
            looked_at(*frame)
            self._written = version, masks
        self._looked = False
        time = self.clock.to_keep()
        # Looking alone leaves no file behind.
        if time != self._time_written and (version or self.time_path.is_file()):
            write_json(self.time_path, time)
            self._time_written = time

    def _is_unseen(self):
        """Whether there are proposals that are not marked as looked at on disk (bool)."""
        new = not self.sequence.weak_boxes_path(self.t).is_file()
        return is_proposed(self.sequence, self.t) or (new and bool(self.document.instances))

    def _refuse_changed(self, version, annotation):
        """Where the files are not those that were read or written here last, leave them and write ours beside them."""
        paths = weak_paths(self.sequence, self.t)
        found = digest(*paths)
        if self._mine and found == self._mine.digest:
            self._on_disk = found  # ours have been put in their place by hand
        if found == self._on_disk:
            return
        mine = self._mine.paths if self._mine else _free_names(paths)
        if not self._mine or self._mine.version != version:
            write_weak_files(*mine, annotation, self.voxel_size)
            self._mine = _Mine(mine, version, digest(*mine))
        (boxes, masks), (boxes_there, masks_there) = ([path.name for path in both] for both in (mine, paths))
        yours, rename = boxes, f"rename {boxes} to {boxes_there}"
        if annotation.masks is not None:
            yours, rename = f"{boxes} and {masks}", f"{rename} and {masks} to {masks_there}"
        elif paths[1].is_file():
            rename += f", remove {masks_there}"
        fix = (
            f"yours is in {yours}. Run the cell again to go on with what is in {boxes_there} now; "
            f"to go on with yours, {rename}, and run it then"
        )
        raise ChangedOnDisk(paths[0], "changed on disk by another program", fix)

    def _say(self, state, why=""):
        if (state, why) != self._told:
            self._told = state, why
            self._tell(state, why)


def _not_yet(error):
    """A line on what could not be written and will be, once that is possible."""
    line, cause = str(error), error
    while cause.__cause__:
        cause = cause.__cause__
    if isinstance(error, InputError) and isinstance(cause, OSError):  # its fix is for a command that ended
        fix = "free some space" if cause.errno in (*DISK_FULL, None) else "allow writing there"
        line = f"{error.where}: {error.problem}; {fix}"
    keep = "Do not restart the kernel: your work is in its memory"
    return f"{line}: it is tried again every {RETRY:.0f} s. {keep}"


def _free_names(paths):
    """boxes000.mine.csv and mask000.mine.tif, or with the first number that makes both names free."""
    for number in count(1):
        word = f".mine{number if number > 1 else ''}"
        names = tuple(path.with_name(path.stem + word + path.suffix) for path in paths)
        if not any(name.exists() for name in names):
            return names
