"""Arguments and options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name of a model (mnist) or its folder.")
]
ARCHIVE_HELP = (
    "Path of an archive (.mar or unpacked folder), or its name in the model store: mnist-1.0, or "
    "mnist if there is one version."
)
Archive = Annotated[str, typer.Argument(metavar="ARCHIVE", help=ARCHIVE_HELP)]
ModelOrArchive = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|ARCHIVE",
        help="Name of a model (mnist) or its folder, for the weights of its newest training; or "
        "an archive: its path, or its name in the model store (mnist-1.0).",
    ),
]
ServedModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="Served model: mnist, mnist-1.0, or its archive.")
]
Version = Annotated[
    str | None,
    typer.Option(
        help="Version of the archive or served model, such as 1.0. Default: the only or "
        "the default one."
    ),
]
Texts = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Text to send; repeat for several.")
]
Url = Annotated[
    str | None, typer.Option(help="Base URL of the server. Default: the server of this project.")
]
Dataset = Annotated[str | None, typer.Option(help="Data set of the recipe. Default: the only one.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder or file with the data, for a data set that is not downloaded."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Folder of a training; state_dict, TorchScript, .pt2, .onnx, .xml or safetensors "
        "file; Hugging Face folder; or name of weights in the recipe. Default: the newest training."
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        help="eager, torchscript, exported, compiled, onnx or openvino. Default: the one for the "
        "weights."
    ),
]
Precision = Annotated[
    str | None, typer.Option(help="fp32, bf16, fp16 or int8. Default: as in model-config.yaml.")
]
RequestTimeout = Annotated[float, typer.Option(help="Time limit for each request, in seconds.")]
