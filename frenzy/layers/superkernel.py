"""Convolutions that learn how large a kernel and how many channels they need: single-path NAS, by the formulas of indicators.py.

Strides pad (k - 1) / 2 on every side, so a kernel that is masked down equals the small kernel, which SAME's sampling grid would
not allow.
"""

import math
import zlib
from collections.abc import Sequence

import tensorflow as tf
import tf_keras as keras

from frenzy import stateless
from frenzy.layers import depthwise
from frenzy.layers.indicators import (
    TINY,
    Indicators,
    by_group,
    decide,
    decide_alike,
    groups,
    leading_ones,
    live_channels,
    nested,
    spatial_mask,
    taps_mask,
    times,
    widths_of,
)

EDGE = 1e-3  # how far from its norm a threshold stands that is set, not learned


class _SuperKernel(keras.layers.Layer):
    """What both forms share: thresholds, indicators, masks, padding."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        strides: int = 1,
        padding: str = "same",
        use_bias: bool = False,
        dropout: float = 0.0,
        search_kernel: bool = True,
        kernel_initializer="he_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(size) != 2 or any(side < 1 or (search_kernel and not side % 2) for side in size):
            raise ValueError(f"{self.name}: kernel_size is {kernel_size}; two odd sides are needed: (3, 3), say")
        if padding not in ("same", "valid"):
            raise ValueError(f"{self.name}: padding is {padding!r}; allowed: 'same', (k - 1) / 2 on every side, and 'valid'")
        strides = strides if isinstance(strides, int) else strides[0] if len(set(strides)) == 1 else 0
        if strides < 1:
            raise ValueError(f"{self.name}: strides must be one number for rows and columns, 1 or more")
        if not 0 <= dropout < 1:
            raise ValueError(f"{self.name}: dropout is {dropout}; it must be at least 0 and below 1")
        if padding == "same" and strides > 1 and not all(side % 2 for side in size):
            raise ValueError(f"{self.name}: a kernel of {size} cannot be padded evenly; pad the map, and take 'valid'")
        self.kernel_size: tuple[int, int] = size
        self.search_kernel = search_kernel
        self.strides, self.padding, self.use_bias, self.dropout = strides, padding, use_bias, dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.widths: tuple[int, ...] = ()

    def _build_decisions(self, input_shape) -> None:
        """The thresholds, none ending in 'kernel', so that no weight decay acts on them; and the bias."""
        rows, columns = (side // 2 if self.search_kernel else 0 for side in self.kernel_size)
        self.threshold_rows = self._threshold("rows", rows)
        self.threshold_columns = self._threshold("columns", columns)
        self.threshold_width = self._threshold("width", len(self.widths) - 1)
        self.drop_rate = self.add_weight(
            "drop_rate", (), initializer=keras.initializers.Constant(self.dropout), trainable=False
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight("bias", (self.widths[-1],), initializer="zeros", experimental_autocast=False)
        _, height, width, _ = self._output_shape(input_shape)
        self.places = None if None in (height, width) else height * width

    def _threshold(self, name: str, count: int):
        if not count:
            return None
        return self.add_weight(f"threshold_{name}", (count,), initializer="zeros", experimental_autocast=False)

    def _squares(self) -> tf.Tensor:
        """Sums of w^2 over the inputs, (kh, kw, channels)."""
        raise NotImplementedError

    @property
    def inputs(self) -> int:
        """How many inputs an output reads at one tap."""
        raise NotImplementedError

    @property
    def thresholds(self) -> tuple:
        """Variables of rows, columns and width; None where there is nothing to decide."""
        return self.threshold_rows, self.threshold_columns, self.threshold_width

    def given(self) -> tuple[tf.Tensor, Indicators]:
        """Sums of w^2 over the inputs (kh, kw, channels), and the thresholds: what decisions are made from."""
        thresholds = (tf.constant([]) if each is None else tf.convert_to_tensor(each) for each in self.thresholds)
        return self._squares(), Indicators(*thresholds)

    def decide(self) -> tuple[Indicators, Indicators]:
        """Margins rho - t and indicators as they are now, without dropout; float32, differentiable."""
        squares, thresholds = self.given()
        return decide(squares, self.inputs, thresholds, self.widths)

    def indicators(self) -> Indicators:
        """1 or 0 for every decision."""
        return self.decide()[1]

    def decision(self) -> tuple[tuple[int, int], int]:
        """(kernel's height and width, channels) as numbers."""
        found = self.indicators()
        sides = (
            1 + 2 * leading_ones(each.numpy()) if each.shape[0] else whole
            for whole, each in zip(self.kernel_size, found, strict=False)
        )
        height, width = sides
        return (height, width), self.widths[leading_ones(found.width.numpy())]

    def impose(self, kernel: tuple[int, int], width: int) -> None:
        """Moves thresholds until the decision is this one. Raises ValueError for one that the layer does not have."""
        odd = [side for side, whole in zip(kernel, self.kernel_size, strict=True) if side not in range(whole % 2, whole + 1, 2)]
        fixed = tuple(kernel) != self.kernel_size and not self.search_kernel
        if odd or fixed or width not in self.widths:
            raise ValueError(
                f"{self.name}: kernel {kernel} and {width} channels are no option; sides are odd, up to {self.kernel_size}, "
                f"channels one of {self.widths}"
            )
        wanted = (kernel[0] // 2, kernel[1] // 2, self.widths.index(width))
        for field, on in enumerate(wanted):  # the norms of channels depend on rows and columns
            threshold = self.thresholds[field]
            if threshold is not None:
                now = threshold.numpy()
                norm = self.decide()[0][field].numpy() + now
                low, high = norm * (1 - EDGE), norm * (1 + EDGE) + TINY**0.5
                threshold.assign([min(t, low[i]) if i < on else max(t, high[i]) for i, t in enumerate(now)])

    def live(self) -> tf.Tensor:
        """(channels,) float32: 1 where a channel counts; differentiable."""
        return live_channels(self.indicators(), self.widths)

    def _dropped(self, indicators: Indicators) -> Indicators:
        """Each indicator (1, n) zeroed with probability drop_rate, the others divided by 1 - drop_rate."""
        counts = [each.shape[1] for each in indicators]
        if not sum(counts):
            return indicators
        seed, rate = stateless.layers_seed_or_none(), tf.cast(self.drop_rate, tf.float32)
        if seed is None:
            share = tf.random.uniform((1, sum(counts)))
        else:
            bits = stateless.stream_bits((1, sum(counts)), seed, zlib.crc32(self.name.encode()))  # the same on every replica
            share = tf.cast(tf.bitwise.bitwise_and(bits, 0x7FFFFF), tf.float32) * 2.0**-23
        kept = tf.split(tf.cast(share >= rate, tf.float32) / (1 - rate), counts, 1)
        return Indicators(*(each * keep if count else each for each, keep, count in zip(indicators, kept, counts, strict=True)))

    def _masks(self, training) -> tuple[tf.Tensor, tf.Tensor]:
        """What a call multiplies its kernel with: (kh, kw, 1, 1) and (channels,)."""
        squares, thresholds = self.given()
        sums, alone = by_group(squares, self.widths)[None], Indicators(*(tf.reshape(each, (1, -1)) for each in thresholds))
        _, found = decide_alike(sums, self.kernel_size, [self.inputs], self.widths, alone)
        found = self._dropped(found) if training else found
        live = times(groups(self.widths), nested(found.width))
        return tf.reshape(taps_mask(found, self.kernel_size), (*self.kernel_size, 1, 1)), tf.reshape(live, (-1,))

    def _output_shape(self, input_shape):
        n, *sides, _ = input_shape

        def reached(size: int | None, side: int) -> int | None:
            if size is None:
                return None
            padded = size + (side - 1 if self.padding == "same" else 0)
            return (padded - side) // self.strides + 1

        return (n, *map(reached, sides, self.kernel_size), self.widths[-1])

    def _padded(self, x: tf.Tensor) -> tuple[tf.Tensor, str]:
        """What the convolution reads, and its padding: at stride 1 SAME is symmetric as it is."""
        if self.padding == "valid" or self.strides == 1:
            return x, self.padding.upper()
        rows, columns = ((side - 1) // 2 for side in self.kernel_size)
        return tf.pad(x, [(0, 0), (rows, rows), (columns, columns), (0, 0)]) if rows or columns else x, "VALID"

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "search_kernel": self.search_kernel,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.utils.register_keras_serializable("frenzy")
class SuperKernelConv2D(_SuperKernel):
    """(n, h, w, cin) -> (n, h', w', filters), as Conv2D's 'same' with symmetric padding; channels that are cut off are exactly 0.

    Kernel sides: every odd one up to kernel_size, height and width apart. Channels: `fractions` of `filters`. `shares_live`
    returns [map, live (filters,)]. With masks_output=False the map comes unmasked, for a MaskedBatchNormalization that reads
    `live`: the channels then keep their statistics, and their gradient, while they are cut off. `dropout` is the rate at which
    indicators are dropped in training, kept in the variable `drop_rate`. Weights: kernel, bias, threshold_rows,
    threshold_columns, threshold_width. float32 inside under mixed precision. Raises ValueError.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        fractions: Sequence[float] = (1.0,),
        masks_output: bool = True,
        shares_live: bool = False,
        **kwargs,
    ):
        super().__init__(kernel_size, **kwargs)
        if filters < 1:
            raise ValueError(f"{self.name}: filters is {filters}; it must be 1 or more")
        if not fractions or any(not 0 < fraction <= 1 for fraction in fractions) or max(fractions) != 1:
            raise ValueError(f"{self.name}: fractions are {tuple(fractions)}; numbers above 0 of which the largest is 1")
        self.filters, self.fractions, self.masks_output, self.shares_live = filters, tuple(fractions), masks_output, shares_live
        self.widths = widths_of(filters, self.fractions)

    def build(self, input_shape):
        shape = (*self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight("kernel", shape, initializer=self.kernel_initializer, experimental_autocast=False)
        self._build_decisions(input_shape)
        super().build(input_shape)

    def _squares(self):
        return tf.reduce_sum(tf.square(tf.convert_to_tensor(self.kernel)), 2)

    @property
    def inputs(self):
        return self.kernel.shape[2]

    def cost(self, inputs=None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Parameters k_h k_w n_in n_out, and multiplies: times output pixels (None where the map's size is not known).

        `inputs`: live channels of what it reads, a number or a sum of the producer's live(); all of them where none is given.
        """
        indicators = self.indicators()
        taps = tf.reduce_sum(spatial_mask(indicators, self.kernel_size))
        wide = tf.reduce_sum(live_channels(indicators, self.widths))
        parameters = taps * wide * (self.inputs if inputs is None else inputs)
        return parameters, None if self.places is None else parameters * self.places

    def call(self, inputs, training=None):
        training = keras.backend.learning_phase() if training is None else training
        mask, live = self._masks(training)
        kernel = self.kernel * (mask * live if self.masks_output else mask)
        x, padding = self._padded(inputs)
        y = tf.nn.conv2d(x, tf.cast(kernel, x.dtype), self.strides, padding)
        if self.bias is not None:
            y = tf.nn.bias_add(y, tf.cast(self.bias * live if self.masks_output else self.bias, y.dtype))
        return [y, live] if self.shares_live else y

    def compute_output_shape(self, input_shape):
        shape = self._output_shape(input_shape)
        return [shape, (self.filters,)] if self.shares_live else shape

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "fractions": self.fractions,
            "masks_output": self.masks_output,
            "shares_live": self.shares_live,
        }


@keras.utils.register_keras_serializable("frenzy")
class SuperKernelDepthwiseConv2D(_SuperKernel):
    """(n, h, w, c), or [that, live (c,)] of its producer -> (n, h', w', c): one kernel a channel, whose sides it learns.

    It follows its producer's channels: where those come in as zeros its map is zero, and so is the bias where `live` is given.
    Weights: depthwise_kernel (kh, kw, c, 1), bias, threshold_rows, threshold_columns.
    """

    def __init__(self, kernel_size: int | tuple[int, int], kernel_initializer=None, **kwargs):
        he_normal = keras.initializers.VarianceScaling(2.0, "fan_out")  # of (k, k, c, 1) the fan-out is k * k
        super().__init__(kernel_size, kernel_initializer=kernel_initializer or he_normal, **kwargs)

    def build(self, input_shape):
        image = input_shape[0] if isinstance(input_shape[0], Sequence | tf.TensorShape) else input_shape
        self.widths = (int(image[-1]),)
        self.depthwise_kernel = self.add_weight(
            "depthwise_kernel",
            (*self.kernel_size, self.widths[0], 1),
            initializer=self.kernel_initializer,
            experimental_autocast=False,
        )
        self._build_decisions(image)
        super().build(input_shape)

    def _squares(self):
        return tf.square(tf.convert_to_tensor(self.depthwise_kernel))[..., 0]

    @property
    def inputs(self):
        return 1

    def cost(self, inputs=None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Parameters k_h k_w n, and multiplies; `inputs`: live channels of the producer, all where none is given."""
        taps = tf.reduce_sum(spatial_mask(self.indicators(), self.kernel_size))
        parameters = taps * (self.widths[0] if inputs is None else inputs)
        return parameters, None if self.places is None else parameters * self.places

    def call(self, inputs, training=None):
        training = keras.backend.learning_phase() if training is None else training
        image, live = inputs if isinstance(inputs, list | tuple) else (inputs, None)
        kernel = self.depthwise_kernel * self._masks(training)[0]
        x, padding = self._padded(image)
        y = self._convolved(x, tf.cast(kernel, x.dtype), padding, training)
        if self.bias is not None:
            bias = self.bias if live is None else self.bias * tf.cast(live, tf.float32)
            y = tf.nn.bias_add(y, tf.cast(bias, y.dtype))
        return y

    def _convolved(self, x: tf.Tensor, kernel: tf.Tensor, padding: str, training) -> tf.Tensor:
        """With the kernel gradient of depthwise.py where that is the faster one."""
        sizes = (*x.shape[1:3], *self._output_shape((None, *x.shape[1:]))[1:3]) if training else (None,)
        if x.dtype == tf.float32 and None not in sizes and math.prod(sizes) <= depthwise.MOST_PAIRS:
            return depthwise.depthwise_conv(x, kernel, self.strides, padding.lower())
        return tf.nn.depthwise_conv2d(x, kernel, (1, self.strides, self.strides, 1), padding)

    def compute_output_shape(self, input_shape):
        image = input_shape[0] if isinstance(input_shape[0], Sequence | tf.TensorShape) else input_shape
        return (*self._output_shape((*image[:3], None))[:3], image[-1])
