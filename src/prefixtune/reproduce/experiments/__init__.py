"""One experiment a file; each holds its declaration as `EXPERIMENT`."""
