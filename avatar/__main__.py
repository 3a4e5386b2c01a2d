"""`python -m avatar`."""

from avatar.cli import main

main()
