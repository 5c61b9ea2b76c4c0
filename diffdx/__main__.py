"""`python -m diffdx`, as `torchrun` starts it: the same as the command `diffdx`."""

from diffdx.cli.app import main

main()
