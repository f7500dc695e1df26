"""`python -m medtrain`."""

from medtrain.cli import main

main()
