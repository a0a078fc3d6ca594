"""The canvas of the stack pictures: one stack from above and from two sides, in true proportions."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from weakseg_lib.data.annotation import boxes_of_labels
from weakseg_lib.measures import as_boxes

FONT, LINE = 10, 1.8
EDGE = [withStroke(linewidth=LINE + 1.4, foreground="black")]  # keeps lines visible on bright cells
MAX_NUMBERS = 40  # more ids than this hide the picture
VIEWS = (("xy", 0, 1, 2), ("xz", 1, 0, 2), ("zy", 2, 1, 0))  # name; axis looked along, downwards, rightwards


def new_figure(size, **options):
    """A figure of (width, height) inches that a notebook shows once, as the value of a cell."""
    figure = plt.figure(figsize=size, **options)
    plt.close(figure)
    return figure


def masks_of_labels(labels, chosen=None):
    """The instances in labels (D, H, W), or the chosen ids of them: ids, boxes, and one bool mask a box."""
    labels = np.asarray(labels)
    ids, boxes = boxes_of_labels(labels)
    kept = np.isin(ids, ids if chosen is None else chosen)
    corners = boxes[kept].astype(int)
    masks = [
        labels[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] == number
        for number, box in zip(ids[kept], corners, strict=True)
    ]
    return ids[kept], corners, masks


class ThreeViews:
    """Three orthogonal views of an image (D, H, W) with axes in micrometres, to draw boxes and outlines on.

    at: voxel (z, y, x) at which the views cut the stack; None shows the brightest voxel along each line of
    sight, and boxes and outlines as they look from there. numbers: whether ids are written; None writes them
    if there are few. legend: leave room for one. The finished picture is `figure`.
    """

    def __init__(self, image, voxel_size, at=None, title=None, numbers=None, legend=False):
        image = np.asarray(image)
        self.voxel_size, self.at, self.numbers = np.asarray(voxel_size, float), at, numbers
        depth, height, width = image.shape * self.voxel_size
        # Axes are placed by hand: only so do three panels keep one scale and touch along their common axes.
        # Margins, in inches, hold the names of the axes, the title and the legend.
        left, bottom, gap, right, top = 0.75, 0.9 if legend else 0.6, 0.16, 0.2, 0.42 if title else 0.15
        scale = min(6.2 / (width + depth), 6.0 / (height + depth))
        size = (width + depth) * scale + left + gap + right, (height + depth) * scale + bottom + gap + top
        self.figure = new_figure(size)
        above, beside = bottom + depth * scale + gap, left + width * scale + gap
        corners = {"xy": (left, above), "xz": (left, bottom), "zy": (beside, above)}
        # One grey scale for all three. It ends short of white, so that lines stand out from bright cells.
        dark, bright = np.percentile(image[:: 1 + len(image) // 16], 1), np.percentile(image.max(0), 99.8)
        bright += 0.25 * (bright - dark)
        self.axes = {}
        for name, axis, down, across in VIEWS:
            wide, tall = (image.shape[a] * self.voxel_size[a] for a in (across, down))
            place = np.array([*corners[name], wide * scale, tall * scale]) / [*size, *size]
            axes = self.axes[name] = self.figure.add_axes(place)
            plane = _upright(image.max(axis) if at is None else image.take(at[axis], axis), down, across)
            axes.imshow(plane, "gray", vmin=dark, vmax=bright, extent=(0, wide, tall, 0), aspect="auto")
            axes.set(xlim=(0, wide), ylim=(tall, 0))
            axes.tick_params(labelsize=FONT, labelbottom=name != "xy", labelleft=name != "zy")
            axes.xaxis.set_major_locator(MaxNLocator(2 + int(1.5 * wide * scale)))
            axes.yaxis.set_major_locator(MaxNLocator(2 + int(1.5 * tall * scale), prune="lower"))
            if at is not None:  # where the other two views cut
                middle = (np.asarray(at) + 0.5) * self.voxel_size
                axes.axvline(middle[across], color="white", lw=0.8, alpha=0.5)
                axes.axhline(middle[down], color="white", lw=0.8, alpha=0.5)
        self.axes["xy"].set_ylabel("y (um)", fontsize=FONT)
        self.axes["xz"].set_ylabel("z (um)", fontsize=FONT)
        self.axes["xz"].set_xlabel("x (um)", fontsize=FONT)
        self.axes["zy"].set_xlabel("z (um)", fontsize=FONT)
        if title:
            self.figure.suptitle(title, fontsize=FONT + 1, y=1 - 0.1 / size[1], va="top")

    def add_boxes(self, ids, boxes, color, linestyle):
        """Draw boxes (N, 6) as rectangles; a view that cuts the stack shows those it cuts."""
        boxes = as_boxes(boxes)
        for number, box in zip(ids, boxes, strict=True):
            corner, sides = box[:3] * self.voxel_size, (box[3:] - box[:3]) * self.voxel_size
            for name, axis, down, across in VIEWS:
                if self.at is not None and not box[axis] <= self.at[axis] + 0.5 < box[axis + 3]:
                    continue
                frame = (corner[across], corner[down]), sides[across], sides[down]
                line = {"color": color, "linestyle": linestyle, "linewidth": LINE, "path_effects": EDGE}
                self.axes[name].add_patch(Rectangle(*frame, fill=False, **line))
                self._add_number(name, number, corner + sides / 2, len(boxes))

    def add_outlines(self, ids, boxes, masks, color, linestyle, fill=0.0):
        """Draw the outlines of masks, one bool array in each box; fill: opacity of their inside."""
        for number, box, mask in zip(ids, boxes, masks, strict=True):
            corner = np.asarray(box[:3])
            for name, axis, down, across in VIEWS:
                plane = self._section(mask, corner, axis)
                if plane is None or not plane.any():
                    continue
                plane = np.pad(_upright(plane, down, across), 1).astype(float)
                y, x = (
                    (corner[a] - 0.5 + np.arange(n)) * self.voxel_size[a]
                    for a, n in zip((down, across), plane.shape, strict=True)
                )
                if fill:
                    self.axes[name].contourf(x, y, plane, [0.5, 2], colors=[color], alpha=fill)
                line = {"colors": [color], "linestyles": [linestyle], "linewidths": LINE}
                self.axes[name].contour(x, y, plane, [0.5], **line).set_path_effects(EDGE)
                self._add_number(name, number, (corner + box[3:]) / 2 * self.voxel_size, len(ids))

    def add_legend(self, *handles):
        """Explain the lines below the picture."""
        place = {"loc": "lower center", "ncols": len(handles)}
        self.figure.legend(handles=handles, **place, fontsize=FONT, frameon=False, handlelength=3)

    def _section(self, mask, corner, axis):
        """What a view along `axis` shows of a mask: its shadow, its cut, or None where it is not cut."""
        if self.at is None:
            return mask.any(axis)
        depth = self.at[axis] - corner[axis]
        return mask.take(depth, axis) if 0 <= depth < mask.shape[axis] else None

    def _add_number(self, view, number, centre, count):
        if view == "xy" and (count <= MAX_NUMBERS if self.numbers is None else self.numbers):
            text = {"color": "white", "fontsize": FONT, "ha": "center", "va": "center", "clip_on": True}
            self.axes[view].text(centre[2], centre[1], str(number), path_effects=EDGE, **text)


def _upright(plane, down, across):
    """A plane whose two axes are in the order of the stack, turned so that `down` is its first."""
    return plane.T if down > across else plane
