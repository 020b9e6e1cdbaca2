"""`make load`: a short load test of the demo's model. Arguments are those of `vestal load`."""

import os
import subprocess
import sys
from pathlib import Path

from vestal.demo import MODEL, prepare, save_test_images
from vestal.errors import VestalError
from vestal.fleet.server import Server
from vestal.project import Project

project = Project(Path("demo").resolve())
try:
    prepare(project)
    save_test_images(project)
    with Server(project, [f"{MODEL}={MODEL}-1.0.mar"], port=0):
        command = [sys.executable, "-m", "vestal", "load", MODEL, "samples", *sys.argv[1:]]
        sys.exit(subprocess.run(command, cwd=project.root, env=os.environ, check=False).returncode)
except VestalError as error:
    sys.exit(f"load: {error}")
