"""The annotator in a notebook: answers what its page (annotator.js) asks for, and edits as it says."""

import io
import time
from base64 import b64encode
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from weakseg_lib.annotator.autosave import Autosave
from weakseg_lib.data.stacks import Sequence, frame_name
from weakseg_lib.errors import InputError
from weakseg_lib.plots import JPEG, show_annotation

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise InputError(
        "anywidget", "is not installed", 'run `pip install "weakseg_lib[annotator]"` and restart the kernel'
    ) from error

HERE = Path(__file__).parent
SCRIPTS = ("slices.js", "planes.js", "page.js", "pointer.js", "keys.js", "annotator.js")
# What the page may do to the document, and what the time for it is spent on.
EDITS = {"add_rectangle": "boxes", "set_box": "boxes", "delete": "boxes", "paint": "masks", "fill": "masks"}
EDITS |= {"undo": None, "redo": None}
TAKEN_OVER = "opened again in another cell of this notebook"
_OPEN = WeakValueDictionary()  # of this process: folder, frame, to look only -> Annotator


class Annotator(anywidget.AnyWidget):
    """Draw boxes and masks of frame `t` of a sequence: three planes, mouse or keyboard; `?` shows the keys.

    sequence: `Sequence` or the path of its folder NAME/01. proposals: a `WeakAnnotation` to correct, where the frame
    has none yet. read_only: to look only. voxel_size: (z, y, x) um, for images that do not say it.

    Everything is written to NAME/01_WEAK within two seconds. A frame that another process annotates is shown
    read-only; a second annotator in the same notebook takes over from the first.

    Attributes: `document` holds the boxes and masks, `read_only` says why nothing can be changed ("" if it can).
    Raises InputError for a sequence, frame or annotation that cannot be read, and an image of one value.
    """

    _esm = "\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
    _css = HERE / "annotator.css"
    info = traitlets.Dict().tag(sync=True)

    def __init__(self, sequence, t=0, proposals=None, read_only=False, voxel_size=None):
        sequence = sequence if isinstance(sequence, Sequence) else Sequence(sequence)
        stack = sequence.read(t, voxel_size=voxel_size)
        self._image, grey, low, high = _grey(stack.image)
        self._status, self._editor, self._later = {"state": "saved", "why": ""}, None, None
        self._drawn = {}  # view and number of the edit that drew a box -> id, None where it was refused
        key = sequence.weak_path.resolve(), t, read_only
        earlier = _OPEN.get(key)
        if earlier and not earlier._files.close(TAKEN_OVER):
            raise InputError(
                sequence.weak_path, "is not saved yet by the annotator above", "make that possible first"
            )
        self._files = Autosave(sequence, t, stack, proposals, self._tell, read_only)
        _OPEN[key] = self
        if earlier:
            earlier._hand_over(self)
        super().__init__()  # only now: what cannot be opened leaves no widget behind
        self.info = {
            "title": f"{sequence.path.parent.name}/{sequence.name}, frame {frame_name(t, sequence.digits)}",
            "shape": list(stack.image.shape),
            "voxel_size": list(stack.voxel_size),
            "window": [low, high],
            "most": int(self._image.max()),
            "grey": grey,
            "predicted_masks": self._files.predicted_masks,
        }
        self.on_msg(self._receive)

    def __repr__(self):
        boxes, masks = len(self.document.instances), self.document.mask_count
        return f"Annotator of {self.info['title']}: {boxes} boxes, {masks} masks"

    def _repr_mimebundle_(self, **kwargs):
        # Pages without a kernel (a saved HTML, a code host) can't show a widget and take the picture instead.
        data, *about = super()._repr_mimebundle_(**kwargs)
        file, voxel_size = io.BytesIO(), self.info["voxel_size"]
        figure = show_annotation(self._last()._image, voxel_size, self.document.annotation())
        figure.savefig(file, format="jpeg", pil_kwargs=JPEG)
        return data | {"image/jpeg": b64encode(file.getvalue()).decode()}, *about

    @property
    def document(self):
        return self._last()._files.document

    @property
    def read_only(self):
        return TAKEN_OVER if self._later else self._files.read_only

    def close(self):
        """Save, let others annotate, and remove the widget."""
        if self.comm is not None and not self._later and not self._files.close():
            raise InputError(self._files.sequence.weak_path, self._status["why"], "the annotator stays open")
        super().close()

    def _hand_over(self, later):
        """Show what another annotator shows: notebooks keep every widget, and image and masks are large."""
        self._later, self._image, self._files = later, None, None
        self._send_state()

    def _last(self):
        """The annotator that has the image and the files: this one, or the one that took over from it."""
        return self._later._last() if self._later else self

    def _tell(self, state, why):
        self._status = {"state": state, "why": why}
        self.send({"type": "status", **self._status})

    def _receive(self, _, message, buffers):
        kind = message.get("type")
        if kind in ("slice", "mask"):
            getattr(self, f"_send_{kind}")(message["axis"], message["index"])
            return
        view = message.get("view")
        if kind == "hello":
            self._editor = self._editor or view
        elif kind == "take":
            self._editor = view
        elif kind == "bye":
            self._editor = None if self._editor == view else self._editor
        elif kind == "active":
            self._last()._files.clock.tick(time.monotonic())
            return
        elif kind == "save" and not self._later:
            self._files.save(looked=True)
        elif kind == "edit" and self._editor in (None, view) and not self.read_only:
            self._editor = view
            self._edit(message)
            return
        self._send_state(answer=message)

    def _edit(self, message):
        work, how, selected, line = EDITS[message["do"]], message["how"], None, ""
        before, masks = self.document.version, self.document.mask_version
        try:
            if "id_" in how:
                how = how | {"id_": self._id(how["id_"], message["view"])}
            made = getattr(self.document, message["do"])(**how)
            selected, line = (None, made) if isinstance(made, str) else (made, "")
        except InputError as error:
            line = str(error)
        if message["do"] == "add_rectangle":
            self._drawn[message["view"], message.get("number")] = selected
        if self.document.version != before:
            self._files.clock.tick(time.monotonic(), work, how.get("id_", selected))
            self._files.changed()
        self._send_state(selected, line, self.document.mask_version != masks, message)

    def _id(self, name, view):
        """The id of a box. A page that has not heard of its new box yet calls it minus the number of the edit."""
        id_ = name if name > 0 else self._drawn.get((view, -name))
        if id_ is None:
            raise InputError("box", "was not made", "draw it again, then paint in it")
        return id_

    def _send_state(self, selected=None, problem="", new_masks=False, answer=None):
        """Tell the page what there is, and what came of its edit; `answer`: the message that asked for it."""
        answer = answer or {}
        document = self.document
        self.send(
            {
                "type": "state",
                "instances": [[id_, *one.box, one.voxels] for id_, one in sorted(document.instances.items())],
                "undo": document.can_undo,
                "redo": document.can_redo,
                "read_only": self.read_only,
                "editor": self._editor,
                "counts": self._last()._files.clock.report(document.instances),
                "selected": selected,
                "problem": problem,
                "new_masks": new_masks,
                "view": answer.get("view"),
                "number": answer.get("number", 0),
                **self._status,
            }
        )

    def _send_slice(self, axis, index):
        image = self._last()._image
        self.send({"type": "slice", "axis": axis, "index": index}, [_plane(image, axis, index).data])

    def _send_mask(self, axis, index):
        """The part of a slice that has masks: its corner and size, and the ids (int32)."""
        plane = _plane(self.document.masks, axis, index)
        rows, columns = (np.flatnonzero(plane.any(a)) for a in (1, 0))
        part = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else plane[:0, :0]
        corner = [int(rows[0]), int(columns[0])] if len(rows) else [0, 0]
        message = {"type": "mask", "axis": axis, "index": index, "corner": corner, "size": list(part.shape)}
        self.send(message, [np.ascontiguousarray(part, np.int32).data])


def _plane(volume, axis, index):
    """A slice as the page shows it: y down and x to the right; z down in zx, to the right in zy."""
    plane = volume[(slice(None),) * axis + (min(max(int(index), 0), volume.shape[axis] - 1),)]
    return np.ascontiguousarray(plane.T if axis == 2 else plane)


def _grey(image):
    """The image as uint8 or uint16, for a page has no other numbers; offset and step, and the window to begin with.

    The image's own value is offset + step * number (a dict of both). The window (low, high) is in numbers, int.
    """
    offset, step = 0.0, 1.0
    if image.dtype not in (np.uint8, np.uint16):
        offset, high = float(image.min()), float(image.max())
        if image.dtype.kind == "f" or high - offset > 65535:
            step = (high - offset) / 65535
        numbers = np.empty(image.shape, np.uint16)
        for z, plane in enumerate(image):  # not the whole stack at once, as 64 bits take much memory
            numbers[z] = np.clip(np.rint((plane.astype(np.float64) - offset) / step), 0, 65535)
        image = numbers
    few = image[:: 1 + len(image) // 16]
    low, high = (int(np.percentile(few, share)) for share in (1, 99.8))
    return image, {"offset": offset, "step": step}, low, max(high, low + 1)
