"""Functions of single values, by kind: (multiplies, adds) an element, for conventions that price them by the challenge's rules.

A comparison is priced as a multiply: the challenge prices a ReLU so. An exponential, a logarithm, a root and a division count
as one multiply each: its sigmoid, 1 / (1 + exp(-x)), is two multiplies and an add, and its swish three and one.
"""

ELEMENTARY: dict[str, tuple[int, int]] = {
    "compare": (1, 0),
    "divide": (1, 0),
    "elu": (2, 1),
    "exp": (1, 0),
    "leaky_relu": (2, 0),
    "log": (1, 0),
    "multiply": (1, 0),
    "power": (1, 0),
    "relu": (1, 0),
    "relu6": (2, 0),
    "sigmoid": (2, 1),
    "softplus": (2, 1),
    "tanh": (2, 2),
}
