"""Small networks that are trained from scratch: the table `CONVNETS`, and their builder."""

from dataclasses import dataclass
from typing import Any, Literal

from cryobase.stages.backbones.frameworks import forget_names, load_keras


@dataclass(frozen=True, kw_only=True)
class Convnet:
    """Valid 3x3 convolutions with relu on pixels in [0, 1], with 2x2 max-pooling between.

    Attributes:
        image_size: side of the square input in pixels.
        filters: number of filters of each convolution.
        pools: max-pooling follows this many convolutions, counted from the first.
        features: how the last map becomes a vector: `flatten` or `avg`.
        gray: whether the input is first reduced to one channel (luma of ITU-R BT.601).
        dropout: share of the features set to zero while training.
    """

    image_size: int
    filters: tuple[int, ...]
    pools: int
    features: Literal["flatten", "avg"]
    gray: bool = False
    dropout: float = 0.0

    @property
    def smallest(self) -> int:
        """The smallest image size for which the last map has at least one pixel."""
        size = 1
        for number in range(len(self.filters), 0, -1):
            size = (2 * size if number <= self.pools else size) + 2
        return size


CONVNETS: dict[str, Convnet] = {
    # a tutorial's cats and dogs: the head has 512 units
    "five-blocks": Convnet(
        image_size=150, filters=(32, 64, 128, 128, 256), pools=5, features="flatten", dropout=0.5
    ),
    # Chollet and Watson, Deep Learning with Python, 3rd edition, chapter 8
    "book-digits": Convnet(
        image_size=28, filters=(64, 128, 256), pools=2, features="avg", gray=True
    ),
    "book-digits-unpooled": Convnet(
        image_size=28, filters=(64, 128, 256), pools=0, features="avg", gray=True
    ),
    "book-cats-dogs": Convnet(
        image_size=180, filters=(32, 64, 128, 256, 512), pools=4, features="avg"
    ),
    "book-cats-dogs-dropout": Convnet(
        image_size=180, filters=(32, 64, 128, 256, 512), pools=4, features="avg", dropout=0.25
    ),
}


def build(name: str, *, image_size: int | None = None, seed: int = 0) -> Any:
    """An untrained network without its head.

    Args:
        name: a key of `CONVNETS`.
        image_size: side of the square input in pixels; None means the size in `CONVNETS`.
        seed: seed of the initial weights.

    Returns:
        A `keras.Model` from RGB pixels (b, size, size, 3) in 0 to 255 to features (b, width).
    """
    keras = load_keras()
    forget_names()
    keras.utils.set_random_seed(seed)
    row = CONVNETS[name]
    size = image_size or row.image_size
    inputs = keras.Input((size, size, 3), name="image")
    x = (_luma(inputs) if row.gray else inputs) / 255.0
    for number, filters in enumerate(row.filters, start=1):
        x = keras.layers.Conv2D(filters, 3, activation="relu", name=f"conv{number}")(x)
        if number <= row.pools:
            x = keras.layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = _features(row)(x)
    if row.dropout:
        x = keras.layers.Dropout(row.dropout, name="dropout")(x)
    return keras.Model(inputs, [x], name=name)


def _luma(pixels: Any) -> Any:
    return 0.299 * pixels[..., 0:1] + 0.587 * pixels[..., 1:2] + 0.114 * pixels[..., 2:3]


def _features(row: Convnet) -> Any:
    layers = load_keras().layers

    if row.features == "flatten":
        return layers.Flatten(name="features")
    return layers.GlobalAveragePooling2D(name="features")
