"""Functions from program to program; an engine lists those that it wants."""
