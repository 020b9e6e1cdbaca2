"""Load an archive in a child process, with limits of time and memory, and predict its sample."""

from __future__ import annotations

import time

from vestal.inprocess.archive_process import ArchiveProcess, LoadFailed
from vestal.inprocess.child_process import ChildDied, ChildTimeout
from vestal.inprocess.frontend import Frontend, RawRequest
from vestal.inprocess.messages import Response
from vestal.mar.findings import Finding
from vestal.mar.opening import Contents
from vestal.mar.sample import Sample, find_difference, read_sample, value_of

SECONDS = 120.0
MEMORY = 8 << 30  # bytes
_NO_LIMIT = 1 << 62
_TODO = {
    "option": "correct it in model-config.yaml and pack again",
    "weights-mismatch": "pack the weights with the architecture that they were trained with",
    "load-failed": "run the archive with vestal run to see the whole traceback",
    "answer-refused": "send the sample with vestal run to see the whole error",
    "answer-differs": "pack the archive again, so that weights and sample are of the same "
    "training; or this torch or machine differs from the one that packed it",
    "memory": "set a higher limit with --memory, and provide as much on the server",
    "timeout": "look for a loop or a download in the handler, or set a higher limit with --timeout",
    "crash": "look for native code and os._exit in the handler, and run it with vestal run; "
    "SIGKILL usually means that the machine ran out of memory",
}


def run(contents: Contents, *, seconds: float = SECONDS, memory: int = MEMORY) -> list[Finding]:
    """Load the archive, predict its sample and compare the prediction.

    Args:
        seconds: time limit for all of it; importing torch takes several seconds.
        memory: bytes that the process may allocate; torch itself takes about 900 MB.

    Raises:
        VestalError: the disk is full.
    """
    deadline = time.monotonic() + seconds
    frontend = Frontend(max_request_size=_NO_LIMIT, decode=False)
    doing = "loading"
    try:
        with ArchiveProcess(
            contents.folder, "", frontend, batch_size=None, seconds=seconds, memory=memory
        ) as process:
            process.wait_until_loaded()
            sample = read_sample(contents.folder)
            if sample is None:
                return []
            doing = "predicting the sample"
            request = RawRequest(sample.name, sample.input, sample.content_type)
            response, _ = process.predict(request, max(0.0, deadline - time.monotonic()))
    except LoadFailed as error:
        return [_finding(_code_of(error), f"{error.kind}: {_first_lines(error.reason)}")]
    except ChildTimeout:
        return [_finding("timeout", f"{doing} had not ended after {seconds:g} s")]
    except ChildDied as error:
        meaning = f"the process ended with {error.ending} while {doing}: {error.output}"
        return [_finding("crash", meaning)]
    return _compare(sample, response)


def _compare(sample: Sample, response: Response) -> list[Finding]:
    text = response.body.decode("utf-8", "replace")
    if response.status != 200:
        return [_finding("answer-refused", f"status {response.status}: {_first_lines(text)}")]
    try:
        value = value_of(response.body, response.headers.get("content-type", ""))
        difference = find_difference(sample.answer, value, sample.tolerance)
    except Exception as error:  # an archive can respond with anything
        return [_finding("answer-refused", f"{type(error).__name__}: {error}")]
    return [_finding("answer-differs", difference)] if difference else []


def _finding(code: str, meaning: str) -> Finding:
    return Finding.error(code, "", meaning, _TODO[code])


def _code_of(error: LoadFailed) -> str:
    if error.kind == "OptionError":
        return "option"
    if error.kind.endswith("MemoryError") or "can't allocate memory" in error.reason:
        return "memory"
    mismatches = ("Error(s) in loading state_dict", "does not fit build()")
    if any(text in error.reason for text in mismatches):
        return "weights-mismatch"
    return "load-failed"


def _first_lines(text: str, lines: int = 6) -> str:
    kept = [line.strip() for line in text.strip().splitlines() if line.strip()]
    more = f" ... and {len(kept) - lines} more" if len(kept) > lines else ""
    return "; ".join(kept[:lines]) + more
