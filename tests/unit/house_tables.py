"""Tables of houses and their prices, for tests of regressors."""

from __future__ import annotations


def write_table(folder, rows, header="area,rooms,price", name="prices.csv"):
    """Write a CSV file of houses and their prices."""
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder / name


ROWS = [f"{40 + 3 * n},{1 + n % 4},{100_000 + 9_000 * n}" for n in range(20)]
CITIES = ["Paris", "Rome", "Oslo"]
HOUSES = [
    f"{row.rsplit(',', 1)[0]},{CITIES[n % 3]},{row.rsplit(',', 1)[1]}" for n, row in enumerate(ROWS)
]
COLUMNS = "area,rooms,city,price"


def houses(folder, *more):
    """Write a table with a text column, `city`; `more` are further rows."""
    return write_table(folder, [*HOUSES, *more], COLUMNS)
