"""Tells which build of ONNX Runtime is installed, and its version, without loading it."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from lamina.models.errors import ConfigError
from lamina.models.manifest import ONNXRUNTIME, ONNXRUNTIME_TRAINING

_FACT = re.compile(r"""^(package_name|__version__) *= *['"]([^'"]+)['"]""", re.MULTILINE)


def installed() -> str:
    """Which of the two builds it is that is installed under the one name ``onnxruntime``.

    Raises:
        ConfigError: neither is installed.
    """
    return _build()[0]


def engine_name() -> str:
    """The build and its version.

    Raises:
        ConfigError: none is installed.
    """
    return " ".join(_build())


@cache
def _build() -> tuple[str, str]:
    spec = find_spec("onnxruntime")
    if spec is None:
        raise ConfigError("onnxruntime is not installed: pip install 'lamina-fl[edge]'")
    for folder in spec.submodule_search_locations or ():
        # Both builds write this file, and it is theirs whichever package's metadata lies beside it.
        file = Path(folder) / "capi" / "build_and_package_info.py"
        facts = dict(_FACT.findall(file.read_text())) if file.exists() else {}
        if {"package_name", "__version__"} <= facts.keys():
            return _kind("training" in facts["package_name"]), facts["__version__"]
    return _asked_of_itself()


def _asked_of_itself() -> tuple[str, str]:
    """A build of somebody else's may lack the file."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return _kind(hasattr(state, "TrainingAgent")), str(import_module("onnxruntime").__version__)


def _kind(training: bool) -> str:
    return ONNXRUNTIME_TRAINING if training else ONNXRUNTIME
