"""Simulated specimens with exact labels, and the microscope that looks at them."""

from weakseg_lib.data.simulate.hl60 import HL60Settings, hl60_frames, hl60_settings, simulate_hl60
from weakseg_lib.data.simulate.microglia import (
    MicrogliaSettings,
    microglia_settings,
    microglia_stack,
    microglia_stacks,
    simulate_microglia,
)
from weakseg_lib.data.simulate.microscope import Microscope

# What `weakseg simulate SPECIMEN` calls, with (out, stacks or None, size, seed).
SPECIMENS = {"hl60": simulate_hl60, "microglia": simulate_microglia}

__all__ = [
    "SPECIMENS",
    "HL60Settings",
    "MicrogliaSettings",
    "Microscope",
    "hl60_frames",
    "hl60_settings",
    "microglia_settings",
    "microglia_stack",
    "microglia_stacks",
    "simulate_hl60",
    "simulate_microglia",
]
