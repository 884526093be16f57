"""Faults on purpose: disks that lose what was not synced, and what else a federation must bear."""
