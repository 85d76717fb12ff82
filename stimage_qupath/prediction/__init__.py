"""Tiles through an encoder and an ensemble, streamed."""
