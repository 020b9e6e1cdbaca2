"""One handler per task: decode an instance, encode an output."""
