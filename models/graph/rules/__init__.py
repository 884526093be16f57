"""The rules by which aten operators become ONNX operators, in files by subject. Importing this registers them all."""

from lamina.models.graph.rules import (
    convolution,
    division,
    elementwise,
    embedding,
    indexing,
    linear,
    normalisation,
    pooling,
    random,
    recurrent,
    reduction,
    resampling,
    shape,
    special,
    training_build,
)

__all__ = [
    "convolution",
    "division",
    "elementwise",
    "embedding",
    "indexing",
    "linear",
    "normalisation",
    "pooling",
    "random",
    "recurrent",
    "reduction",
    "resampling",
    "shape",
    "special",
    "training_build",
]

# What an operator's name tells of its subject; the first that fits counts.
_SUBJECTS = {
    "convolution": ("conv",),
    "normalisation": ("norm",),
    "pooling": ("max_pool",),
    "resampling": ("pool", "upsample", "_pad"),
    "random": ("rand", "dropout", "bernoulli", "normal_"),
    "embedding": ("embedding",),
    "indexing": ("index", "scatter", "gather"),
    "linear": ("mm.", "softmax", "linear", "attention"),
    "reduction": ("sum", "mean", "max", "min", "var", "std", "prod", "norm"),
    "shape": ("view", "slice", "select", "pad", "permute", "roll", "repeat", "sort", "tri"),
    "division": ("div", "bitwise", "shift"),
    "special": ("special", "log", "gamma", "erf"),
}


def subject(name: str) -> str:
    """The file that a rule for the operator ``name`` belongs in."""
    fitting = (file for file, parts in _SUBJECTS.items() if any(part in name for part in parts))
    return next(fitting, "elementwise")
