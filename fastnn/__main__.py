"""`python -m fastnn`: the command line."""

from fastnn.cli import main

main(prog_name="fastnn")
