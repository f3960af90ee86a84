"""From a user's X and y to what a program reads."""
