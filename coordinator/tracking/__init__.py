"""Finished rounds as curves in other programs: one file each."""
