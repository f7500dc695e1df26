"""Writers of the files that the trials read."""
