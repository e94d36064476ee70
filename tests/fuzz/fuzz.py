"""Coverage-guided fuzzing of the readers, with atheris (libFuzzer for Python): ``pip install atheris``.

python tests/fuzz/fuzz.py image --seconds 300       one target
python tests/fuzz/fuzz.py all --seconds 1800        every target in turn, 100 seconds each

The seeds in ``corpus/<target>/`` are where it starts. What it finds on the way goes to --scratch, and so does every
input on which a target (``targets.py``) raised anything but our own errors: one for each place in the code, below
``crashes/``. The last line on the screen counts inputs and crashes. Add the input of a mended crash to the seeds: the
test suite then tries it for ever.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

TARGETS = ("archive", "image", "model", "recipe", "csv")
_ROUND = 100  # seconds of a target, where all take turns
# Smaller limits than a user's: the same code is reached, and a bomb costs milliseconds.
_MEMBER_BYTES, _PIXELS = 2**20, 250_000
_LONGEST = 16_384


def main() -> int:
    """Read the arguments and fuzz; the exit status is 1 if anything crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "fuzz")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # libFuzzer ends its process
    given = parser.parse_args()
    if given.inside:
        _fuzz(given.target, given.seconds, given.scratch)
    names = list(TARGETS) if given.target == "all" else [given.target]
    length = min(_ROUND, -(-given.seconds // len(names))) if len(names) > 1 else given.seconds
    left = given.seconds
    while left > 0:
        for name in names:
            _watch(name, length, given.scratch)
        left -= length * len(names)
    crashes = list((given.scratch / "crashes").glob("*.input"))
    print(f"{len(crashes)} crashes in {given.scratch / 'crashes'}")  # noqa: T201 - a program of its own
    return int(bool(crashes))


def _watch(target: str, seconds: int, scratch: Path) -> None:
    """Fuzz one target in a process of its own, and tell what it did."""
    command = [sys.executable, __file__, target, "--seconds", str(seconds), "--scratch", str(scratch), "--inside"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode:
        crashes = scratch / "crashes"
        (crashes / f"{target}-process-{int(time.time())}.txt").write_text(done.stderr[-20_000:], "utf-8")
    print(  # noqa: T201
        f"{target}: {time.monotonic() - start:.0f} s, {found[1] if found else '?'} inputs, "
        f"coverage {covered[-1] if covered else '?'}, exit status {done.returncode}",
        flush=True,
    )


def _fuzz(target: str, seconds: int, scratch: Path) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    atheris: Any = importlib.import_module("atheris")  # not among the tools of every checkout
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with atheris.instrument_imports(include=["fingerspell", "PIL", "zipfile", "tarfile", "tomllib", "csv"]):
        from fingerspell import archive, images
        from fuzz.targets import CORPUS
        from fuzz.targets import TARGETS as RUN

    archive.MAX_MEMBER_BYTES, images.MAX_PIXELS = _MEMBER_BYTES, _PIXELS
    crashes, corpus = scratch / "crashes", scratch / "corpus" / target
    for folder in (crashes, corpus):
        folder.mkdir(parents=True, exist_ok=True)

    def one(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            try:
                RUN[target](data, Path(folder))
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                _keep(target, data, error, crashes)

    options = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", "-rss_limit_mb=4096", "-timeout=60"]
    options += ["-print_final_stats=1", f"-artifact_prefix={crashes}/{target}-native-"]
    atheris.Setup([sys.argv[0], *options, str(corpus), str(CORPUS / target)], one)
    atheris.Fuzz()


def _keep(target: str, data: bytes, error: Exception, crashes: Path) -> None:
    """Write down the input, the first for each place that raises."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    name = hashlib.sha256(" ".join([type(error).__name__, *places]).encode()).hexdigest()[:12]
    path = crashes / f"{target}-{name}.input"
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)), "utf-8")


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - scratch files, deleted at once


if __name__ == "__main__":
    sys.exit(main())
