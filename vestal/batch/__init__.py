"""Many inputs at once, through an archive's own handler in this process.

folder, glob, CSV, text file -> `inputs` -> DataLoader -> handler -> `journal` -> `tables`
"""
