"""Measured against predicted: the figures of the evaluation protocol."""
