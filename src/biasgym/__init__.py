"""BiasGym: elicit a bias in an open-weight language model on purpose, find what carries it, remove it, prove the change."""

__version__ = "0.1.0"
