"""`make demo`: train, pack and serve a model, and replace its version under load.

The demo uses a project folder of its own, `demo/`, and keeps it for inspection.
"""

from __future__ import annotations

import re
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torchvision.io import decode_image, encode_png

from vestal.archive.pack import pack
from vestal.cli.output import out as console
from vestal.client import Client, ClientError, Prediction
from vestal.demo_photos import show_photos
from vestal.demo_traffic import Traffic
from vestal.errors import VestalError
from vestal.fleet.server import Server
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import Run
from vestal.training.plots import PredictedImage, draw_grid
from vestal.training.settings import Settings
from vestal.training.train import train

MODEL, DATASET = "mnist", "digits"
VERSIONS = {"1.0": 0, "2.0": 1}  # version -> seed of its training


@dataclass(frozen=True)
class TestImage:
    """One held-out image: a file in a folder that is named by its label."""

    __test__ = False  # pytest must not collect it

    file: Path
    label: str


def print_step(step: str, command: str = "") -> None:
    console.print(f"\n[bold]{step}[/]" + (f"  [dim]{command}[/]" if command else ""))


def prepare(project: Project) -> dict[str, Run]:
    """Train and pack every version of the demo; return the trainings by version."""
    runs = {}
    for version, seed in VERSIONS.items():
        folder = project.runs / MODEL / f"seed-{seed}"
        command = f"vestal train {MODEL} --dataset {DATASET} --seed {seed}"
        if folder.exists():
            runs[version] = Run.read(folder)
        else:
            print_step(f"Train version {version}", command)
            runs[version] = train(project, MODEL, Settings(dataset=DATASET, seed=seed), folder)
        accuracy, size = runs[version].test["accuracy"], runs[version].test_size
        console.print(f"Test accuracy: {accuracy:.2%} on {size} held-out images")
        packed = pack(project, MODEL, version=version, weights=folder)
        console.print(f"Packed {packed.archive.name}, sha256 {packed.sha256[:12]}")
    return runs


def save_test_images(project: Project) -> list[TestImage]:
    """Write the held-out test set to `samples/<label>/<number>.png`."""
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
    """Predict sixteen held-out images over HTTP and draw them with their labels."""
    print_step("Sixteen held-out images", f"vestal predict {MODEL} samples --plot grid.png")
    shown = images[:16]
    answers = _all_answered(client.predict_many(MODEL, [image.file for image in shown]))
    predicted = []
    for image, answer in zip(shown, answers, strict=True):
        pixels = torch.frombuffer(bytearray(image.file.read_bytes()), dtype=torch.uint8)
        array = decode_image(pixels)[0].numpy()
        predicted.append(PredictedImage(array, image.label, answer["label"]))
    draw_grid(predicted, project.root / "grid.png")
    right = sum(one.actual == one.predicted for one in predicted)
    console.print(f"{right} of {len(predicted)} correct; plot: {project.root.name}/grid.png")


def _all_answered(outcomes: Sequence[Prediction | ClientError]) -> list[Prediction]:
    for outcome in outcomes:
        if isinstance(outcome, ClientError):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, ClientError)]


def measure(client: Client, images: Sequence[TestImage], run: Run) -> None:
    """Predict the whole test set over HTTP; print accuracy, latency and rate."""
    print_step("The whole test set over HTTP", f"{len(images)} images, 8 concurrent requests")
    start = time.perf_counter()
    outcomes = client.predict_many(MODEL, [image.file for image in images], concurrency=8)
    seconds = time.perf_counter() - start
    answers = _all_answered(outcomes)
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
        raise VestalError("serving and training differ on the same images; this is a bug in Vestal")


def show_isolation(client: Client, images: Sequence[TestImage]) -> None:
    """Send a corrupt image in a batch with good ones: only the corrupt one is refused."""
    print_step("One corrupt image among good ones")
    good = [image.file.read_bytes() for image in images[:5]]
    inputs = [*good[:2], good[0][:200], *good[2:]]
    for _ in range(20):
        batches, size = _batches(client)
        with ThreadPoolExecutor(1) as pool:
            # While the worker computes these 200 images, the six requests wait together.
            busy = pool.submit(client.predict, MODEL, {"instances": [good[0]] * 200})
            time.sleep(0.05)
            answers = client.predict_many(MODEL, inputs, concurrency=len(inputs))
            busy.result()
        after = _settled(client, size + len(inputs) + 1)
        if after == (batches + 2, size + len(inputs) + 1):
            break
    else:
        raise VestalError("the six requests were never in one batch")
    console.print(f"One batch of {len(inputs)} requests (metric vestal_batch_size)")
    for answer in answers:
        if isinstance(answer, ClientError):
            console.print(
                f"  [red]{answer.status} {answer.server_type}[/]: {answer.server_message}"
            )
        else:
            console.print(f"  200 {answer['label']} ({answer['probability']:.1%})")
    refused = [isinstance(answer, ClientError) for answer in answers]
    if refused != [False, False, True, False, False, False]:
        raise VestalError("the corrupt image did not fail alone; this is a bug in Vestal")


def _batches(client: Client) -> tuple[int, int]:
    """Number of batches that the workers have processed, and of requests in them."""
    page = client.metrics_text()

    def total(name: str) -> int:
        found = re.findall(rf"^vestal_batch_size_{name}{{[^}}]*}} ([\d.]+)$", page, re.MULTILINE)
        return round(sum(map(float, found)))

    return total("count"), total("sum")


def _settled(client: Client, size: int, seconds: float = 10.0) -> tuple[int, int]:
    """The counts once they include `size` requests: they arrive late, through stdout."""
    deadline = time.monotonic() + seconds
    while (counts := _batches(client))[1] < size and time.monotonic() < deadline:
        time.sleep(0.02)
    return counts


def swap(client: Client, images: Sequence[TestImage]) -> None:
    """Replace version 1.0 by 2.0 during traffic."""
    print_step("Replace version 1.0 by 2.0 during traffic")
    with Traffic(client, MODEL, [image.file for image in images]) as traffic:
        traffic.wait_for("1.0", 50)
        # Its worker imports torch while four callers keep the cores busy.
        client.register(f"{MODEL}-2.0.mar", model=MODEL, timeout=120)
        console.print("2.0 is registered and its worker is READY")
        probe = client.predict(MODEL, images[0].file, version="2.0")
        console.print(f"2.0 predicts {probe['label']} for {images[0].file.name}")
        client.set_default(MODEL, "2.0")
        console.print("2.0 is the default")
        traffic.wait_for("2.0", 50)
        client.unregister(MODEL, "1.0", drain=True)
        console.print("1.0 is idle and unregistered")
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
        raise VestalError(
            f"the swap lost requests ({dict(traffic.failed)}); this is a bug in Vestal"
        )


def demo(folder: Path, photo: Path | None = None) -> None:
    """Run every step in a new project at `folder`; an earlier demo there is removed.

    Args:
        photo: is classified besides the photographs of scikit-learn.

    Raises:
        VestalError: a step failed or had a wrong result.
    """
    start = time.perf_counter()
    if photo is not None and not photo.is_file():
        raise VestalError(f"no file {photo}: PHOTO expects a picture")
    project = Project(folder.resolve())
    if folder.exists():
        if not (project.runs / MODEL).is_dir():
            raise VestalError(
                f"{folder} exists and is not an earlier demo; move it to another place"
            )
        shutil.rmtree(folder)
    folder.mkdir()
    runs = prepare(project)
    images = save_test_images(project)
    print_step("Serve version 1.0", f"vestal serve --models {MODEL}={MODEL}-1.0.mar")
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
        print_step("Photographs", "vestal fetch imagenet; vestal pack imagenet --version 1.0")
        show_photos(client, project, photo)
        print_step("Stop the server")
    console.print(f"Stopped. Runs, archives, images and logs are in {project.root.name}/")
    console.print(f"\n[bold green]Done[/] in {time.perf_counter() - start:.0f} s")
