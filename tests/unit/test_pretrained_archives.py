"""An archive of each task of pretrained models: packed from its folder, checked and run."""

from __future__ import annotations

import pytest
from pretrained_folders import FOLDERS
from pretrained_models import REQUESTS, TASKS, body

from vestal.archive.pack import pack
from vestal.checking import check
from vestal.inprocess import LoadedArchive
from vestal.project import Project

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", FOLDERS)
def test_the_archive_of_a_task_has_no_findings(tmp_path, name):
    folder, project = tmp_path / "folder", Project(tmp_path)
    FOLDERS[name](folder)
    task = name if name in TASKS else None
    packed = pack(project, "task", version="1.0", weights=folder, task=task)
    assert packed.no_sample is None
    report = check(packed.archive, run=True)
    assert (report.findings, report.ran) == ((), True)
    with LoadedArchive(packed.archive) as loaded:
        responses = loaded.predict([body(each) for each in REQUESTS[name]])
        assert [response.status for response in responses] == [200] * len(responses)
