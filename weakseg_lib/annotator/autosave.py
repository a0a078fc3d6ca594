"""A document and its files in NAME/01_WEAK: read when opened, written after each change."""

import atexit
import threading

from weakseg_lib.annotator.clock import Clock
from weakseg_lib.annotator.document import Document
from weakseg_lib.annotator.lock import Lock, Locked
from weakseg_lib.data.files import read_json, write_json
from weakseg_lib.data.stacks import frame_name
from weakseg_lib.data.weak_files import read_weak, write_weak
from weakseg_lib.errors import InputError

GATHER = 0.3  # s: changes that follow one another this fast are written together
RETRY = 5.0  # s: how long until what could not be written is tried again


class Autosave:
    """Opens the annotation of one frame as a `Document` and writes it, whole, soon after each change.

    sequence, t: the frame. stack: its `Stack`. proposals: the `WeakAnnotation` to start from where there is none on
    disk; it is written with the first change. tell: called with "saved", "saving" or "not saved", and a line that says
    why; from another thread. read_only: do not take the lock, write nothing.

    Attributes: document; clock, a `Clock`; read_only, a line that says why, or "". What cannot be written stays in
    memory and is tried again. Raises InputError as `read_weak` does.
    """

    def __init__(self, sequence, t, stack, proposals=None, tell=lambda state, why: None, read_only=False):
        self.sequence, self.t, self.voxel_size = sequence, t, stack.voxel_size
        number = frame_name(t, sequence.digits)
        self.time_path = sequence.weak_path / f"time{number}.json"
        self.lock = Lock(sequence.weak_path / f".lock{number}.json")
        self.read_only = "opened to look only" if read_only else self._take_lock()
        try:
            is_new = not sequence.weak_boxes_path(t).is_file()
            annotation = proposals if is_new else read_weak(sequence, t, stack.image.shape)
            self.document = Document(stack.image.shape, stack.voxel_size, annotation)
            self.clock = Clock(read_json(self.time_path) if self.time_path.is_file() else {})
        except BaseException:
            self.lock.release()
            raise
        self._written = (0, -1 if is_new else 0)  # versions of the document and of its masks
        self._time_written = self.clock.to_keep()
        self._tell, self._told = tell, None
        self._saving, self._wake, self._stop = threading.Lock(), threading.Event(), threading.Event()
        if not self.read_only:
            atexit.register(self.close)
            threading.Thread(target=self._run, name="annotator", daemon=True).start()

    def changed(self):
        """Have the document written soon."""
        self._say("saving")
        self._wake.set()

    def save(self):
        """Write what is not written yet, now; return whether all of it is on disk (bool)."""
        if self.read_only:
            return True
        with self._saving:
            try:
                self._write()
            except Exception as error:  # whatever it is: the thread must live to try again
                self._say("not saved", f"{error}; your work is kept in memory, next try in {RETRY:.0f} s")
                return False
            self._say("saved")
            return True

    def close(self, reason="closed"):
        """Save and let others annotate; return whether that worked (bool). Afterwards this is read-only."""
        if not self.save():
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
        except Locked as error:
            return str(error)
        except InputError:
            return ""
        for path in (self.sequence.weak_boxes_path(self.t), self.sequence.weak_masks_path(self.t)):
            for half in path.parent.glob(f".{path.stem}.*.tmp{path.suffix}"):  # of a process that was killed
                half.unlink(missing_ok=True)
        return ""

    def _run(self):
        while not self._stop.is_set():
            self._wake.wait(RETRY)
            self._wake.clear()
            self._stop.wait(GATHER)
            self.save()

    def _write(self):
        version, masks, annotation = self.document.snapshot()
        if version != self._written[0]:
            self._say("saving")
            self.lock.take()
            write_weak(self.sequence, self.t, annotation, self.voxel_size, masks != self._written[1])
            self._written = version, masks
        elif not self.lock.held:
            self.lock.take()
        time = self.clock.to_keep()
        # Looking alone leaves no file behind.
        if time != self._time_written and (version or self.time_path.is_file()):
            write_json(self.time_path, time)
            self._time_written = time

    def _say(self, state, why=""):
        if (state, why) != self._told:
            self._told = state, why
            self._tell(state, why)
