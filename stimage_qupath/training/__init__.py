"""Fitting an ensemble to measured spots."""
