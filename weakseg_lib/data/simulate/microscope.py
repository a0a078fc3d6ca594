"""Image formation of a fluorescence microscope: photons -> blur -> camera counts.

It knows nothing of specimens: they hand over the photons that every voxel sends out.
The numbers are those of the generator behind Fluo-N3DH-SIM+ (design.md, section 8).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Microscope:
    """A lens (Gaussian blur, um) and a camera (electrons and counts)."""

    blur_um: tuple[float, float, float] = (0.26, 0.13, 0.13)  # sigma along (z, y, x)
    dark_current: float = 0.06  # mean electrons a voxel that no light made
    gain: float = 1.0  # counts an electron
    offset: float = 700.0  # mean of the read-out, counts
    read_noise: float = 90.0  # standard deviation of the read-out, counts

    def blur(self, photons, voxel_size) -> np.ndarray:
        """Blurred (float32) map of photons (D, H, W); voxel_size (z, y, x) in um.

        Beyond the border the outermost voxels go on, so what the border cuts isn't darker there.
        """
        sigma = [um / voxel for um, voxel in zip(self.blur_um, voxel_size, strict=True)]
        return ndimage.gaussian_filter(np.asarray(photons, np.float32), sigma, mode="nearest")

    def expose(self, photons, rng) -> np.ndarray:
        """Camera counts (uint16) of expected photons (any shape, >= 0); rng: a numpy Generator.

        counts = gain * (Poisson(photons) + Poisson(dark_current)) + Normal(offset, read_noise), rounded.
        """
        # Two independent Poisson numbers add up to one of the summed mean, so one draw is exact.
        electrons = rng.poisson(np.asarray(photons) + np.float32(self.dark_current))
        readout = rng.standard_normal(electrons.shape, dtype=np.float32)
        counts = self.gain * electrons + (self.offset + self.read_noise * readout)
        return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)

    def image(self, photons, voxel_size, rng) -> np.ndarray:
        """The picture (uint16) of a map of photons (D, H, W): blurred, then exposed."""
        return self.expose(self.blur(photons, voxel_size), rng)
