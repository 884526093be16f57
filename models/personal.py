"""Personal layers: tensors that every device trains for itself, and that are never averaged.

    FedPer  the head is personal (Arivazhagan et al., arXiv 1912.00818)
    FedBN   the norms are, with their running statistics (Li et al., arXiv 2102.07623)

An operator names them by patterns. As a layer is the unit of aggregation, a layer of which a part is personal is
divided, so that all of a layer is personal or nothing is. The order of all parameters, and that of all statistics,
stays what it was: graphs and bundles know nothing of the division.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate, groupby

import msgspec

from lamina.models.errors import ConfigError, ModelError
from lamina.models.manifest import Manifest
from lamina.models.spec import LayerSpec, ModelSpec, TensorSpec

_SHOWN = 12  # names in a message
_Run = tuple[TensorSpec, ...]


def personal_tensors(spec: ModelSpec, patterns: Sequence[str]) -> frozenset[str]:
    """The names of the tensors that the patterns mean.

    A pattern is compared with the name of a layer, of a module however deep, and of a tensor: ``head``, ``*.bn*``,
    ``*.running_mean``. One that begins with ``*.`` also means what stands at the top.

    Raises:
        ConfigError: a pattern means nothing, or all layers are personal.
    """
    found: set[str] = set()
    for pattern in patterns:
        means = {tensor.name for layer, tensor in _tensors(spec) if _is_meant(pattern, layer, tensor)}
        if not means:
            raise ConfigError(
                f"aggregation.personal: {pattern!r} matches no layer, module or tensor of {spec.name}; it has "
                f"{_some(layer.name for layer in spec.layers)}"
            )
        found |= means
    if found and all(tensor.name in found for layer in spec.layers for tensor in layer.parameters):
        raise ConfigError(
            f"aggregation.personal: all layers of {spec.name} are personal, so devices would have nothing to "
            "average: leave some of them out"
        )
    return frozenset(found)


def numbered(spec: ModelSpec, tensors: Collection[str]) -> tuple[int, ...]:
    """The tensors as they cross the wire: their places among all names in alphabetical order, ascending."""
    return tuple(place for place, name in enumerate(_names(spec)) if name in tensors)


def at_places(spec: ModelSpec, places: Collection[int]) -> frozenset[str]:
    """The inverse of `numbered`.

    Raises:
        ModelError: the model has no such tensors.
    """
    names = _names(spec)
    if places and max(places) >= len(names):
        raise ModelError(f"tensor {max(places)} is said to be personal, and the model has {len(names)}")
    return frozenset(names[place] for place in places)


def divided(spec: ModelSpec, tensors: Collection[str]) -> ModelSpec:
    """The model with every layer divided of which some tensors are personal and others are not."""
    parts = [_parts(layer, tensors) for layer in spec.layers]
    if len(parts) == sum(map(len, parts)):
        return spec
    starts = (0, *accumulate(map(len, parts)))  # of the old layers among the new ones
    blocks = tuple(
        msgspec.structs.replace(block, first=starts[block.first], stop=starts[block.stop]) for block in spec.blocks
    )
    layers = tuple(part for several in parts for part in several)
    return msgspec.structs.replace(spec, layers=layers, blocks=blocks, cuts=tuple(starts[cut] for cut in spec.cuts))


def with_personal(manifest: Manifest, tensors: Collection[str]) -> Manifest:
    """The manifest with the model that `divided` gives, and the same files."""
    spec = divided(manifest.spec, tensors)
    sub_models = tuple(
        msgspec.structs.replace(sub_model, cut=cut)
        for sub_model, cut in zip(manifest.sub_models, spec.cuts, strict=True)
    )
    return msgspec.structs.replace(manifest, spec=spec, sub_models=sub_models)


def personal_layers(spec: ModelSpec, tensors: Collection[str]) -> tuple[int, ...]:
    """The indices of the personal layers of a model that is `divided`, ascending."""
    return tuple(
        index
        for index, layer in enumerate(spec.layers)
        if any(tensor.name in tensors for tensor in (*layer.parameters, *layer.statistics))
    )


def _parts(layer: LayerSpec, tensors: Collection[str]) -> list[LayerSpec]:
    """The layer in parts of which each is personal or not; its activations count with the first."""

    def runs(of: Iterable[TensorSpec]) -> list[tuple[bool, _Run]]:
        return [(is_mine, tuple(run)) for is_mine, run in groupby(of, lambda tensor: tensor.name in tensors)]

    parts: list[tuple[bool, _Run, _Run]] = [(is_mine, run, ()) for is_mine, run in runs(layer.parameters)]
    place = 0
    for is_mine, run in runs(layer.statistics):  # each with the next part of its kind, so that their order stays
        free = (at for at in range(place, len(parts)) if parts[at][0] == is_mine and not parts[at][2])
        place = next(free, len(parts))
        beside = parts[place][1] if place < len(parts) else ()
        parts[place : place + 1] = [(is_mine, beside, run)]
    if len(parts) == 1:
        return [layer]
    names = _part_names(layer.name, [is_mine for is_mine, _, _ in parts])
    return [
        LayerSpec(name, parameters, statistics, 0 if index else layer.activations)
        for index, (name, (_, parameters, statistics)) in enumerate(zip(names, parts, strict=True))
    ]


def _part_names(name: str, personal: Sequence[bool]) -> list[str]:
    """The shared part keeps the layer's name."""
    names = []
    for index, is_mine in enumerate(personal):
        before = personal[:index].count(is_mine)
        stem = f"{name}.personal" if is_mine else name
        names.append(f"{stem}-{before + 1}" if before else stem)
    return names


def _tensors(spec: ModelSpec) -> Iterator[tuple[LayerSpec, TensorSpec]]:
    return ((layer, tensor) for layer in spec.layers for tensor in (*layer.parameters, *layer.statistics))


def _names(spec: ModelSpec) -> list[str]:
    return sorted(tensor.name for _, tensor in _tensors(spec))


def _is_meant(pattern: str, layer: LayerSpec, tensor: TensorSpec) -> bool:
    path = tensor.name.split(".")
    names = (layer.name, *(".".join(path[:depth]) for depth in range(1, len(path) + 1)))
    return any(fnmatchcase(name, pattern) or fnmatchcase(f".{name}", pattern) for name in names)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
