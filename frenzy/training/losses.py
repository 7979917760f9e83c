"""Losses in nats on logits, as means over a batch."""

import tensorflow as tf


def cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of target distributions (n, classes) and logits (n, classes)."""
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


def distillation(teacher_logits: tf.Tensor, logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)), mean over n; its gradient is the teacher's share of the loss.

    Hinton, Vinyals, Dean: arXiv 1503.02531.
    """
    theirs = tf.nn.log_softmax(teacher_logits / temperature)
    ours = tf.nn.log_softmax(logits / temperature)
    return temperature**2 * tf.reduce_mean(tf.reduce_sum(tf.exp(theirs) * (theirs - ours), -1))
