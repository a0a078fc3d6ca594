"""Nuclei that live: they grow, divide, move and push each other aside. Lengths in um, time in frames.

Vectors are (z, y, x). A nucleus is an ellipsoid with low-order bumps, drawn in its own coordinates `u`
(turned with it and divided by its semi-axes, so its surface is near |u| = 1). Its chromatin lives in `u` too,
and is therefore the same texture in the next frame, wherever the nucleus went and however it turned.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

FLATNESS = 0.8  # height over width: the real set's boxes are 17-31 slices of 0.2 um by 34-62 px of 0.125 um
MITOSIS_STRETCH = np.array(
    [2 ** (-1 / 3), 2 ** (-1 / 3), 2 ** (2 / 3)]
)  # a ball -> two in a row, same volume
TEXTURE_SIDE, TEXTURE_REACH = 44, 1.3  # the texture cube covers u in [-1.3, 1.3]
BUMPS = 8  # coefficients of the surface harmonics in `_bumps`


def _bumps(coefficients, z, y, x):
    """Sum of second- and third-order harmonics of a direction: smooth, mean 0 on the sphere."""
    c = coefficients.astype(np.float32)
    second = c[0] * z * y + c[1] * z * x + c[2] * y * x + c[3] * (y * y - x * x)
    third = c[4] * z * y * x + c[5] * x * (x * x - 3 * y * y) + c[6] * y * (3 * x * x - y * y)
    return 1.5 * second + 0.9 * (third + c[7] * z * (y * y - x * x))


def chromatin(rng) -> np.ndarray:
    """A texture cube (float32, mean 1 in the unit ball): two bands of noise, one to three dark nucleoli."""
    fine, coarse = (rng.standard_normal((TEXTURE_SIDE,) * 3, dtype=np.float32) for _ in range(2))
    fine, coarse = ndimage.gaussian_filter(fine, 1.2), ndimage.gaussian_filter(coarse, 3.0)
    cube = np.exp(0.22 * fine / fine.std() + 0.22 * coarse / coarse.std())
    side = np.linspace(-TEXTURE_REACH, TEXTURE_REACH, TEXTURE_SIDE, dtype=np.float32)
    u = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1)
    for _ in range(rng.integers(1, 4)):
        centre, width = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.13, 0.2)
        cube *= 1 - 0.75 * np.exp(-((u - centre) ** 2).sum(-1) / (2 * width**2))
    return (cube / cube[(u**2).sum(-1) < 1].mean()).astype(np.float32)


@dataclass
class Nucleus:
    """One nucleus, as it is now."""

    id: int
    parent: int  # 0: it was there from the start
    centre: np.ndarray  # (3,) from the corner of the stack
    turn: np.ndarray  # (3, 3), from own axes to stack axes
    radius: float  # at birth, mean of the lateral semi-axes
    elongation: float  # lateral semi-axes are radius / elongation and radius * elongation
    bumps: np.ndarray
    brightness: float
    texture: np.ndarray
    cycle: float  # frames from birth to mitosis
    mitosis: float  # frames from there to two daughters
    age: float = 0.0

    @property
    def progress(self) -> float:
        """Of mitosis: 0 before it, 1 at its end."""
        return float(np.clip((self.age - self.cycle) / self.mitosis, 0, 1))

    @property
    def condensed(self) -> float:
        """How condensed the chromatin is, 0 to 1: rises in mitosis, falls again after birth."""
        return max(self.progress, 1 - self.age / self.mitosis if self.parent else 0.0)

    @property
    def axes(self) -> np.ndarray:
        """(3,) semi-axes: the volume doubles in a cycle; mitosis stretches the last one."""
        grown = self.radius * 2 ** (min(self.age / self.cycle, 1) / 3)
        return (
            grown
            * np.array([FLATNESS, 1 / self.elongation, self.elongation])
            * MITOSIS_STRETCH**self.progress
        )

    @property
    def half(self) -> np.ndarray:
        """(3,) half the sides of the box around its ellipsoid."""
        return np.sqrt(((self.turn * self.axes) ** 2).sum(1))

    def balls(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(centre, semi-axes) of the ellipsoids it keeps others out of: one, or two in a row in mitosis."""
        if self.progress == 0:
            return [(self.centre, self.axes)]
        shift = self.turn @ np.array([0, 0, self.axes[2] * self.progress / 2])
        half = self.axes * np.array([1, 1, 1 - self.progress / 2])
        return [(self.centre - shift, half), (self.centre + shift, half)]

    def daughters(self, ids, rng) -> list["Nucleus"]:
        """Two new nuclei, side by side along the mother's long axis, half her volume each."""
        two = []
        for i, (centre, _) in zip(ids, self.balls(), strict=True):
            cycle, brightness = self.cycle * rng.uniform(0.85, 1.15), rng.lognormal(0, 0.1)
            born = replace(self, id=i, parent=self.id, centre=centre, age=0.0, cycle=cycle)
            two.append(replace(born, bumps=self.bumps.copy(), brightness=brightness, texture=chromatin(rng)))
        return two

    def level(self, z, y, x):
        """Surface level (< 1 inside) and own coordinates u at stack positions (broadcastable arrays)."""
        z, y, x = (v - float(c) for v, c in zip((z, y, x), self.centre, strict=True))
        turn = (self.turn / self.axes).astype(np.float32)  # column k leads to u[k]
        u = [z * turn[0, k] + y * turn[1, k] + x * turn[2, k] for k in range(3)]
        waist = 1 - 0.75 * self.progress * np.exp(-((u[2] / 0.35) ** 2)) if self.progress else 1.0
        r = np.sqrt((u[0] ** 2 + u[1] ** 2) / waist**2 + u[2] ** 2)
        bumps = _bumps(self.bumps, *(v / np.maximum(r, 1e-3) for v in u))
        return r / np.clip(1 + bumps, 0.75, 1.25), u

    def light(self, u) -> np.ndarray:
        """Relative light at own coordinates u (3, n): textured; smoother and brighter when condensed."""
        where = (np.asarray(u) + TEXTURE_REACH) * (TEXTURE_SIDE - 1) / (2 * TEXTURE_REACH)
        texture = ndimage.map_coordinates(self.texture, where, order=1, mode="nearest")
        contrast = 1 - 0.7 * self.condensed
        return self.brightness * (1 + 0.6 * self.condensed) * (1 + contrast * (texture - 1))


def new_nucleus(i, settings, rng) -> Nucleus:
    """Nucleus i, anywhere in the field and at any age."""
    cycle = settings.cycle_frames * rng.uniform(0.85, 1.15)
    yaw, tilt = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.15, 2)
    return Nucleus(
        id=i, parent=0, centre=rng.uniform(0, 1, 3) * settings.extent_um,
        turn=(Rotation.from_rotvec([yaw, 0, 0]) * Rotation.from_rotvec([0, *tilt])).as_matrix(),
        radius=rng.uniform(2.3, 2.85), elongation=rng.uniform(1.0, 1.12), bumps=rng.normal(0, 0.04, BUMPS),
        brightness=rng.lognormal(0, 0.1), texture=chromatin(rng), cycle=cycle,
        mitosis=settings.mitosis_frames, age=rng.uniform(0, cycle + settings.mitosis_frames),
    )  # fmt: skip


class Culture:
    """All nuclei of one sequence. `advance()` goes one frame on, `draw()` gives light and labels of now."""

    def __init__(self, settings, rng):
        self.settings, self.rng = settings, rng
        self.nuclei = [new_nucleus(i + 1, settings, rng) for i in range(settings.cells)]
        self.parents = {n.id: 0 for n in self.nuclei}  # of every nucleus that ever was
        self._settle(rounds=200)

    def advance(self) -> None:
        """One frame: random walk, slow turning and bulging, growth, division, and excluded volume."""
        settings, rng = self.settings, self.rng
        # The colony spreads as it grows: a flow away from the middle that carries out as many as are born, a
        # little more in a crowd. Density and pattern stay alike over time, as training and test frames need.
        growth = np.log(2) / (settings.cycle_frames + settings.mitosis_frames)
        flow = growth / 2 * (len(self.nuclei) / max(settings.cells, 1)) ** 3 * np.array([0, 1, 1])
        for n in self.nuclei:
            n.age += 1
            step = rng.normal(0, settings.step_um, 3) * (FLATNESS, 1, 1)
            n.centre = n.centre + step + flow * (n.centre - settings.extent_um / 2)
            n.turn = Rotation.from_rotvec(rng.normal(0, 1, 3) * (0.07, 0.01, 0.01)).as_matrix() @ n.turn
            n.bumps = 0.97 * n.bumps + rng.normal(0, 0.04 * np.sqrt(1 - 0.97**2), BUMPS)
        for mother in [n for n in self.nuclei if n.progress == 1]:
            born = mother.daughters((len(self.parents) + 1, len(self.parents) + 2), rng)
            self.parents.update((n.id, mother.id) for n in born)
            self.nuclei = [n for n in self.nuclei if n is not mother] + born
        self._settle(rounds=40)

    def _settle(self, rounds) -> None:
        """Excluded volume: overlapping ellipsoids move apart along the line of centres. Drop who is out."""
        depth = self.settings.extent_um[0]
        balls = [(k, n.turn, axes) for k, n in enumerate(self.nuclei) for _, axes in n.balls()]
        owner = np.array([k for k, _, _ in balls])
        reach = np.array([(turn * axes**2) @ turn.T for _, turn, axes in balls])
        for _ in range(rounds if balls else 0):
            centres = np.array([centre for n in self.nuclei for centre, _ in n.balls()])
            apart = centres[:, None] - centres[None]
            distance = np.linalg.norm(apart, axis=-1) + 1e-9
            line = apart / distance[..., None]
            # Half the width of i along its line to j: two convex bodies closer than both halves may overlap.
            height = np.sqrt(np.einsum("ijk,ikl,ijl->ij", line, reach, line))
            overlap = (self.settings.squeeze * (height + height.T) - distance).clip(0)
            overlap[owner[:, None] == owner[None]] = 0
            push = (0.5 * overlap[..., None] * line).sum(1)
            for k, n in enumerate(self.nuclei):
                n.centre = n.centre + push[owner == k].sum(0)
                n.centre[0] = np.clip(n.centre[0], 1.1 * n.axes[0], depth - 1.1 * n.axes[0])  # whole in z
            if overlap.max(initial=0) < 0.02:
                break
        # Gone when its centre is so far out that less than about a fifth of it is seen.
        outside = [
            np.maximum(-n.centre, n.centre - self.settings.extent_um) > 0.4 * n.half for n in self.nuclei
        ]
        self.nuclei = [n for n, out in zip(self.nuclei, outside, strict=True) if not out.any()]

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Photons and labels of now, as `draw_nuclei` gives them."""
        return draw_nuclei(self.nuclei, self.settings)


def draw_nuclei(nuclei, settings) -> tuple[np.ndarray, np.ndarray]:
    """Photons (float32) and labels (int32, the nuclei's ids), both (D, H, W), before blur.

    settings: has shape, voxel_size (um) and photons. Where two nuclei press into each other a voxel goes to the
    one it lies deeper in, so labels touch and never overlap; crumbs cut off by a neighbour are removed, so each
    label is one piece.
    """
    shape, voxel = settings.shape, np.array(settings.voxel_size)
    photons, labels = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    deepest = np.ones(shape, np.float32)
    for n in nuclei:
        low = np.clip((n.centre - 1.25 * n.half) // voxel, 0, shape).astype(int)
        high = np.clip((n.centre + 1.25 * n.half) // voxel + 1, 0, shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        z, y, x = (np.arange(a, b, dtype=np.float32) for a, b in zip(low, high, strict=True))
        level, u = n.level(*((i + 0.5) * float(v) for i, v in zip(np.ix_(z, y, x), voxel, strict=True)))
        mine = level < deepest[box]
        deepest[box][mine] = level[mine]
        labels[box][mine] = n.id
        photons[box][mine] = settings.photons * n.light([v[mine] for v in u])
    for i, box in enumerate(ndimage.find_objects(labels), start=1):
        pieces, count = ndimage.label(labels[box] == i) if box else (None, 0)
        if count > 1:
            crumbs = (pieces > 0) & (pieces != np.bincount(pieces.ravel())[1:].argmax() + 1)
            labels[box][crumbs] = photons[box][crumbs] = 0
    return photons, labels
