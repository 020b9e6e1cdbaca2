"""Planted defects: a code, a description, and how it gets into an archive."""

from __future__ import annotations

import gzip
import json
import pickle
import stat
import zipfile
import zlib

import torch
from check_archives import BILL, HANDLE, Net, ours, saved, stock
from check_archives import torchscript as as_torchscript
from check_planting import (
    CONFIG_FILE,
    Defect,
    Evil,
    after_packing,
    bill,
    data,
    foreign_handler,
    member,
    model,
    nul_member,
    numpy_fields,
    numpy_objects,
    plain,
    scripted,
    setting,
    text,
    together,
    without,
    zip_of,
)

TWO = "class One:\n    pass\n\n\nclass Two:\n    pass\n"
# pickletools stops here, but Python unpickles it: the scan does not see the call behind it.
HIDDEN = b"I0x1\n0" + pickle.dumps(Evil(), 0)
UNREAD = {
    "a pickle that pickletools cannot read": ("extra.pkl", HIDDEN),
    "one in a zip": ("more.pt2", zip_of(**{"data.pkl": HIDDEN})),
    "a compressed one": ("extra.pkl.gz", gzip.compress(pickle.dumps(Evil()))),
    "a compressed joblib file": ("extra.joblib", zlib.compress(pickle.dumps(Evil()))),
}

DEFECTS = [
    # the zip itself
    Defect("zip-slip", "a member leaves the folder", member("../evil.py")),
    Defect("zip-slip", "a member leaves the folder with backslashes", member("a\\..\\..\\evil.py")),
    Defect("backslash-name", "a member was packed on Windows", member("tools\\util.py")),
    Defect("absolute-path", "a member has an absolute path", member("/etc/cron.d/evil")),
    Defect("absolute-path", "a member has a drive letter", member("C:\\evil.py")),
    Defect("link", "a member is a link", member("data", b"/etc/passwd", stat.S_IFLNK | 0o777)),
    Defect("duplicate-name", "two members have one name", member("handler.py", TWO.encode())),
    Defect("duplicate-name", "two names are one file", member("./handler.py", b"x = 1")),
    Defect("duplicate-name", "a file is also a folder", member("handler.py/x.txt")),
    Defect(
        "zip-bomb",
        "two million zeros in two thousand bytes",
        member("zeros.bin", bytes(2_000_000), 0, zipfile.ZIP_DEFLATED),
    ),
    Defect(
        "zip-unsupported",
        "a member is compressed by bzip2",
        member("notes.txt", b"notes" * 99, 0, zipfile.ZIP_BZIP2),
    ),
    # the manifest
    Defect("no-manifest", "there is no manifest", lambda draft: setattr(draft, "manifest", None)),
    Defect(
        "bad-manifest",
        "the manifest has no model",
        lambda draft: setattr(draft, "manifest", {"runtime": "python"}),
    ),
    Defect(
        "bad-manifest",
        "the runtime is unknown",
        lambda draft: draft.manifest.update(runtime="ruby"),  # type: ignore[union-attr]
    ),
    Defect("bad-manifest", "the name has a space and a slash", model(modelName="my model/1")),
    Defect("bad-manifest", "the version is missing", model(modelVersion=None), ours, "warning"),
    Defect("bad-manifest", "there is no handler", model(handler=None)),
    Defect("bad-manifest", "the weights are a number", model(serializedFile=7)),
    Defect("manifest-file", "the weights are missing", without("model.pth")),
    Defect("manifest-file", "the config is missing", without(CONFIG_FILE)),
    Defect("no-handler", "the handler is missing", without("handler.py")),
    Defect("no-handler", "no stock handler has this name", model(handler="image_clasifier")),
    # names that other programs read differently
    Defect("zip-slip", "a name continues after a NUL", nul_member("handler.py", "../evil.py")),
    Defect("duplicate-name", "a folder has the name of a file", member("handler.py/", b"")),
    # sources
    Defect("syntax", "a file does not compile", text("transforms.py", "def transform(:\n")),
    Defect("syntax", "nonlocal outside of a function", text("handler.py", "nonlocal x\n")),
    Defect("handler-classes", "the handler defines two classes", text("handler.py", TWO)),
    Defect("handler-classes", "the handler defines no class", text("handler.py", "x = 1\n")),
    Defect(
        "handler-methods",
        "its function is a coroutine",
        foreign_handler(f"async {HANDLE}"),
        plain,
    ),
    Defect(
        "handler-methods",
        "its method is a coroutine",
        foreign_handler(
            "class H:\n    def initialize(self, context): ...\n\n"
            "    async def handle(self, data, context): ...\n"
        ),
        plain,
    ),
    # imports
    Defect(
        "shadowing",
        "a file with the name of Python's codecs is imported",
        together(
            text("codecs.py", "x = 1\n"),
            lambda draft: draft.change("handler.py", "\nfrom", "\nimport codecs\nfrom"),
        ),
    ),
    Defect("shadowing", "a file is named profile", text("profile.py", "x = 1"), plain, "warning"),
    Defect("shadowing", "a package is named torch", text("torch/__init__.py", "x = 1")),
    Defect(
        "import-missing",
        "a module of the archive is missing",
        lambda draft: draft.change("model.py", "\nfrom", "\nimport vestal_handlers.layers\nfrom"),
    ),
    Defect(
        "import-missing",
        "a relative import outside of a package",
        lambda draft: draft.change("model.py", "\nfrom", "\nfrom . import layers\nfrom"),
    ),
    Defect(
        "import-missing",
        "a package that is not installed here",
        foreign_handler("import cv2\n\n\ndef handle(data, context):\n    return data\n"),
        plain,
        "warning",
    ),
    Defect(
        "import-missing",
        "a helper module was forgotten",
        foreign_handler(f"import my_tools\n\n\n{HANDLE}"),
        plain,
        "warning",
    ),
    # model-config.yaml
    Defect("config-misspelt", "batch_size for batchSize", setting("batchSize", "batch_size")),
    Defect("config-misspelt", "maxBatchDelays", setting("maxBatchDelay", "maxBatchDelays")),
    Defect("config-type", "a float for an integer", setting("Timeout: 60", "Timeout: 120.0")),
    Defect("config-type", "a string for an integer", setting("batchSize: 2", 'batchSize: "2"')),
    Defect("config-type", "true for an integer", setting("batchSize: 2", "batchSize: true")),
    Defect("config-value", "maxBatchDelay: 0", setting("Delay: 10", "Delay: 0")),
    Defect("config-value", "batchSize: 0", setting("batchSize: 2", "batchSize: 0")),
    Defect("config-value", "an unknown device", setting("\nbatch", "\ndeviceType: tpu\nbatch")),
    Defect("config-workers", "minWorkers without maxWorkers", setting("maxWorkers: 1\n", "")),
    Defect(
        "config-workers",
        "minWorkers is larger than maxWorkers",
        setting("minWorkers: 1", "minWorkers: 2"),
    ),
    Defect(
        "config-duplicate",
        "a key appears twice",
        setting("\nbatch", "\nbatchSize: 8\nbatch"),
        ours,
        "warning",
    ),
    Defect(
        "config-duplicate",
        "an option appears twice",
        setting("top_k: 2", "top_k: 2\n  top_k: 1"),
        ours,
        "warning",
    ),
    Defect("config-value", "a number of 5000 digits", setting("Size: 2", f"Size: 0x{'f' * 5000}")),
    Defect(
        "config-misspelt",
        "batchSize is nested in another key",
        together(
            model(configFile=CONFIG_FILE),
            text(CONFIG_FILE, "micro_batching: {batchSize: 2}\n"),
        ),
        stock,
    ),
    Defect(
        "config-unknown",
        "an unknown key",
        setting("\nbatch", "\ncolour: blue\nbatch"),
        ours,
        "warning",
    ),
    Defect(
        "config-risky",
        "a timeout after which clients get no response",
        setting("\nbatch", "\nclientTimeoutInMills: 100\nbatch"),
        ours,
        "warning",
    ),
    Defect("config-file", "it is not YAML", text(CONFIG_FILE, "batchSize: [1\n")),
    Defect("config-file", "it is empty", text(CONFIG_FILE, "")),
    Defect("config-file", "it creates an object", setting("10", "!!python/name:os.system")),
    Defect("config-unused", "the manifest does not name it", model(configFile=None)),
    Defect("option", "a misspelt option", setting("top_k", "topk")),
    Defect("option", "an option of another type", setting("top_k: 2", "top_k: two")),
    # files
    Defect("pickle-code", "a pickle runs a command", data("extra.pkl", pickle.dumps(Evil()))),
    Defect("pickle-code", "an old pickle runs a command", data("old.pkl", pickle.dumps(Evil(), 0))),
    Defect("pickle-code", "a pickle by another name", data("notes.txt", pickle.dumps(Evil()))),
    Defect("pickle-code", "weights run a command", data("model.pth", saved({"w": Evil()}))),
    Defect(
        "pickle-code",
        "weights in the older format run a command",
        data("old.bin", saved([Evil()], _use_new_zipfile_serialization=False)),
    ),
    Defect(
        "pickle-code",
        "weights in an exported model run a command",
        data("more.pt2", zip_of(**{"data/sample_inputs/model.pt": saved([Evil()])})),
    ),
    Defect("pickle-code", "an array of objects runs a command", data("table.npy", numpy_objects())),
    Defect("pickle-code", "a field of an array runs a command", data("table.npy", numpy_fields())),
    Defect(
        "pickle-code",
        "an array of objects with unusual spacing in its header runs a command",
        data("table.npy", numpy_objects().replace(b"'descr': '|O'", b"'descr' :'|O'")),
    ),
    *(
        Defect("pickle-unread", sentence, data(name, content), ours, "warning")
        for sentence, (name, content) in UNREAD.items()
    ),
    Defect(
        "pickle-globals",
        "a whole model instead of weights for the eager engine",
        data("model.pth", saved(torch.nn.Linear(2, 2))),
    ),
    Defect(
        "pickle-globals",
        "a whole model instead of its weights",
        data("other.pth", saved(torch.nn.Linear(2, 2))),
        ours,
        "warning",
    ),
    Defect(
        "pickle-globals",
        "a whole model instead of weights for a handler of TorchServe",
        data("net.pth", saved(torch.nn.Linear(2, 2))),
        stock,
    ),
    Defect("damaged", "the weights are truncated", data("model.pt2", saved({})[:-90] + b"PK\5\6")),
    Defect("weights-kind", "a .pt that is not TorchScript", data("net.pt", saved({})), scripted),
    Defect("weights-kind", "a stock handler without weights", model(serializedFile=None), scripted),
    Defect(
        "weights-kind",
        "TorchScript with a model file",
        data("net.pth", as_torchscript(Net())),
        stock,
    ),
    Defect("labels", "a label is a number", text("index_to_name.json", '{"0": 0}')),
    Defect(
        "labels",
        "two classes have the same label",
        text("index_to_name.json", '{"0": "crane", "1": "crane"}'),
        severity="warning",
    ),
    Defect(
        "labels",
        "two labels for a classifier that returns five",
        text("index_to_name.json", '{"0": "even", "1": "odd"}'),
        stock,
    ),
    Defect("bill-mismatch", "a file was changed", after_packing("transforms.py", "x = 1\n")),
    Defect("bill-mismatch", "a file was added", after_packing("more.txt", "x")),
    Defect("bad-bill", "the bill is not JSON", text(BILL, "{")),
    Defect("bad-bill", "its engine is a list", bill(engine=["eager"])),
    Defect("bad-bill", "its artifact is a number", bill(artifact=7)),
    Defect("sample", "its input is missing", without("sample/input.png")),
    Defect(
        "sample",
        "its tolerance does not fit a float",
        lambda draft: draft.change("sample/sample.json", "0.0001", f"1{'0' * 400}"),
    ),
    Defect(
        "sample",
        "its input is outside of its folder",
        text(
            "sample/sample.json",
            json.dumps({"input": "../model.pth", "content_type": "", "answer": 1}),
        ),
    ),
]
