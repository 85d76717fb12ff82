"""Measured spatial transcriptomics: readers, gene panels, splits by patient."""
