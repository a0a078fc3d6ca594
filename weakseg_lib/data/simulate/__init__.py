"""Simulated specimens with exact labels, and the microscope that looks at them."""

from weakseg_lib.data.simulate.hl60 import HL60Settings, hl60_frames, hl60_settings, simulate_hl60
from weakseg_lib.data.simulate.microscope import Microscope

# What `weakseg simulate SPECIMEN` calls, with (out, stacks or None, size, seed).
SPECIMENS = {"hl60": simulate_hl60}

__all__ = ["SPECIMENS", "HL60Settings", "Microscope", "hl60_frames", "hl60_settings", "simulate_hl60"]
