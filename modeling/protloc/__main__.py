"""`python -m protloc` is the `protloc` command."""

from protloc_entry import main

main()
