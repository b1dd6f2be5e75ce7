"""Join the exported network of a frozen backbone and a head that was fitted on its features to one ONNX network.

Converting a whole Keras network takes ten seconds, its head alone one; and the backbone was converted before, when its
features were computed. Importing this module imports neither Keras nor ONNX.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cnn.backend import import_keras
from cnn.inference.onnx import InputSignature, export_onnx
from cnn.models.head import FEATURES
from cnn.models.outputs import PROBABILITIES

PREFIX = "head/"  # of the names in the head's graph, so that none is one of the backbone's
GIVEN = InputSignature("given", "float32")


def export_joined(network: Any, backbone: Path, path: Path) -> bool:
    """Write a Keras network of `build_model` as ONNX: its head is converted, and put behind `backbone`, an ONNX file
    that answers images with `features` and what else the network is to give. False, and nothing written, where the two
    do not fit, as where another version of the converter wrote the backbone.

    Whether that backbone is the network's own is for the caller to find out, from answers.

    Raises:
        TrainingError: the head has an operation that ONNX lacks.
    """
    import onnx

    first, head = onnx.load(backbone), onnx.compose.add_prefix(_convert_head(network), PREFIX, rename_outputs=False)
    names = [output.name for output in first.graph.output]
    try:
        joined = onnx.compose.merge_models(
            first, head, io_map=[(FEATURES, PREFIX + GIVEN.name)], outputs=[*names, PROBABILITIES]
        )
        onnx.checker.check_model(joined)
    except (ValueError, onnx.checker.ValidationError):
        return False
    path.write_bytes(joined.SerializeToString())
    return True


def _convert_head(network: Any) -> Any:
    """The ONNX model of the layers behind `features`."""
    import onnx

    features = network.get_layer(FEATURES).output
    head = import_keras().Model(features, {PROBABILITIES: network.output}, name="head")
    with TemporaryDirectory() as folder:
        path = Path(folder, "head.onnx")
        export_onnx(head, path, features.shape[1:], GIVEN)
        return onnx.load(path)
