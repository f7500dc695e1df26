"""Layouts of each format, with the pixels that a reader must give."""
