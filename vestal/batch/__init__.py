"""Many inputs at once, through an archive's own handler in this process.

folder, glob, CSV, text file -> `inputs` -> `reading` -> handler -> `journal` -> `tables`
"""
