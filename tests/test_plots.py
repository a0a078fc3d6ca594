"""Pictures: that they show what they are given, where it is, in true proportions, and also without colour."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text

from weakseg_lib import plots
from weakseg_lib.data.annotation import annotate, boxes_of_labels
from weakseg_lib.errors import InputError

matplotlib.use("agg")

SHAPE, VOXEL_SIZE = (8, 30, 40), (1.0, 0.5, 0.25)
LABELS = np.zeros(SHAPE, np.int32)
for number, (z0, y0, x0, z1, y1, x1) in {3: (1, 2, 4, 4, 10, 12), 7: (3, 15, 20, 7, 25, 30)}.items():
    LABELS[z0:z1, y0:y1, x0:x1] = number
IMAGE = np.random.default_rng(0).normal(100, 10, SHAPE) + 500 * (LABELS > 0)
BOXES = boxes_of_labels(LABELS)[1]


def view(figure, name):
    """The axes of one view; they are made in this order."""
    return figure.axes[["xy", "xz", "zy"].index(name)]


def outlines(axes):
    """(x0, x1, y0, y1), colour and line style of every outline in a view."""
    found = []
    for contour in (
        child for child in axes.get_children() if isinstance(child, ContourSet) and not child.filled
    ):
        vertices = np.concatenate([path.vertices for path in contour.get_paths()])
        (x0, y0), (x1, y1) = vertices.min(0), vertices.max(0)
        style = contour.get_linestyle()[0]
        found.append(((x0, x1, y0, y1), to_hex(contour.get_edgecolor()[0]).upper(), style))
    return found


def rectangles(axes):
    patches = axes.patches
    return [(p.get_x(), p.get_x() + p.get_width(), p.get_y(), p.get_y() + p.get_height()) for p in patches]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_three_views_have_one_scale():
    figure = plots.show_stack(IMAGE, VOXEL_SIZE)
    assert isinstance(figure, Figure)
    inches = figure.get_size_inches()
    um = {"xy": (10, 15), "xz": (10, 8), "zy": (8, 15)}  # 40 x 0.25, 30 x 0.5, 8 x 1
    scales = []
    for name, size in um.items():
        box = view(figure, name).get_position()
        scales += [box.width * inches[0] / size[0], box.height * inches[1] / size[1]]
        assert view(figure, name).get_xlim() == (0, size[0]) and view(figure, name).get_ylim() == (size[1], 0)
    assert np.ptp(scales) < 1e-9 * scales[0]


def test_outlines_and_boxes_lie_on_the_edges_of_the_voxels():
    # Label 3: z 1..4, y 2..10, x 4..12 voxels of 1, 0.5 and 0.25 um.
    figure = plots.show_stack(IMAGE, VOXEL_SIZE, boxes=BOXES, labels=LABELS)
    for name, edges in {"xy": (1, 3, 1, 5), "xz": (1, 3, 1, 4), "zy": (1, 4, 1, 5)}.items():
        assert outlines(view(figure, name))[0][0] == pytest.approx(edges)
        assert rectangles(view(figure, name))[0] == pytest.approx(edges)
        assert len(outlines(view(figure, name))) == len(rectangles(view(figure, name))) == 2


def test_a_cut_shows_what_it_cuts():
    # z 6 cuts label 7 alone, y 5 and x 5 label 3 alone.
    figure = plots.show_stack(IMAGE, VOXEL_SIZE, boxes=BOXES, labels=LABELS, at=(6, 5, 5))
    for name, left in {"xy": 20 * 0.25, "xz": 4 * 0.25, "zy": 1 * 1.0}.items():
        (outline,), (rectangle,) = outlines(view(figure, name)), rectangles(view(figure, name))
        assert outline[0][0] == pytest.approx(left) and rectangle[0] == pytest.approx(left)
    plane = view(figure, "xz").images[0].get_array()
    assert np.array_equal(plane, IMAGE[:, 5, :])
    assert np.array_equal(view(figure, "zy").images[0].get_array(), IMAGE[:, :, 5].T)


def test_ids_are_written_once_if_there_are_few():
    def numbers(figure):
        return [text.get_text() for axes in figure.axes for text in axes.texts]

    assert numbers(plots.show_stack(IMAGE, VOXEL_SIZE, labels=LABELS)) == ["3", "7"]
    assert numbers(plots.show_stack(IMAGE, VOXEL_SIZE, labels=LABELS, numbers=False)) == []
    many = np.tile(BOXES, (30, 1))
    assert numbers(plots.show_stack(IMAGE, VOXEL_SIZE, boxes=many)) == []


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_annotation_shows_every_box_and_fills_the_masks(share):
    annotation = annotate(LABELS, share, seed=0)
    figure = plots.show_annotation(IMAGE, VOXEL_SIZE, annotation)
    masked = int(2 * share)
    assert len(rectangles(view(figure, "xy"))) == 2
    filled = [child for child in view(figure, "xy").get_children() if getattr(child, "filled", False)]
    assert len(filled) == masked
    assert legend(figure) == ["box: 2", f"box and mask: {masked}"]


def test_outcome_draws_hits_misses_and_false_alarms_apart():
    predicted = np.zeros_like(LABELS)
    predicted[LABELS == 3] = 12  # found; 7 is missed
    predicted[0:2, 20:28, 2:8] = 5  # nothing is there
    figure = plots.show_outcome(IMAGE, VOXEL_SIZE, predicted, LABELS)
    assert legend(figure) == ["found: 1", "missed: 1", "false alarms: 1"]
    drawn = outlines(view(figure, "xy"))
    assert [edges[0] for edges, _, _ in drawn] == pytest.approx([1.0, 5.0, 0.5])
    assert [color for _, color, _ in drawn] == [plots.SKY, plots.ORANGE, plots.VERMILION]
    assert len({str(style) for _, _, style in drawn}) == 3  # told apart without colour too
    assert [text.get_text() for text in view(figure, "xy").texts] == ["12", "7", "5"]


def test_outcome_of_boxes():
    figure = plots.show_outcome(IMAGE, VOXEL_SIZE, BOXES[:1], BOXES, ids=([40], [3, 7]))
    assert legend(figure) == ["found: 1", "missed: 1", "false alarms: 0"]
    assert [text.get_text() for text in view(figure, "xy").texts] == ["40", "7"]
    assert len({patch.get_linestyle() for patch in view(figure, "xy").patches}) == 2


def test_outcome_of_nothing():
    nothing = np.zeros_like(LABELS)
    assert legend(plots.show_outcome(IMAGE, VOXEL_SIZE, nothing, nothing)) == [
        "found: 0",
        "missed: 0",
        "false alarms: 0",
    ]


def write_log(path, rows=200):
    lines = ["step,seconds,lr,loss,loss_class,loss_box,loss_mask"]
    for step in range(1, rows + 1):
        mask = f"{1 / step}" if step % 4 else ""  # steps without a masked instance have no mask loss
        lines.append(f"{step},{step * 0.6},{0.003},{3 / step},{1 / step},{1 / step},{mask}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_curves(tmp_path):
    figure = plots.plot_curves(write_log(tmp_path / "log.csv"))
    assert legend(figure) == ["total", "class", "box", "mask"]
    top, bottom = figure.axes
    thick = [line for line in top.lines if line.get_linewidth() == 2]
    assert len({line.get_linestyle() for line in thick}) == 4
    for line in top.lines:
        assert np.isfinite(line.get_ydata()).all()
    assert "200, after 2.0 min" in bottom.get_xlabel()
    # 3 / step falls and is convex, so every running mean lies within the values it is taken from.
    mean = thick[0].get_ydata()
    assert len(mean) == 195 and (np.diff(mean) < 0).all() and 3 / 200 < mean[-1] < 3 / 195
    assert thick[0].get_xdata()[[0, -1]].tolist() == [3, 197]  # the middles of 1..6 and 195..200


def test_curves_of_one_step(tmp_path):
    assert plots.plot_curves(write_log(tmp_path / "log.csv", rows=1)).axes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file"),
        ("", "cannot be read"),
        ("step,seconds,lr,loss\n", "cannot be read"),
        ("step,loss\n1,2\n", "no column seconds, lr"),
        ("step,seconds,lr,loss\n1,2,3,x\n", "cannot be read"),
    ],
)
def test_bad_logs(tmp_path, text, problem):
    path = tmp_path / "log.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"log.csv: .*{problem}"):
        plots.plot_curves(path)


def scores(first, second):
    keys = ("detection_f1", "segmentation_f1", "object_f1", "ctc_seg")
    groups = {"01": dict.fromkeys(keys, first), "02": dict.fromkeys(keys, second)}
    return {"groups": groups, "mean": dict.fromkeys(keys, (first + second) / 2)}


def test_scores():
    figure = plots.plot_scores({"A": scores(0.9, 0.8), "B": scores(0.7, 0.6)})
    axes = figure.axes[0]
    assert legend(figure) == ["A", "B"]
    assert [text.get_text() for text in axes.texts] == ["0.850", "0.650"] * 4
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["Detection F1", "Segmentation F1"]


def test_scores_leave_out_what_a_result_has_not():
    boxes_only = {"groups": {"01": {"detection_f1": 0.9}}, "mean": {"detection_f1": 0.9}}
    undefined = {"groups": {"01": {"ctc_seg": None}}, "mean": {"ctc_seg": None}}
    many = {f"{i}": scores(0.5, 0.6) for i in range(7)}
    figure = plots.plot_scores({"boxes only": boxes_only, "undefined": undefined} | many)
    assert len(figure.axes[0].texts) == 1 + 7 * 4


def test_letters_are_large_enough_for_half_size(tmp_path):
    for figure in (
        plots.show_outcome(IMAGE, VOXEL_SIZE, LABELS, LABELS, title="t"),
        plots.plot_curves(write_log(tmp_path / "log.csv")),
        plots.plot_scores({"A": scores(0.9, 0.8)}),
    ):
        assert all(text.get_fontsize() >= 9 for text in figure.findobj(Text) if text.get_text())


def test_figures_are_left_to_the_one_who_asked_for_them(tmp_path):
    """No figure stays open: a notebook would show it a second time, and a loop would pile them up."""
    before = plt.get_fignums()
    plots.show_stack(IMAGE, VOXEL_SIZE)
    plots.plot_curves(write_log(tmp_path / "log.csv"))
    assert plt.get_fignums() == before


def test_save_figure_leaves_no_half_file(tmp_path, monkeypatch):
    path = plots.save_figure(plots.show_stack(IMAGE, VOXEL_SIZE), tmp_path / "new" / "stack.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    whole = path.read_bytes()

    def half(self, name, **options):
        with open(name, "wb") as file:
            file.write(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(InputError, match="stack.png: no space left"):
        plots.save_figure(plots.show_stack(IMAGE, VOXEL_SIZE), path)
    assert path.read_bytes() == whole and list(path.parent.iterdir()) == [path]
