"""The run folder: written block by block, read back."""
