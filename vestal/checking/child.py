"""The process that runs an archive: `python -m vestal.checking.child FOLDER REPORT`.

It appends a line of JSON to REPORT for every step, so that its parent knows where it died:
{"step": "load"}, {"step": "sample"}, {"step": "done"}, or {"failed": code, "meaning": text}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from vestal.children import end_with_parent


def main(folder: Path, report: Path) -> None:
    def say(**facts: Any) -> None:
        with report.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")

    say(step="import")
    from vestal.inprocess import Input, LoadedArchive
    from vestal.mar.sample import matches, read_sample, value_of

    say(step="load")
    os.chdir(folder)  # a worker's, for its whole life; now that all of ours is imported
    try:
        loaded = LoadedArchive(folder)
    except Exception as error:
        cause = error.__cause__ or error
        say(failed=_code(cause), meaning=f"{type(cause).__name__}: {cause}")
        return
    with loaded:
        say(step="sample")
        try:
            sample = read_sample(folder)
            if sample is not None:
                (answer,) = loaded.predict([Input.raw(sample.input, sample.content_type)])
                if answer.status != 200:
                    text = answer.body.decode("utf-8", "replace")
                    say(failed="answer-refused", meaning=f"status {answer.status}: {text}")
                    return
                value = value_of(answer.body, answer.headers.get("content-type", ""))
                difference = matches(sample.answer, value, sample.tolerance)
                if difference:
                    say(failed="answer-differs", meaning=difference)
        except Exception as error:
            say(failed=_code(error, "answer-refused"), meaning=f"{type(error).__name__}: {error}")
            return
    say(step="done")


def _code(error: BaseException, otherwise: str = "load-failed") -> str:
    text = str(error)
    if type(error).__name__ == "OptionError":
        return "option"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "memory"
    unfit = "Error(s) in loading state_dict" in text or "does not fit build()" in text
    return "weights-mismatch" if unfit else otherwise


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
