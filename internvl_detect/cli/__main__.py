"""``python -m internvl_detect.cli``, as torchrun starts it."""

from internvl_detect.cli import main

main()
