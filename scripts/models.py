"""`make models`: train every model of the zoo on bundled data and print its metrics.

The argument, if any, is a CSV file to write them to.
"""

import csv
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vestal.model_folders import zoo
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.training.settings import Settings
from vestal.training.train import train

project = Project.here()
COLUMNS = ("model", "data", "held out", "metrics", "best epoch", "seconds", "run")
rows = []
start = time.perf_counter()
for folder in sorted(zoo().glob("*/recipe.py")):
    name = folder.parent.name
    dataset = "digits" if "digits" in load_recipe(project, name).datasets else None
    began = time.perf_counter()
    run = train(project, name, Settings(dataset=dataset))
    seconds = f"{time.perf_counter() - began:.0f}"
    best = f"{run.best_epoch} of {run.epochs}"
    where = str(run.folder.relative_to(project.root))
    rows.append((name, run.dataset, str(run.test_size), run.metrics_text(), best, seconds, where))
table = Table(*COLUMNS, box=None, pad_edge=False)
for row in rows:
    table.add_row(*row)
console = Console()
console.print(table)
console.print(f"Total: {time.perf_counter() - start:.0f} s")
if len(sys.argv) > 1:
    with Path(sys.argv[1]).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
