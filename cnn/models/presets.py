"""Networks that come with Safelight, layer by layer, for images of any size."""

from collections.abc import Callable

from cnn.images.spec import ImageSpec
from cnn.models.layers import (
    ConvLayer,
    DenseLayer,
    DropoutLayer,
    FlattenLayer,
    GlobalPoolLayer,
    Layer,
    MaxPoolLayer,
    ResidualLayer,
)


def _residual(image: ImageSpec) -> tuple[Layer, ...]:
    """A narrow ResNet-9 (Page, How to train your ResNet, 2018; DAWNBench): a convolution, then stages that halve the
    feature map and double its channels until 4 to 7 pixels remain, each with a residual block, and their average.

    Sized so that two processor cores learn from 500 to 5,000 images a second: the fewer pixels, the more channels;
    colour has more to look at than grey; above 48 pixels the first convolution has strides of 2. Pools come before
    convolutions, which takes two thirds of the work that ResNet-9's order takes.
    """
    side = min(image.size)
    strides = 2 if side > 48 else 1
    filters = 32 if side < 16 else 16 if image.channels == 1 else 24
    most = 8 * filters
    layers: list[Layer] = [ConvLayer(filters=filters, strides=(strides, strides), padding="same", batch_norm=True)]
    side = -(-side // strides)
    while side >= 8:
        side, filters = side // 2, min(2 * filters, most)
        convolution = ConvLayer(filters=filters, padding="same", batch_norm=True)
        layers += [MaxPoolLayer(), convolution, ResidualLayer(filters=filters)]
    return (*layers, GlobalPoolLayer())


def _lenet(image: ImageSpec) -> tuple[Layer, ...]:
    """LeNet-5 (LeCun et al., Gradient-based learning applied to document recognition, 1998) with ReLU and max pooling,
    as it is taught today; on images below 12 pixels its second convolution is padded, or nothing would be left."""
    return (
        ConvLayer(filters=6, kernel=(5, 5), padding="same"),
        MaxPoolLayer(),
        ConvLayer(filters=16, kernel=(5, 5), padding="valid" if min(image.size) >= 12 else "same"),
        MaxPoolLayer(),
        FlattenLayer(),
        DenseLayer(units=120),
        DenseLayer(units=84),
    )


def _notes(image: ImageSpec) -> tuple[Layer, ...]:
    """The complete model of the notes: two small convolutions, each with a pool, and six dense units."""
    return (
        ConvLayer(filters=16, kernel=(2, 2)),
        MaxPoolLayer(),
        ConvLayer(filters=16, kernel=(2, 2)),
        MaxPoolLayer(),
        FlattenLayer(),
        DenseLayer(units=6),
    )


def _small(image: ImageSpec) -> tuple[Layer, ...]:
    """A small modern network: convolutions with batch normalization, halved until 4 to 7 pixels remain, global pooling.

    From 64 pixels on the first convolution has twice the filters, and strides of 2 to keep the work in proportion.
    """
    side = min(image.size)
    strides, filters = (2, 32) if side >= 64 else (1, 16)
    layers: list[Layer] = [ConvLayer(filters=filters, strides=(strides, strides), padding="same", batch_norm=True)]
    side = -(-side // strides)
    while side >= 8:
        side, filters = side // 2, min(2 * filters, 256)
        layers += [MaxPoolLayer(), ConvLayer(filters=filters, padding="same", batch_norm=True)]
    layers += [ConvLayer(filters=filters, padding="same", batch_norm=True)]
    return (*layers, GlobalPoolLayer(), DropoutLayer(rate=0.3))


PRESETS: dict[str, Callable[[ImageSpec], tuple[Layer, ...]]] = {
    "residual": _residual,
    "small": _small,
    "lenet": _lenet,
    "notes": _notes,
}
