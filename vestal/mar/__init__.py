"""The archive format: manifest, member names, sample and index, and how to open one safely."""
