"""Media that are no files of their own: members of tar files, and objects of a store, read by ranges."""
