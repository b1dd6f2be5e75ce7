"""What a network knows of an image beside its probabilities: the features that its head sees, and its last feature map.

Importing this module imports no Keras.
"""

from typing import Any

from cnn.backend import import_keras
from cnn.models.head import FEATURES

PROBABILITIES, MAP = "probabilities", "map"
OUTPUTS = (PROBABILITIES, FEATURES, MAP)


def expose_outputs(model: Any, names: tuple[str, ...] = OUTPUTS) -> Any:
    """A Keras model on the weights of `model`, one of `build_model`, whose answer is a dictionary of these outputs.

    `probabilities` (n, units); `features` float32 (n, f), the head's input; `map` float32 (n, height, width, channels),
    the feature map that was pooled or laid out flat to make them, left out where that is the image itself.
    """
    outputs = {PROBABILITIES: model.output, FEATURES: model.get_layer(FEATURES).output}
    if (feature_map := find_feature_map(model)) is not None:
        outputs[MAP] = import_keras().layers.Identity(dtype="float32", name=MAP)(feature_map)
    chosen = {name: outputs[name] for name in names if name in outputs}
    return import_keras().Model(model.input, chosen, name="outputs")


def find_feature_map(model: Any) -> Any | None:
    """The last Keras tensor with a height and a width; None where no layer stands between it and the image."""
    for layer in reversed(model.layers):
        given = layer.input if isinstance(layer.input, list) else [layer.input]
        if len(layer.output.shape) == 2 and len(given[0].shape) == 4:
            return None if given[0] is model.get_layer("normalization").output else given[0]
    return None
