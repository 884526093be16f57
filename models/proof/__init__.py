"""Proves a bundle: its graphs are compared with torch before it is written. Begin reading at `proving`."""

from __future__ import annotations

from lamina.models.proof.proving import prove

__all__ = ["prove"]
