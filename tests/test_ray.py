"""On Ray: any number of lanes ends in the bits of the loop."""

from pathlib import Path

import pytest

from lamina.emulation.simulator.backends.ray import on_ray
from lamina.emulation.simulator.run_context import prepare_run
from lamina.models.errors import ConfigError
from tests.simulated import setting, simulate

try:
    import ray  # noqa: F401 - only whether it is there
except ImportError:
    RAY = False
else:
    RAY = True


@pytest.mark.slow
@pytest.mark.skipif(not RAY, reason="Ray isn't installed")
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_any_number_of_lanes_ends_in_the_bits_of_the_loop(tmp_path: Path, lanes: int) -> None:
    context = prepare_run(setting(tmp_path, fleet={"strong": 2, "moderate": 1, "weak": 1}, aggregation={"phi": 2}))
    loop, on_lanes = simulate(context), simulate(context, "ray", lanes)
    assert on_lanes.base.tobytes() == loop.base.tobytes()
    assert on_lanes.momentum.tobytes() == loop.momentum.tobytes()


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_without_ray_it_says_how_to_get_it(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path))
    with pytest.raises(ConfigError, match="pip install"), on_ray(context.common, 1, context.data):
        pass
