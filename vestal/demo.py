"""`make demo`: a model's whole way, from training to a version swapped under load.

It works in a project folder of its own, `demo/`, and leaves it there to look at.
"""

from __future__ import annotations

import re
import shutil
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.table import Table
from torchvision.io import decode_image, encode_png

from vestal.archive.pack import pack
from vestal.cli.output import out as console
from vestal.client import Client, ClientError, Prediction
from vestal.errors import VestalError
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import Run
from vestal.server import Server
from vestal.training.plots import Seen, draw_grid
from vestal.training.settings import Settings
from vestal.training.train import train

MODEL, DATASET = "mnist", "digits"
VERSIONS = {"1.0": 0, "2.0": 1}  # the seed that each version is trained with


@dataclass(frozen=True)
class TestImage:
    """One held-out image as a caller has it: a file in a folder named by its label."""

    __test__ = False  # not pytest's

    file: Path
    label: str


def say(step: str, command: str = "") -> None:
    console.print(f"\n[bold]{step}[/]" + (f"  [dim]{command}[/]" if command else ""))


def prepare(project: Project) -> dict[str, Run]:
    """Trains and packs every version of the demo; gives the runs by version."""
    runs = {}
    for version, seed in VERSIONS.items():
        folder = project.runs / MODEL / f"seed-{seed}"
        command = f"vestal train {MODEL} --dataset {DATASET} --seed {seed}"
        if folder.exists():
            runs[version] = Run.read(folder)
        else:
            say(f"Train version {version}", command)
            runs[version] = train(project, MODEL, Settings(dataset=DATASET, seed=seed), folder)
        accuracy, size = runs[version].test["accuracy"], runs[version].test_size
        console.print(f"test accuracy {accuracy:.2%} of {size} held-out images")
        packed = pack(project, MODEL, version=version, weights=folder)
        console.print(f"packed {packed.archive.name}, sha256 {packed.sha256[:12]}")
    return runs


def save_test_images(project: Project) -> list[TestImage]:
    """Writes the held-out test set as `samples/<label>/<number>.png`."""
    recipe = load_recipe(project, MODEL)
    splits = recipe.splits(DATASET)
    test, labels = splits.test, splits.labels or ()
    images = []
    for index in range(len(test)):
        pixels, target = test[index]
        label = labels[target]
        file = project.root / "samples" / label / f"{index:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(encode_png(pixels).numpy()))
        images.append(TestImage(file, label))
    return images


def show_grid(client: Client, project: Project, images: Sequence[TestImage]) -> None:
    """Sixteen held-out images over HTTP, drawn beside what the model says."""
    say("Sixteen held-out images", f"vestal predict {MODEL} samples --plot grid.png")
    chosen = images[:16]
    answers = _all_answered(client.predict_many(MODEL, [image.file for image in chosen]))
    seen = []
    for image, answer in zip(chosen, answers, strict=True):
        pixels = torch.frombuffer(bytearray(image.file.read_bytes()), dtype=torch.uint8)
        seen.append(Seen(decode_image(pixels)[0].numpy(), image.label, answer["label"]))
    draw_grid(seen, project.root / "grid.png")
    right = sum(one.actual == one.predicted for one in seen)
    console.print(f"{right} of {len(seen)} right, drawn in {project.root.name}/grid.png")


def _all_answered(said: Sequence[Prediction | ClientError]) -> list[Prediction]:
    for one in said:
        if isinstance(one, ClientError):
            raise one
    return [one for one in said if not isinstance(one, ClientError)]


def measure(client: Client, images: Sequence[TestImage], run: Run) -> None:
    """The whole test set over HTTP: accuracy, latency, rate."""
    say("The whole test set over HTTP", f"{len(images)} images, 8 at once")
    start = time.perf_counter()
    said = client.predict_many(MODEL, [image.file for image in images], concurrency=8)
    seconds = time.perf_counter() - start
    answers = _all_answered(said)
    right = sum(a["label"] == i.label for a, i in zip(answers, images, strict=True))
    times = statistics.quantiles((a.latency * 1000 for a in answers), n=100)
    table = Table(box=None, pad_edge=False)
    for column in ("accuracy over HTTP", "in process", "p50 ms", "p99 ms", "requests/s"):
        table.add_column(column, justify="right")
    accuracy = right / len(images)
    table.add_row(
        f"{accuracy:.2%}",
        f"{run.test['accuracy']:.2%}",
        f"{times[49]:.1f}",
        f"{times[98]:.1f}",
        f"{len(images) / seconds:.0f}",
    )
    console.print(table)
    if right != round(run.test["accuracy"] * len(images)):
        raise VestalError("serving and training disagree about the same images: that is a defect")


def show_isolation(client: Client, images: Sequence[TestImage]) -> None:
    """A corrupt image beside good ones, in one batch: only the corrupt one is refused."""
    say("One corrupt image among good ones")
    good = [image.file.read_bytes() for image in images[:5]]
    inputs = [*good[:2], good[0][:200], *good[2:]]
    for _ in range(20):
        batches, size = _batches(client)
        answers = client.predict_many(MODEL, inputs, concurrency=len(inputs))
        after = _settled(client, size + len(inputs))
        if after == (batches + 1, size + len(inputs)):
            break
    else:
        raise VestalError("the six requests never met in one batch")
    console.print(f"one batch of {len(inputs)}, says the handler's metric vestal_batch_size")
    for answer in answers:
        if isinstance(answer, ClientError):
            console.print(
                f"  [red]{answer.status} {answer.server_type}[/]: {answer.server_message}"
            )
        else:
            console.print(f"  200 {answer['label']} ({answer['probability']:.1%})")
    refused = [isinstance(answer, ClientError) for answer in answers]
    if refused != [False, False, True, False, False, False]:
        raise VestalError("the corrupt image did not fail alone: that is a defect")


def _batches(client: Client) -> tuple[int, int]:
    """How many batches the workers had so far, and how many requests in them."""
    page = client.metrics_text()

    def total(name: str) -> int:
        found = re.findall(rf"^vestal_batch_size_{name}{{[^}}]*}} ([\d.]+)$", page, re.MULTILINE)
        return round(sum(map(float, found)))

    return total("count"), total("sum")


def _settled(client: Client, size: int, seconds: float = 10.0) -> tuple[int, int]:
    """The counts once they hold `size` requests: they come through the worker's stdout, later."""
    until = time.monotonic() + seconds
    while (counts := _batches(client))[1] < size and time.monotonic() < until:
        time.sleep(0.02)
    return counts


@dataclass
class Traffic:
    """Callers that do not stop; every request of theirs is counted, whatever becomes of it."""

    client: Client
    images: Sequence[TestImage]
    callers: int = 4
    deadline: float = 20.0
    sent: int = 0
    answered: Counter[str | None] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._count = threading.Lock()
        self._pool = ThreadPoolExecutor(self.callers)

    def __enter__(self) -> Traffic:
        self._running = [self._pool.submit(self._call, n) for n in range(self.callers)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for caller in self._running:
            caller.result()

    def _call(self, start: int) -> None:
        position = start
        while not self._stop.is_set():
            position += self.callers
            image = self.images[position % len(self.images)].file
            with self._count:
                self.sent += 1
            said: Prediction | ClientError
            try:
                said = self.client.predict(MODEL, image, timeout=self.deadline)
            except ClientError as error:
                said = error
            with self._count:
                if isinstance(said, ClientError):
                    self.failed[type(said).__name__] += 1
                else:
                    self.answered[said.version] += 1

    def wait_for(self, version: str, requests: int, seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        target = self.answered[version] + requests
        while self.answered[version] < target:
            if time.monotonic() > until:
                raise VestalError(f"version {version} answered no {requests} requests in time")
            time.sleep(0.02)


def swap(client: Client, images: Sequence[TestImage]) -> None:
    """Version 2.0 takes over from 1.0 while requests run."""
    say("Swap to version 2.0 while requests run")
    with Traffic(client, images) as traffic:
        traffic.wait_for("1.0", 50)
        # Its worker imports torch while four callers keep the cores busy.
        client.register(f"{MODEL}-2.0.mar", model=MODEL, timeout=120)
        console.print("2.0 registered, its worker READY")
        probe = client.predict(MODEL, images[0].file, version="2.0")
        console.print(f"2.0 probed: {images[0].file.name} is a {probe['label']}")
        client.set_default(MODEL, "2.0")
        console.print("2.0 is the default")
        traffic.wait_for("2.0", 50)
        client.unregister(MODEL, "1.0", drain=True)
        console.print("1.0 idle, and unregistered")
        traffic.wait_for("2.0", 50)
    table = Table(box=None, pad_edge=False)
    for column in ("sent", "answered by 1.0", "answered by 2.0", "failed", "hung"):
        table.add_column(column, justify="right")
    hung = traffic.failed.pop("DeadlineExceeded", 0)
    failed = sum(traffic.failed.values())
    by_version = [traffic.answered["1.0"], traffic.answered["2.0"]]
    table.add_row(*map(str, (traffic.sent, *by_version, failed, hung)))
    console.print(table)
    if failed or hung or sum(by_version) != traffic.sent:
        raise VestalError(f"the swap lost requests {dict(traffic.failed)}: that is a defect")


def demo(folder: Path) -> None:
    """Runs every step in a fresh project at `folder` (an earlier demo there is removed).

    Raises:
        VestalError: a step failed, or its result was not what Vestal promises.
    """
    start = time.perf_counter()
    project = Project(folder.resolve())
    if folder.exists():
        if not (project.runs / MODEL).is_dir():
            raise VestalError(f"{folder} is in the way and is no earlier demo: move it away")
        shutil.rmtree(folder)
    folder.mkdir()
    runs = prepare(project)
    images = save_test_images(project)
    say("Serve version 1.0", f"vestal serve --models {MODEL}={MODEL}-1.0.mar")
    with (
        Server(
            project, [f"{MODEL}={MODEL}-1.0.mar"], port=0, on_event=lambda t: console.print(t)
        ) as server,
        Client(
            server.ready.inference,
            management=server.ready.management,
            metrics=server.ready.metrics,
            key_file=server.ready.key_file,
        ) as client,
    ):
        show_grid(client, project, images)
        measure(client, images, runs["1.0"])
        show_isolation(client, images)
        swap(client, images)
        say("Stop the server")
    console.print(f"stopped; {project.root.name}/ keeps runs, archives, images and logs")
    console.print(f"\n[bold green]Done[/] in {time.perf_counter() - start:.0f} s")
