"""``python -m esper_es.cli``."""

from esper_es.cli.program import main

main()
