"""Finished artifacts, a module a format: each writes a live model to a path and leaves the model as it was."""
