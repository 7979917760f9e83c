"""Functions of single values, by kind: (multiplies, adds) an element, for conventions that price them by the challenge's rules.

A comparison is priced as a multiply: the challenge prices a ReLU so. An exponential, a logarithm, a root and a division count
as one multiply each: its sigmoid, 1 / (1 + exp(-x)), is two multiplies and an add, and its swish three and one. What the
challenge does not name is counted the same way, from its formula:

function             an error function, a sine or a cosine is one evaluation, as an exponential is
expm1, log1p         exp(x) - 1 and log(1 + x)
softsign, selu       x / (1 + |x|); elu with a scale
compare              also a select, a rounding and the logic of truth values: one decision an element
normalize            a layer normalisation in one op: the row's sum, x - mean, the sum of its squares, and a scale; what is once
                     a row (its two divisions, epsilon, the root) is left out
local_response_norm  x / (bias + alpha * sum of squares) ** beta: a square, a running sum over channels (one in, one out), a
                     scale, a shift, a power, a division
bilinear, bicubic    four, sixteen neighbours, each with its own weight
"""

ELEMENTARY: dict[str, tuple[int, int]] = {
    "bicubic": (16, 15),
    "bilinear": (4, 3),
    "compare": (1, 0),
    "divide": (1, 0),
    "elu": (2, 1),
    "exp": (1, 0),
    "expm1": (1, 1),
    "function": (1, 0),
    "leaky_relu": (2, 0),
    "local_response_norm": (4, 3),
    "log": (1, 0),
    "log1p": (1, 1),
    "multiply": (1, 0),
    "normalize": (2, 3),
    "power": (1, 0),
    "relu": (1, 0),
    "relu6": (2, 0),
    "selu": (3, 1),
    "sigmoid": (2, 1),
    "softplus": (2, 1),
    "softsign": (2, 1),
    "square_difference": (1, 1),
    "tanh": (2, 2),
}
