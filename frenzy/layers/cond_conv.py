"""CondConv: convolutions whose kernel is mixed anew for every image. Yang et al., arXiv 1904.04971.

    routing r = sigmoid(mean(x) A + a)            one for a block, shared by its convolutions
    kernel of image i = sum over experts m of r[i, m] W[m]

A batch is convolved at once: images become groups of channels of one picture, [1, h, w, n * channels]. With 1x1 kernels
that grouped convolution is a batched matrix product, and is computed as one.
"""

import tensorflow as tf
import tf_keras as keras


def mix_kernels(experts: tf.Tensor, routing: tf.Tensor) -> tf.Tensor:
    """(m, *kernel) and routing (n, m) -> (n, *kernel): for each image, the sum of the experts weighed by its routing."""
    count, *kernel = experts.shape
    mixed = tf.matmul(routing, tf.reshape(experts, (count, -1)))
    return tf.reshape(mixed, (-1, *kernel))


def _images_to_groups(x: tf.Tensor) -> tf.Tensor:
    """(n, h, w, c) -> (1, h, w, n * c)."""
    shape = tf.shape(x)
    height, width, channels = x.shape[1] or shape[1], x.shape[2] or shape[2], x.shape[3]
    return tf.reshape(tf.transpose(x, (1, 2, 0, 3)), (1, height, width, shape[0] * channels))


def _groups_to_images(x: tf.Tensor, channels: int) -> tf.Tensor:
    """(1, h, w, n * channels) -> (n, h, w, channels)."""
    shape = tf.shape(x)
    height, width = x.shape[1] or shape[1], x.shape[2] or shape[2]
    return tf.transpose(tf.reshape(x, (height, width, -1, channels)), (2, 0, 1, 3))


def conv_each(x: tf.Tensor, kernels: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """(n, h, w, cin) and kernels (n, kh, kw, cin, cout) -> (n, h', w', cout): image i convolved with kernel i."""
    rows, columns, cin, cout = kernels.shape[1:]
    if (rows, columns, stride) == (1, 1, 1):
        height, width = x.shape[1] or tf.shape(x)[1], x.shape[2] or tf.shape(x)[2]
        flat = tf.matmul(tf.reshape(x, (-1, height * width, cin)), tf.reshape(kernels, (-1, cin, cout)))
        return tf.reshape(flat, (-1, height, width, cout))
    grouped = tf.reshape(tf.transpose(kernels, (1, 2, 3, 0, 4)), (rows, columns, cin, tf.shape(kernels)[0] * cout))
    return _groups_to_images(tf.nn.conv2d(_images_to_groups(x), grouped, stride, padding.upper()), cout)


def depthwise_conv_each(x: tf.Tensor, kernels: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    """(n, h, w, c) and kernels (n, kh, kw, c) -> (n, h', w', c): channel by channel, image i with kernel i."""
    rows, columns, channels = kernels.shape[1:]
    grouped = tf.reshape(tf.transpose(kernels, (1, 2, 0, 3)), (rows, columns, tf.shape(kernels)[0] * channels, 1))
    strides = (1, stride, stride, 1)
    return _groups_to_images(tf.nn.depthwise_conv2d(_images_to_groups(x), grouped, strides, padding.upper()), channels)


def each_expert(initializer: keras.initializers.Initializer):
    """An initializer of (experts, *shape): every expert drawn on its own, with the fans of one kernel.

    One initializer called again gives the same values again, so each expert has its own; a seed counts up.
    """

    def initialize(shape, dtype=None, **kwargs):
        config = initializer.get_config()
        drawn = []
        for expert in range(shape[0]):
            seed = {"seed": config["seed"] + expert} if config.get("seed") is not None else {}
            drawn.append(type(initializer).from_config({**config, **seed})(shape[1:], dtype=dtype))
        return tf.stack(drawn)

    return initialize


@keras.utils.register_keras_serializable("frenzy")
class Routing(keras.layers.Layer):
    """(n, h, w, c) -> (n, experts) in 0..1: sigmoid(mean(x) kernel + bias), the mean over rows and columns."""

    def __init__(self, experts: int, **kwargs):
        super().__init__(**kwargs)
        if experts < 1:
            raise ValueError(f"{self.name}: experts is {experts}; it must be 1 or more")
        self.experts = experts

    def build(self, input_shape):
        self.kernel = self.add_weight("kernel", (input_shape[-1], self.experts), initializer="glorot_uniform")
        self.bias = self.add_weight("bias", (self.experts,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs):
        logits = tf.matmul(tf.reduce_mean(inputs, (1, 2)), self.kernel)
        return tf.nn.sigmoid(tf.nn.bias_add(logits, self.bias))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.experts)

    def get_config(self):
        return {**super().get_config(), "experts": self.experts}


class _Conditional(keras.layers.Layer):
    """What both forms share: [(n, h, w, c), (n, experts)] -> an output of `kernel_size`, `stride` and `padding`."""

    def __init__(self, kernel_size: int, experts: int, stride: int = 1, padding: str = "same", **kwargs):
        super().__init__(**kwargs)
        if min(kernel_size, experts, stride) < 1:
            raise ValueError(
                f"{self.name}: kernel_size {kernel_size}, experts {experts}, stride {stride}; each must be 1 or more"
            )
        if padding not in ("same", "valid"):
            raise ValueError(f"{self.name}: padding is {padding!r}; allowed: 'same', 'valid'")
        self.kernel_size, self.experts, self.stride, self.padding = kernel_size, experts, stride, padding

    def _check(self, input_shape) -> int:
        """The image's channels. Raises ValueError where the routing is for another number of experts."""
        image, routing = input_shape
        if routing[-1] != self.experts:
            raise ValueError(f"{self.name}: routing for {routing[-1]} experts, but there are {self.experts}; make both equal")
        return image[-1]

    def _side(self, size: int | None) -> int | None:
        if size is None:
            return None
        return -(-(size if self.padding == "same" else size - self.kernel_size + 1) // self.stride)

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "experts": self.experts,
            "stride": self.stride,
            "padding": self.padding,
        }


@keras.utils.register_keras_serializable("frenzy")
class CondConv2D(_Conditional):
    """[(n, h, w, cin), routing (n, experts)] -> (n, h', w', filters); no bias. Weight: kernel (experts, k, k, cin, filters).

    float16 gradients of strided or larger kernels need a GPU or XLA: TensorFlow has no such grouped ones for the CPU.
    """

    def __init__(self, filters: int, kernel_size: int, experts: int, **kwargs):
        super().__init__(kernel_size, experts, **kwargs)
        self.filters = filters

    def build(self, input_shape):
        channels = self._check(input_shape)
        self.kernel = self.add_weight(
            "kernel",
            (self.experts, self.kernel_size, self.kernel_size, channels, self.filters),
            initializer=each_expert(keras.initializers.HeNormal()),
        )
        super().build(input_shape)

    def call(self, inputs):
        image, routing = inputs
        return conv_each(image, mix_kernels(self.kernel, routing), self.stride, self.padding)

    def compute_output_shape(self, input_shape):
        n, height, width, _ = input_shape[0]
        return (n, self._side(height), self._side(width), self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.utils.register_keras_serializable("frenzy")
class CondDepthwiseConv2D(_Conditional):
    """[(n, h, w, c), routing (n, experts)] -> (n, h', w', c); no bias. Weight: kernel (experts, k, k, c)."""

    def build(self, input_shape):
        channels = self._check(input_shape)
        # he-normal for a fan-in of k * k: of (k, k, 1, c) the fan-in is what Keras computes so
        each = each_expert(keras.initializers.HeNormal())
        shape = (self.experts, self.kernel_size, self.kernel_size, channels)
        self.kernel = self.add_weight(
            "kernel", shape, initializer=lambda s, dtype=None, **kw: tf.reshape(each((*s[:3], 1, s[3]), dtype), s)
        )
        super().build(input_shape)

    def call(self, inputs):
        image, routing = inputs
        return depthwise_conv_each(image, mix_kernels(self.kernel, routing), self.stride, self.padding)

    def compute_output_shape(self, input_shape):
        n, height, width, channels = input_shape[0]
        return (n, self._side(height), self._side(width), channels)
