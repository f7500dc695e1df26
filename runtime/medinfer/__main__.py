"""`python -m medinfer`."""

from medinfer.cli import main

main()
