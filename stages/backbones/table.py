"""The table of backbones. It has only names and constants, so that it does not load Keras."""

import importlib
from dataclasses import dataclass
from typing import Any

# Raise this by hand when features of an unchanged spec change. A test compares golden features.
EXTRACTOR_VERSION = 1

KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One frozen convolutional base.

    Attributes:
        constructor: `module:function`, imported when the base is built. The function has Keras'
            arguments `input_tensor`, `include_top` and `weights`.
        preprocessing: the key of `PREPROCESSINGS` that the ImageNet weights were trained with.
        image_size: side of the square input that the weights were trained at, in pixels.
        smallest: side of the smallest input that the base accepts, in pixels.
        width: channels of the last feature map, and so the length of an `avg` feature.
        weights: the source of the ImageNet weights: a URL, whose file is kept in Keras' cache
            (`{size}` is the image size if it is in `sizes`, else `image_size`), or
            `module:function`, which returns a path.
        kept: `module:function`, which returns the path of the downloaded file, if the function in
            `weights` downloads it.
        checksum: MD5 or SHA-256 of the file; "" if Keras publishes no checksum.
        sizes: input sizes that have their own weights.
        extra: the extra of this distribution that the base needs.
    """

    constructor: str
    preprocessing: str
    image_size: int = 224
    smallest: int = 32
    width: int
    weights: str
    kept: str = ""
    checksum: str = ""
    sizes: tuple[int, ...] = ()
    extra: str = ""


BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": Backbone(
        constructor="cryobase.stages.backbones.lite0:EfficientNetLite0",
        preprocessing="lite",
        width=1280,
        weights="cryobase.stages.backbones.lite0:packaged_weights",
        checksum="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        extra="sample",
    ),
    "vgg16": Backbone(
        constructor="keras.applications:VGG16",
        preprocessing="caffe",
        width=512,
        weights=f"{KERAS}vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="6d6bbae143d832006294945121d1f1fc",
    ),
    "vgg19": Backbone(
        constructor="keras.applications:VGG19",
        preprocessing="caffe",
        width=512,
        weights=f"{KERAS}vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="253f8cb515780f3b799900260a226db6",
    ),
    "resnet50": Backbone(
        constructor="keras.applications:ResNet50",
        preprocessing="caffe",
        width=2048,
        weights=f"{KERAS}resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="4d473c1dd8becc155b73f8504c6f6626",
    ),
    "resnet50v2": Backbone(
        constructor="keras.applications:ResNet50V2",
        preprocessing="symmetric",
        width=2048,
        weights=f"{KERAS}resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="fac2f116257151a9d068a22e544a4917",
    ),
    "inceptionv3": Backbone(
        constructor="keras.applications:InceptionV3",
        preprocessing="symmetric",
        image_size=299,
        smallest=75,
        width=2048,
        weights=f"{KERAS}inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="bcbd6486424b2319ff4ef7d526e38f63",
    ),
    "xception": Backbone(
        constructor="keras.applications:Xception",
        preprocessing="symmetric",
        image_size=299,
        smallest=71,
        width=2048,
        weights=f"{KERAS}xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="b0042744bf5b25fce3cb969f33bebb97",
    ),
    "mobilenet": Backbone(
        constructor="keras.applications:MobileNet",
        preprocessing="symmetric",
        width=1024,
        weights=f"{KERAS}mobilenet/mobilenet_1_0_{{size}}_tf_no_top.h5",
        sizes=(128, 160, 192, 224),
    ),
    "mobilenetv2": Backbone(
        constructor="keras.applications:MobileNetV2",
        preprocessing="symmetric",
        width=1280,
        weights=f"{KERAS}mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_"
        "{size}_no_top.h5",
        sizes=(96, 128, 160, 192, 224),
    ),
    "densenet121": Backbone(
        constructor="keras.applications:DenseNet121",
        preprocessing="torch",
        width=1024,
        weights=f"{KERAS}densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="30ee3e1110167f948a6b9946edeeb738",
    ),
    "efficientnetb0": Backbone(
        constructor="cryobase.stages.backbones.efficientnet:EfficientNetB0",
        preprocessing="identity",
        width=1280,
        weights="https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
        checksum="50bc09e76180e00e4465e1a485ddc09d",
    ),
    "efficientnetv2b0": Backbone(
        constructor="keras.applications:EfficientNetV2B0",
        preprocessing="identity",
        width=1280,
        weights=f"{KERAS}efficientnet_v2/efficientnetv2-b0_notop.h5",
        checksum="893217f2bb855e2983157299931e43ff",
    ),
    "convnexttiny": Backbone(
        constructor="keras.applications:ConvNeXtTiny",
        preprocessing="identity",
        width=768,
        weights=f"{KERAS}convnext/convnext_tiny_notop.h5",
        checksum="d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "xception_41_imagenet": Backbone(
        constructor="cryobase.stages.backbones.hub:Xception41",
        preprocessing="symmetric",
        image_size=299,
        width=2048,
        weights="cryobase.stages.backbones.hub:xception_41_weights",
        kept="cryobase.stages.backbones.hub:xception_41_kept",
        extra="keras-hub",
    ),
}


def resolve(path: str) -> Any:
    """The object that `module:name` names."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
