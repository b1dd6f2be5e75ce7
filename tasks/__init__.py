"""One step each: read, call cnn, write. Plain functions that run in a loop as well as on a cluster."""
