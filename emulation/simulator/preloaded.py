"""What the server of processes loads in advance: all that they need of torch and of this package, out of the
collector's way.

A process shares the server's pages until it writes to them, and the garbage collector writes to every object that it
looks at. Frozen objects are not looked at: 50 MiB a process that stay in common.
"""

from __future__ import annotations

import gc

import lamina.models.zoo.digits_cnn
import lamina.models.zoo.resnet20  # noqa: F401 - all of them are loaded for the processes that are forked from here

gc.collect()
gc.freeze()
