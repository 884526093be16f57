"""Lamina: federated learning over MQTT for fleets of unequal edge and IoT boards.

The packages stand in top-level folders of the repository. In a checkout, this folder has a symbolic link to each, so
that editors, type checkers and an editable installation find `lamina.broker`; the build copies the folders below
`lamina/` in the wheel.
"""

from __future__ import annotations

import os
import sys

# ONNX Runtime's official builds report events to their maker, over HTTPS and by way of a database in the user's home.
# The library reads this variable when it is loaded; its own switch, below, comes too late for the files.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # the same of Ray, where the simulator runs on it
if "onnxruntime" in sys.modules:  # a program that imports this package loaded it before
    sys.modules["onnxruntime"].disable_telemetry_events()
