"""A hand that draws in the annotator as a person does: with mouse and keys, by what the page shows, and not exactly."""

import re
import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.measure import find_contours

sys.path.append(str(Path(__file__).parents[1] / "tests/e2e"))
from browser import place, wait_for  # noqa: E402

SHAKE = 1.0  # voxels, standard deviation
EVERY = 3  # slices
FACTS = "document.querySelector('.weakseg .facts').innerText"
NUMBER = "document.querySelectorAll('.weakseg li').length"
SAID = "document.querySelector('.weakseg .notice').innerText"


class Hand:
    """Draws what it sees in `labels` (D, H, W) in the annotator of a page, with mouse and keys."""

    def __init__(self, page, labels, voxel_size, seed, pictures):
        self.page, self.labels, self.voxel_size, self.pictures = page, labels, voxel_size, pictures
        self.random = np.random.default_rng(seed)
        self.slips, self.said = 0, []

    def at(self, plane, z, y, x):
        return place(self.page, plane, z, y, x, self.labels.shape, self.voxel_size)

    def picture(self, name):
        self.page.save_picture(self.pictures / f"{name}.png")

    def box_on_screen(self):
        """Number, z0, y0, x0, z1, y1, x1 of the selected box, as the page shows them; None where there is none."""
        found = re.search(r"box (\d+): z (\d+)–(\d+), y (\d+)–(\d+), x (\d+)–(\d+)", self.page.run(FACTS))
        return found and [int(found[i]) for i in (1, 2, 4, 6, 3, 5, 7)]

    def see(self, ask, problem):
        """Wait until the page shows it. What the annotator says meanwhile is kept."""
        found = wait_for(ask, 20, problem, pause=0.05)
        said = self.page.run(SAID)
        if said and said not in self.said:
            self.said.append(said)
        return found

    def go_to_slice(self, z):
        """Turn the wheel over the xy plane until it shows slice `z`."""
        while (now := self.slice_shown()) != z:
            self.page.wheel(*self.at("xy", 0, 40, 40), 100 * np.sign(z - now).item())
            self.see(lambda before=now: self.slice_shown() != before, "the wheel does not turn")

    def slice_shown(self):
        return int(self.page.run("document.querySelector('.weakseg canvas.xy').dataset.shown").split("/")[1])

    def draw_box(self, box):
        """Drag a box in xy, then pull its ends in zy; return its number."""
        z0, y0, x0, z1, y1, x1 = box
        self.go_to_slice((z0 + z1) // 2)
        earlier = self.box_on_screen()
        for _ in range(3):
            number = self.page.run(NUMBER)
            corners = [(y0, x0), ((y0 + y1) / 2, (x0 + x1) / 2), (y1, x1)]
            self.page.drag(*(self.at("xy", 0, *corner) for corner in corners))
            try:
                wait_for(lambda before=number: self.page.run(NUMBER) == before + 1, 3, "no box", pause=0.05)
                break
            except AssertionError:  # the drag did something else: take it back, and try from no selection
                self.slips += 1
                self.picture(f"slip{self.slips}")
                self.page.press("z", 90, modifiers=2)
                self.page.press("Escape", 27)
        self.see(lambda: (self.box_on_screen() or earlier) != earlier, "the new box is not selected")
        for side, z in ((1, z0), (4, z1)):
            now = self.box_on_screen()
            if now[side] != z:
                y, x = (now[2] + now[5]) / 2, (now[3] + now[6]) / 2
                self.page.drag(self.at("zy", now[side], y, x), self.at("zy", (now[side] + z) / 2, y, x),
                               self.at("zy", z, y, x))  # fmt: skip
                self.see(lambda s=side, z=z: self.box_on_screen()[s] == z, f"a handle does not follow to {z}")
        return self.box_on_screen()[0]

    def choose(self, number):
        """Click a box in the list."""
        x, y = self.page.run(
            "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
            "([...document.querySelectorAll('.weakseg li button')]"
            f".find(b => parseInt(b.innerText) === {number}).getBoundingClientRect())"
        )
        self.page.click(x, y)
        self.see(lambda: (self.box_on_screen() or [0])[0] == number, f"the list does not go to {number}")

    def set_brush(self, radius):
        """Press [ or ] until the brush is nearest to a radius, um."""
        for _ in range(40):
            now = float(re.search(r"brush ([\d.]+)", self.page.run(FACTS))[1]) / 2
            if 1 / 1.15 < radius / now < 1.15:
                return
            self.page.press(*("]", 221) if radius > now else ("[", 219))
            self.see(
                lambda n=now: f"brush {2 * n:.1f}" not in self.page.run(FACTS), "the brush stays as it is"
            )

    def paint(self, number, cell):
        """Paint a cell in box `number`: in every third slice a round and some lines across it; then fill."""
        self.choose(number)
        self.page.press("p", 80)
        box = self.box_on_screen()
        true = self.labels == cell
        slices = [z for z in np.flatnonzero(true.any((1, 2))).tolist() if box[1] <= z < box[4]]
        for z in sorted({*slices[::EVERY], slices[-1]}):
            self.go_to_slice(z)
            deep = distance_transform_edt(np.pad(true[z], 1), sampling=self.voxel_size[1:])[1:-1, 1:-1]
            radius = max(0.4 * deep.max(), 0.25)
            self.set_brush(radius)
            before = self.page.run(FACTS)
            for line in strokes(deep, radius, self.voxel_size):
                shaky = line + self.random.normal(0, 0.5 * SHAKE, line.shape)
                self.page.drag(*(self.at("xy", 0, y + 0.5, x + 0.5) for y, x in shaky))
            self.see(lambda b=before: self.page.run(FACTS) != b, "nothing is painted")
        self.picture(f"painted{number}")
        before = self.page.run(FACTS)
        self.page.press("f", 70)
        self.see(lambda: self.page.run(FACTS) != before, "nothing is filled")


def strokes(deep, radius, voxel_size):
    """Lines of a brush in a slice, (n, 2) voxels (y, x) each. deep: um to the outline, (H, W); radius: um."""
    top = np.array(np.unravel_index(deep.argmax(), deep.shape), float)
    lines = [max(find_contours(deep, radius), key=len)[::4]]
    rows = np.flatnonzero((deep > radius).any(1))
    for y in rows[:: max(1, int(1.5 * radius / voxel_size[1]))]:
        columns = np.flatnonzero(deep[y] > radius)
        lines.append(np.array([(y, columns[0]), (y, columns[-1])], float))
    return [line for line in lines if len(line) > 1] or [np.array([top, top + 0.5])]
