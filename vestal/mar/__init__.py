"""The archive format: member names, manifest, packed sample, index; opening one safely."""
