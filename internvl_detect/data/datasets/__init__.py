"""The datasets that are known, and finding them on a disk: their files as manifest rows, and the choice among them."""
