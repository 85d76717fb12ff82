"""The flows, one a file: each is ``run(settings, on_progress, cancelled)``."""
