"""The model as a run keeps it: personal tensors in layers of their own, an algorithm's vectors behind each value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lamina.coordinator.settings import FederationSettings, Method
from lamina.models.bundle import Bundle
from lamina.models.errors import brief
from lamina.models.further import with_further
from lamina.models.personal import personal_tensors, with_personal
from lamina.models.spec import ModelSpec


def as_trained(bundle: Bundle, method: Method) -> Bundle:
    """The bundle with its layers divided where a part of one is personal; once more changes nothing.

    Raises:
        ConfigError: ``aggregation.personal`` names what the model does not have, or all of it.
    """
    tensors = personal_tensors(bundle.manifest.spec, method.aggregation.personal)
    return replace(bundle, manifest=with_personal(bundle.manifest, tensors)) if tensors else bundle


def kept_spec(bundle: Bundle, settings: FederationSettings) -> ModelSpec:
    """The layers of a run's commits; the bundle is `as_trained`."""
    return with_further(bundle.manifest.spec, settings.algorithm.further)


def personal_warnings(settings: FederationSettings, spec: ModelSpec, personal: Sequence[int]) -> list[str]:
    """What an operator of personal layers should know before the first round."""
    if not personal:
        return []
    warnings = []
    names = [spec.layers[layer].name for layer in personal]
    if settings.evaluation.data:
        warnings.append(
            f"evaluation.data is judged with the initial values of personal layers ({brief(', '.join(names), 200)}): "
            "the accuracy says how good the shared layers are with them; devices report how they themselves do"
        )
    if frozen := [layer for layer in personal if layer < spec.cuts[-1]]:
        warnings.append(
            f"a device that trains from a later layer leaves the personal layer {spec.layers[frozen[0]].name} at its "
            "initial values: give such devices more memory, or a bundle with pretrained --values"
        )
    return warnings
