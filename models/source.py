"""Finds a network's definition: in the zoo, or in a function in a file of the operator's.

A source is the name of a network of the zoo, or a Python file and a function in it; options follow after commas:

    resnet20
    resnet20,norm=group,classes=100
    path/to/nets.py:build
    path/to/nets.py:build,width=64
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from lamina.models import zoo
from lamina.models.errors import ModelError

Build = Callable[..., object]


def split_options(source: str) -> tuple[str, dict[str, object]]:
    """``"nets.py:build,width=64"`` to ``("nets.py:build", {"width": 64})``.

    Raises:
        ModelError: what follows a comma isn't ``key=value``.
    """
    place, *pairs = source.split(",")
    options: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key.isidentifier() and equals):
            raise ModelError(f"model {source}: key=value must follow a comma, not {pair!r}")
        options[key] = _value(text)
    return place, options


@contextmanager
def building(place: str) -> Iterator[tuple[str, Build]]:
    """A name for the network, and the function that builds it; call it inside the context.

    Inside, a file may import its neighbours, as it could if it were run; ``sys.path`` is afterwards what it was.

    Raises:
        ModelError: there is no such network, file or function, or the file can't be imported.
    """
    if ":" not in place and not place.endswith(".py"):
        yield place, _zoo_function(place)
        return
    path, name = _split_place(place)
    with _importable_from(path.parent):
        yield path.stem, _function(path, name)


def zoo_names() -> list[str]:
    """Names of the networks that come with Lamina: the files of `lamina.models.zoo`."""
    return sorted(module.name for module in pkgutil.iter_modules(zoo.__path__))


def told(error: Exception, path: Path) -> str:
    """One line on an error of the operator's file: its type, its message, the last line of the file that took part."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    where = f" (line {lines[-1]} of {path})" if lines else ""
    return f"{type(error).__name__}: {str(error) or 'no message'}{where}"


def _value(text: str) -> object:
    """The number or truth value that ``text`` spells, else ``text`` itself."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _zoo_function(name: str) -> Build:
    if name not in zoo_names():
        raise ModelError(
            f"model {name!r} is not in the zoo{_nearest(name, zoo_names())} "
            f"(it has {', '.join(zoo_names())}; a network of your own is path/to/file.py:function)"
        )
    build: Build = importlib.import_module(f"lamina.models.zoo.{name}").build
    return build


def _split_place(place: str) -> tuple[Path, str]:
    """``"nets.py:build"`` to ``(Path("nets.py"), "build")``; the last colon counts."""
    file, colon, name = place.rpartition(":")
    if not colon:
        raise ModelError(f"model {place}: say which of its functions builds the network, as {place}:function")
    if not file or not name.isidentifier():
        raise ModelError(f"model {place}: write path/to/file.py:function")
    return Path(file), name


def _function(path: Path, name: str) -> Build:
    if not path.is_file():
        raise ModelError(f"model {path}:{name}: there is no file {path} (seen from {Path.cwd()})")
    module = _imported(path)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        lack = "has no function" if function is None else "has something under this name that is no function:"
        raise ModelError(f"model {path}: it {lack} {name!r}{_nearest(name, known)}")
    build: Build = function
    return build


def _imported(path: Path) -> ModuleType:
    """The file as a module, run afresh. Its name is made from its place, so that no two files share one."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"lamina_model_{digest}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"model {path}: it is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ModelError(f"model {path}: importing it raised {told(error, path)}") from error
    return module


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {near[0]!r}?" if near else ""
