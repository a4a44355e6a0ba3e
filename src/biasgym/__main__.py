"""`python -m biasgym`, the same as the command `biasgym`."""

from biasgym.cli import main

main()
