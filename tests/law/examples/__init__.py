"""One new kind of each door, each in one file, as a contributor would write it."""
