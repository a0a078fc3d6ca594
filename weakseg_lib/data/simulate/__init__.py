"""Simulated specimens with exact labels, and the microscope that looks at them."""

from weakseg_lib.data.simulate.celegans import (
    CelegansSettings,
    celegans_frames,
    celegans_settings,
    simulate_celegans,
)
from weakseg_lib.data.simulate.hl60 import HL60Settings, hl60_frames, hl60_settings, simulate_hl60
from weakseg_lib.data.simulate.microglia import (
    MicrogliaSettings,
    microglia_settings,
    microglia_stack,
    microglia_stacks,
    simulate_microglia,
)
from weakseg_lib.data.simulate.microscope import Microscope
from weakseg_lib.data.simulate.tracks import Tracks, grow_embryo, read_tracks

# What `weakseg simulate SPECIMEN` calls, with (out, stacks or None, size, seed).
SPECIMENS = {"hl60": simulate_hl60, "microglia": simulate_microglia, "celegans": simulate_celegans}

__all__ = [
    "SPECIMENS",
    "CelegansSettings",
    "HL60Settings",
    "MicrogliaSettings",
    "Microscope",
    "Tracks",
    "celegans_frames",
    "celegans_settings",
    "grow_embryo",
    "hl60_frames",
    "hl60_settings",
    "microglia_settings",
    "microglia_stack",
    "microglia_stacks",
    "read_tracks",
    "simulate_celegans",
    "simulate_hl60",
    "simulate_microglia",
]
