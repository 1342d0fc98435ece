"""``python -m internvl_detect.cli``, as torchrun starts it."""

from internvl_detect.cli import main

if __name__ == "__main__":  # which processes that it starts are not
    main()
