"""Simulated specimens with exact labels, and the microscope that looks at them."""

from weakseg_lib.data.simulate.hl60 import HL60Settings, hl60_frames, hl60_settings, simulate_hl60
from weakseg_lib.data.simulate.microscope import Microscope

__all__ = ["HL60Settings", "Microscope", "hl60_frames", "hl60_settings", "simulate_hl60"]
