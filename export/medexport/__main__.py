"""`python -m medexport`."""

from medexport.cli import main

main()
