"""QuPath from outside: its projects, its files, and the scripts that run in it."""
