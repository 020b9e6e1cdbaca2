"""Files: locks, atomic writes, folders, texts and tables."""
