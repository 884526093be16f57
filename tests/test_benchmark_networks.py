"""The benchmarks' own networks are those that people mean by their names."""

from pathlib import Path

import pytest
import torch

from benchmarks import networks
from lamina.models.definition import load_definition

# As torchvision has them, with 1,000 classes.
PARAMETERS = {"resnet18": 11_689_512, "efficientnet_b0": 5_288_548, "mobilenet_v3_small": 2_542_856}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_as_many_parameters_as_is_published(name: str) -> None:
    definition = load_definition(f"{Path(networks.__file__)}:{name}", classes=1000)
    assert sum(parameter.numel() for parameter in definition.module.parameters()) == PARAMETERS[name]
    definition.module.eval()
    with torch.no_grad():
        assert definition.module(torch.zeros(1, *definition.input_shape)).shape == (1, 1000)
