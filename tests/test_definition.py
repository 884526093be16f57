"""A definition comes from the zoo or from a file, with seeded values, or with an error that says what to do."""

import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lamina.models.definition import Definition, load_definition
from lamina.models.errors import ModelError
from lamina.models.source import split_options, zoo_names

NETWORK = """
from torch import nn
from lamina.models.definition import Definition

def build(width=3):
    return Definition("mine", nn.Linear(2, width), (2,), width)
"""


def saved(folder: Path, content: str, name: str = "nets.py") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def weights(definition: Definition) -> list[Any]:
    return [tensor.tolist() for tensor in definition.module.parameters()]


def test_a_function_in_a_file_gives_its_definition(tmp_path: Path) -> None:
    definition = load_definition(f"{saved(tmp_path, NETWORK)}:build")
    assert (definition.name, definition.input_shape, definition.classes) == ("mine", (2,), 3)


def test_options_stand_after_commas_or_are_given_and_those_given_win(tmp_path: Path) -> None:
    path = saved(tmp_path, NETWORK)
    assert load_definition(f"{path}:build,width=5").classes == 5
    assert load_definition(f"{path}:build", width=6).classes == 6
    assert load_definition(f"{path}:build,width=5", width=6).classes == 6


def test_options_are_numbers_truth_values_or_text() -> None:
    place, options = split_options("net,a=1,b=-2.5,c=true,d=False,e=group,f=")
    assert place == "net"
    assert options == {"a": 1, "b": -2.5, "c": True, "d": False, "e": "group", "f": ""}
    assert [type(value) for value in options.values()] == [int, float, bool, bool, str, str]


def test_a_seed_gives_the_same_values_and_another_seed_others(tmp_path: Path) -> None:
    source = f"{saved(tmp_path, NETWORK)}:build"
    assert weights(load_definition(source, seed=1)) == weights(load_definition(source, seed=1))
    assert weights(load_definition(source, seed=1)) != weights(load_definition(source, seed=2))


def test_torchs_own_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    load_definition("digits_cnn", seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_module_with_its_shape_and_classes_will_do(tmp_path: Path) -> None:
    content = """
from torch import nn

class Net(nn.Linear):
    input_shape = (2,)
    classes = 3
    cuts = (0,)

def build():
    return Net(2, 3)
"""
    definition = load_definition(f"{saved(tmp_path, content)}:build")
    assert (definition.name, definition.input_shape, definition.classes) == ("nets", (2,), 3)
    assert (definition.cuts, definition.input_dtype, definition.loss) == ((0,), "float32", "cross_entropy")


def test_a_class_or_a_partial_function_builds_too(tmp_path: Path) -> None:
    content = """
from functools import partial
from torch import nn

class Net(nn.Linear):
    input_shape = (2,)
    classes = 3

    def __init__(self, width=3):
        super().__init__(2, width)

narrow = partial(Net, width=-1)
wide = partial(Net, width=9)
"""
    path = saved(tmp_path, content)
    assert load_definition(f"{path}:Net").module.get_parameter("weight").shape == (3, 2)
    assert load_definition(f"{path}:wide").module.get_parameter("weight").shape == (9, 2)
    assert "building it raised RuntimeError" in told(f"{path}:narrow")


def test_a_file_may_import_its_neighbours_and_leaves_no_trace_on_the_path(tmp_path: Path) -> None:
    saved(tmp_path, "WIDTH = 4", "lamina_neighbour_a.py")
    saved(tmp_path, "WIDTH = 5", "lamina_neighbour_b.py")
    path = saved(
        tmp_path,
        """
from torch import nn
import lamina_neighbour_a
from lamina.models.definition import Definition

def build():
    from lamina_neighbour_b import WIDTH
    return Definition("mine", nn.Linear(lamina_neighbour_a.WIDTH, WIDTH), (lamina_neighbour_a.WIDTH,), WIDTH)
""",
    )
    before = list(sys.path)
    definition = load_definition(f"{path}:build")
    assert (definition.input_shape, definition.classes) == ((4,), 5)
    assert sys.path == before


def test_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = saved(tmp_path / "a", NETWORK)
    other = saved(tmp_path / "b", NETWORK.replace('"mine"', '"theirs"'))
    assert load_definition(f"{one}:build").name == "mine"
    assert load_definition(f"{other}:build").name == "theirs"
    assert load_definition(f"{one}:build").name == "mine"


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = saved(tmp_path, NETWORK)
    load_definition(f"{path}:build")
    saved(tmp_path, NETWORK.replace("width=3", "width=44"))
    assert load_definition(f"{path}:build").classes == 44


def test_a_file_may_hold_a_dataclass(tmp_path: Path) -> None:
    content = f"from __future__ import annotations\nfrom dataclasses import dataclass\n{NETWORK}\n"
    content += "\n@dataclass\nclass Sizes:\n    width: int = 3\n"
    assert load_definition(f"{saved(tmp_path, content)}:build").classes == 3


def told(source: str) -> str:
    """The one line that a person sees."""
    with pytest.raises(ModelError) as error:
        load_definition(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_unknown_name_is_told_with_the_nearest_and_all_others() -> None:
    line = told("digit_cnn")
    assert "did you mean 'digits_cnn'?" in line
    assert all(name in line for name in zoo_names())
    assert "did you mean" not in told("zzz")


def test_a_missing_file_is_told_with_the_folder_it_is_seen_from(tmp_path: Path) -> None:
    assert f"no file {tmp_path}/nets.py (seen from {Path.cwd()})" in told(f"{tmp_path}/nets.py:build")


def test_a_file_without_a_function_is_told_how_to_name_one() -> None:
    assert "as nets.py:function" in told("nets.py")
    assert "path/to/file.py:function" in told("nets.py:")
    assert "path/to/file.py:function" in told(":build")


def test_a_file_that_is_not_python_is_told(tmp_path: Path) -> None:
    assert "must end in .py" in told(f"{saved(tmp_path, NETWORK, 'nets.txt')}:build")


def test_a_missing_function_is_told_with_the_nearest(tmp_path: Path) -> None:
    assert "no function 'biuld': did you mean 'build'?" in told(f"{saved(tmp_path, NETWORK)}:biuld")


def test_a_name_that_is_no_function_is_told(tmp_path: Path) -> None:
    assert "'build'" in told(f"{saved(tmp_path, 'build = 3')}:build")


def test_a_file_that_fails_to_import_is_told_with_the_line(tmp_path: Path) -> None:
    path = saved(tmp_path, "import math\nraise ValueError('no good')\n")
    assert f"importing it raised ValueError: no good (line 2 of {path})" in told(f"{path}:build")


def test_a_syntax_error_is_told_with_the_line(tmp_path: Path) -> None:
    assert "line 2" in told(f"{saved(tmp_path, 'x = 1' + chr(10) + 'def build(:')}:build")


def test_a_function_that_fails_is_told_with_the_line(tmp_path: Path) -> None:
    path = saved(tmp_path, "def build():\n    return {}['width']\n")
    assert f"building it raised KeyError: 'width' (line 2 of {path})" in told(f"{path}:build")


def test_an_option_that_the_function_lacks_is_told_with_those_it_has(tmp_path: Path) -> None:
    line = told(f"{saved(tmp_path, NETWORK)}:build,wdith=5")
    assert "'wdith'" in line
    assert "(width=3)" in line


def test_an_option_without_a_value_is_told() -> None:
    assert "key=value must follow a comma, not 'group'" in told("resnet20,group")


def test_a_wrong_result_is_told(tmp_path: Path) -> None:
    assert "returned a int" in told(f"{saved(tmp_path, 'def build(): return 3')}:build")


@pytest.mark.parametrize("lacking", ["input_shape", "classes"])
def test_a_module_without_its_shape_or_classes_is_told(tmp_path: Path, lacking: str) -> None:
    content = "from torch import nn\ndef build():\n    net = nn.Linear(2, 3)\n    net.input_shape = (2,)\n"
    content += f"    net.classes = 3\n    del net.{lacking}\n    return net\n"
    assert f"module Linear has no attribute {lacking}" in told(f"{saved(tmp_path, content)}:build")


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("module", "net", "module must be a torch.nn.Module, and is a str"),
        ("input_shape", (), "input_shape must be a sample's"),
        ("input_shape", [2], "input_shape must be a sample's"),
        ("input_shape", (-1, 2), "input_shape must be a sample's"),
        ("classes", 0, "classes must be a whole number"),
        ("classes", ["cat", "dog"], "classes must be a whole number"),
        ("classes", True, "classes must be a whole number"),
        ("input_dtype", "uint8", "input_dtype must be one of float32, int64, and is 'uint8'"),
        ("module", nn.Linear(2, 3).double(), "parameter weight is torch.float64"),
        ("module", nn.LazyLinear(3), "parameter weight has no shape yet"),
    ],
)
def test_a_field_that_no_network_could_have_is_told(field: str, value: object, line: str) -> None:
    fields: dict[str, Any] = {"module": nn.Linear(2, 3), "input_shape": (2,), "classes": 3, field: value}
    with pytest.raises(ModelError, match=r"^model mine: ") as error:
        Definition("mine", **fields)
    assert line in str(error.value)


def test_a_definition_does_not_change() -> None:
    definition = Definition("mine", nn.Linear(2, 3), (2,), 3)
    with pytest.raises(FrozenInstanceError):
        definition.name = "yours"  # type: ignore[misc]  # that it can't is what is tested
