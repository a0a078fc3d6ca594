"""What the annotator says of the time that was worked."""

from weakseg_lib.annotator.clock import Clock
from weakseg_lib.annotator.document import Instance

BOX = (0, 0, 0, 4, 4, 4)


def instances(boxes, masks):
    """Boxes numbered from 1; the first of them have masks."""
    return {id_: Instance(BOX, voxels=9 * (id_ <= masks)) for id_ in range(1, boxes + 1)}


def test_the_report_sets_the_time_beside_the_papers():
    clock = Clock(
        {"boxes": 60.0, "masks": 240.0, "boxes_by_hand": [1, 2, 3, 4, 5, 6], "masks_by_hand": [1, 2]}
    )
    line = clock.report(instances(6, 2))
    assert line.startswith("6 boxes, 2 masks, 5.0 min")
    assert "12.0 times a box (120 s : 10 s)" in line
    assert line.endswith(
        "as the paper counts (a mask takes 30 times a box): 11.4 min"
    )  # (6 + 2 * 30) * 10.4 s
    assert Clock().report(instances(1, 0)).count("times a box") == 1  # the paper's


def test_proposals_are_not_counted_as_if_they_were_drawn():
    clock = Clock()
    clock.tick(0), clock.tick(10, "boxes", 3)  # one of 17 proposals is corrected
    for id_ in (1, 2, 3, 4):
        clock.tick(10 + 15 * id_, "masks", id_)
    assert "1.5 times a box (15 s : 10 s)" in clock.report(instances(17, 4))
    assert Clock({"boxes": 10, "masks": 60}).report(instances(17, 4)).count("times a box") == 1  # the paper's


def test_what_was_drawn_and_removed_is_not_counted():
    clock = Clock({"boxes": 20, "masks": 60, "boxes_by_hand": [1, 9], "masks_by_hand": [1, 2, 9]})
    assert "3.0 times a box (60 s : 20 s)" in clock.report(instances(2, 1))


def test_it_goes_on_from_what_was_kept():
    clock = Clock()
    clock.tick(0), clock.tick(9.96, "boxes", 7), clock.tick(20, "masks", 7), clock.tick(21)
    kept = clock.to_keep()
    assert kept == {"boxes": 10, "masks": 10, "looking": 1, "boxes_by_hand": [7], "masks_by_hand": [7]}
    assert Clock(kept).to_keep() == kept
