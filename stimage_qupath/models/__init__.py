"""Encoders, negative binomial ensembles, their uncertainty, and the model folder."""
