"""What a run costs: whole commands against the study's recipe in Keras, and the network against the processor.

    python benchmarks/speed.py ARCHIVE --weights vgg16_notop.safetensors --keras KERAS/bin/python --out runs/speed

`make bench ARCHIVE=... WEIGHTS=...` makes both environments and runs this. Every command is a fresh process, timed from
outside; nothing else should run on the machine meanwhile (the column "others" shows what did). All results go to
DIR/speed.json after every step, so that a benchmark that was killed goes on with what is missing; the tables go to
stdout and DIR/speed.md, the figure to DIR/speed.png.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fingerspell.files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from fingerspell.archive import Archive
    from fingerspell.backbones import Backbone, Network
    from fingerspell.dataset import Picture
    from fingerspell.engines import NetworkEngine

    Pictures = NDArray[np.uint8]
    Vectors = NDArray[np.float32]
    Results = dict[str, Any]

Argument = TypeVar("Argument")
Result = TypeVar("Result")

WARM_RUNS = 3
READY = 320  # pictures for the engines: whole batches of 64 and of 16
EXTRACTED = 1500  # pictures of the extraction; two views each
MATRIX = 2048  # side of the matrices whose product is the ceiling: 17 GFLOP, far beyond the caches
PRODUCTS = 5

# Seconds before anything was measured, for the time left alone: two cores, float32 on one side and 8 bits on the other.
_NOMINAL = {"Keras start": 20, "Keras view": 1 / 25, "cold start": 60, "cold view": 1 / 100, "warm start": 10}


def main() -> None:
    plan = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a command under way is ended too
    ledger = Ledger(plan.out / "speed.json", facts(plan), guesses(plan))
    warm_up(plan)
    ledger.step("engines", lambda: alone(measure_engines, plan))
    ledger.step("extraction", lambda: alone(measure_extraction, plan))
    for size in plan.sizes:
        compare(plan, ledger, size)
    large = affordable(plan, ledger)
    ledger.expect("large", guesses_of(plan, large) if large else {})
    if large:
        compare(plan, ledger, large)
    ours(plan, ledger, plan.full, plan.epochs)
    ours(plan, ledger, plan.full, 2 * plan.epochs)
    results = ledger.results | {"summary": summarise(plan, ledger, [*plan.sizes, *([large] if large else [])])}
    write_text(ledger.path, as_json(results))
    text = report(results)
    write_text(plan.out / "speed.md", text)
    draw(results, plan.out / "speed.png")
    print(text)


# ----------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Plan:
    """What to measure, and where the results go."""

    archive: Path
    weights: Path
    keras: str
    sizes: tuple[int, ...]
    full: int
    epochs: int
    minutes: float
    test_per_class: int
    rounds: int
    out: Path

    @property
    def work(self) -> Path:
        """Folder of runs, caches and logs."""
        return self.out / "work"


def parse() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="VGG16 without its top, safetensors")
    parser.add_argument("--keras", required=True, help="python of the environment of reference_keras.txt")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000], help="pictures to train on, both sides")
    parser.add_argument("--full", type=int, default=26000, help="pictures of ours alone; Keras's line predicts there")
    parser.add_argument("--epochs", type=int, default=5, help="twice as many are measured or predicted too")
    parser.add_argument("--minutes", type=float, default=10, help="for the longest run of Keras; 0: none")
    parser.add_argument("--test-per-class", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3, help="of the engines, in turn")
    parser.add_argument("--out", type=Path, required=True)
    given = vars(parser.parse_args())
    given["sizes"] = tuple(sorted(set(given["sizes"])))
    plan = Plan(**given)
    if len(plan.sizes) < 2 or plan.sizes[-1] >= plan.full:
        parser.error(f"found --sizes {plan.sizes}, --full {plan.full}: expected two sizes or more below --full")
    for path in (plan.archive, plan.weights):
        if not path.exists():
            parser.error(f"{path}: there is no such file")
    return plan


def facts(plan: Plan) -> Results:
    """What a measurement holds for. A folder with other facts is not gone on with."""
    processor = re.search(r"model name\s*:\s*(.*)", _text("/proc/cpuinfo"))
    names = ("torch", "onnxruntime", "openvino")
    return {
        "archive": f"{plan.archive.name}, {plan.archive.stat().st_size:,} bytes",
        "weights": f"{plan.weights.name}, {plan.weights.stat().st_size:,} bytes",
        "epochs": plan.epochs,
        "test_per_class": plan.test_per_class,
        "processor": processor[1] if processor else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": ", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}",
    }


class Ledger:
    """Results of the steps, on disk after each; a step that is there is not done again."""

    def __init__(self, path: Path, facts: Results, expected: dict[str, float]) -> None:
        self.path = path
        self.results: Results = {"facts": facts, "steps": {}}
        self._expected = expected
        if path.exists():
            found = json.loads(path.read_text())
            if found["facts"] != facts:
                raise SystemExit(f"{path}: found results of {found['facts']}, expected {facts}. Give another --out.")
            self.results["steps"] = found["steps"]

    @property
    def steps(self) -> dict[str, Results]:
        """Results by the name of the step."""
        steps: dict[str, Results] = self.results["steps"]
        return steps

    def expect(self, placeholder: str, expected: dict[str, float]) -> None:
        """Put steps in the place of one that stood for them."""
        self._expected.pop(placeholder, None)
        self._expected = expected | self._expected

    def step(self, name: str, work: Callable[[], Results]) -> Results:
        """Result of a step, done now if it is not there yet."""
        if name not in self.steps:
            self._announce(name)
            start = time.perf_counter()
            result = work()
            self.steps[name] = {"took": time.perf_counter() - start} | result
            write_text(self.path, as_json(self.results))
        return self.steps[name]

    def _announce(self, name: str) -> None:
        left = sum(guess * self._pace(other) for other, guess in self._expected.items() if other not in self.steps)
        number = 1 + sum(other in self.steps for other in self._expected)
        say(f"[{number} of {len(self._expected)}] {name} ... about {left / 60:.0f} min left")

    def _pace(self, name: str) -> float:
        """Measured over expected seconds, of the steps of the same kind that are done."""
        done = [other for other in self._expected if other in self.steps and kind(other) == kind(name)]
        expected = sum(self._expected[other] for other in done)
        return sum(self.steps[other]["took"] for other in done) / expected if expected else 1.0


def kind(step: str) -> str:
    return re.sub(r"[\d, ]+", " ", step)


def guesses(plan: Plan) -> dict[str, float]:
    """Steps in order, and roughly the seconds that each may take."""
    steps = {"engines": 60.0 + 60 * plan.rounds, "extraction": 90.0}
    for size in plan.sizes:
        steps |= guesses_of(plan, size)
    if plan.minutes:
        steps["large"] = 90 * plan.minutes
    steps |= guesses_of(plan, plan.full, keras=False)
    return steps | {warm_name(plan.full, 2 * plan.epochs, run): 60.0 for run in range(WARM_RUNS)}


def guesses_of(plan: Plan, size: int, *, keras: bool = True) -> dict[str, float]:
    tests = 26 * plan.test_per_class
    steps = {f"{size} ours cold": _NOMINAL["cold start"] + 2 * (size + tests) * _NOMINAL["cold view"]}
    if keras:
        seconds = _NOMINAL["Keras start"] + (plan.epochs * size + tests) * _NOMINAL["Keras view"]
        steps[f"{size} Keras"] = seconds
    warm = _NOMINAL["warm start"] + plan.epochs * size / 4000
    return steps | {warm_name(size, plan.epochs, run): warm for run in range(WARM_RUNS)}


def warm_name(size: int, epochs: int, run: int) -> str:
    return f"{size} ours warm, {epochs} epochs, {run + 1}"


# ----------------------------------------------------------------------------------------------------- whole commands


@dataclass(frozen=True)
class Measured:
    """A finished command, seen from outside.

    Attributes
    ----------
    seconds : float
        From start to end.
    cpu_seconds : float
        Of all its threads and children.
    peak_mib : float
        Largest resident memory of one of its processes.
    others : float
        Processors that anything else kept busy meanwhile, on average: 0 on a quiet machine.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    others: float


def measure(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> Measured:
    """Run a command as a fresh process, its output in ``log``; a failure ends the benchmark with that output.

    A process starts with the peak memory of the one that it was forked from: who measures must be small himself, so
    everything heavy here is done in a process of its own (``alone``).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        busy, start = _busy_seconds(), time.perf_counter()
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | (environment or {}))
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        output = log.read_text(errors="replace")[-4000:]
        raise SystemExit(f"{' '.join(command)}\nfailed with exit status {child.returncode} ({log}):\n{output}")
    cpu = usage.ru_utime + usage.ru_stime
    others = max(0.0, _busy_seconds() - busy - cpu) / seconds
    return Measured(seconds, cpu, usage.ru_maxrss / 1024, others)


def fingerspell(*arguments: object) -> list[str]:
    """Command line of the fingerspell that this process would import."""
    return [sys.executable, "-c", "from fingerspell.cli import main; main()", *map(str, arguments)]


def _busy_seconds() -> float:
    """Processor seconds that the machine has spent on anything, with those taken by its host; 0 where unknown."""
    line = _text("/proc/stat").partition("\n")[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, line[1:9]) if line else (0,) * 8
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def warm_up(plan: Plan) -> None:
    """Have libraries, archive and weights in the memory of the system: a first start would read them from disk."""
    for path in (plan.archive, plan.weights):
        if path.is_file():
            path.read_bytes()
    logs = plan.work / "logs"
    warm_up_ours(logs)
    imports = "import keras, tensorflow, pandas, sklearn.metrics, safetensors.numpy, scipy.ndimage, PIL.Image"
    measure([plan.keras, "-c", imports], logs / "warm-up-keras.log", keras_environment(plan))


def warm_up_ours(logs: Path) -> None:
    measure(fingerspell("train", "--help"), logs / "warm-up-help.log")
    imports = "import torch, timm, openvino, onnx, onnxruntime, sklearn.linear_model, matplotlib.figure"
    measure([sys.executable, "-c", imports], logs / "warm-up-ours.log")


def compare(plan: Plan, ledger: Ledger, size: int) -> None:
    """Ours cold, the Keras reference on the same pictures, ours warm."""
    ledger.step(f"{size} ours cold", lambda: ours_cold(plan, size))
    ledger.step(f"{size} Keras", lambda: keras(plan, size))
    ours(plan, ledger, size, plan.epochs)


def ours(plan: Plan, ledger: Ledger, size: int, epochs: int) -> None:
    """Ours cold, if it is not there yet, and warm."""
    ledger.step(f"{size} ours cold", lambda: ours_cold(plan, size))
    for run in range(WARM_RUNS):
        ledger.step(warm_name(size, epochs, run), lambda: ours_warm(plan, size, epochs))


def ours_cold(plan: Plan, size: int) -> Results:
    """`fingerspell train` with nothing remembered: scan, graphs, features, head, report."""
    shutil.rmtree(plan.work / str(size) / "cache", ignore_errors=True)
    result = ours_once(plan, size, plan.epochs)
    if result["timing"]["vectors_remembered"]:
        raise SystemExit(f"{size} pictures, cold: found vectors that were there already, expected none")
    return result


def ours_warm(plan: Plan, size: int, epochs: int) -> Results:
    """`fingerspell train` with every feature remembered."""
    result = ours_once(plan, size, epochs)
    if result["timing"]["vectors_computed"]:
        raise SystemExit(
            f"{size} pictures, warm: found vectors to compute, expected them in {plan.work / str(size) / 'cache'}. "
            "Give another --out to measure anew."
        )
    return result


def ours_once(plan: Plan, size: int, epochs: int) -> Results:
    folder = plan.work / str(size)
    out = folder / f"run-{epochs}-epochs"
    command = fingerspell(
        *("train", plan.archive, "--recipe", "real", "--sample", size, "--epochs", epochs),
        *("--test-per-class", plan.test_per_class, "--backbone", "vgg16", "--weights", plan.weights),
        *("--out", out, "--overwrite"),
    )
    log = plan.work / "logs" / f"{size}-ours-{epochs}-epochs.log"
    measured = measure(command, log, {"FINGERSPELL_CACHE": str(folder / "cache")})
    roles = [row["role"] for row in read_rows(out / "split.csv")]
    counts = {role: roles.count(role) for role in ("train", "validation", "test")}
    return asdict(measured) | {"pictures": counts, "timing": json.loads((out / "timing.json").read_text())}


def keras(plan: Plan, size: int) -> Results:
    """The reference on the pictures of our run."""
    folder = plan.work / str(size)
    split, out = folder / f"run-{plan.epochs}-epochs" / "split.csv", folder / "keras"
    script = str(Path(__file__).with_name("reference_keras.py"))
    options = ["--split", split, "--weights", plan.weights, "--epochs", plan.epochs, "--out", out]
    command = [plan.keras, script, str(plan.archive), *map(str, options)]
    measured = measure(command, plan.work / "logs" / f"{size}-keras.log", keras_environment(plan))
    return asdict(measured) | {"facts": json.loads((out / "facts.json").read_text())}


def keras_environment(plan: Plan) -> dict[str, str]:
    return {"KERAS_HOME": str(plan.work / "keras-home"), "TF_CPP_MIN_LOG_LEVEL": "2"}


# ------------------------------------------------------------------------------------------------ Keras's straight line


@dataclass(frozen=True)
class Line:
    """Seconds of the reference: a fixed part, and one for each time that the network sees a picture."""

    fixed: float
    per_view: float

    def seconds(self, views: float) -> float:
        """Seconds for so many views."""
        return self.fixed + self.per_view * views

    def views(self, seconds: float) -> float:
        """Views in so many seconds."""
        return (seconds - self.fixed) / self.per_view


def fit(points: dict[int, tuple[int, float]]) -> Line:
    """Least squares through runs of the reference."""
    import numpy as np

    views, seconds = zip(*points.values(), strict=True)
    per_view, fixed = np.polyfit(views, seconds, 1)
    if per_view <= 0:
        raise SystemExit(
            f"Keras: found {seconds} seconds for {views} views, expected more for more. Something else kept the "
            "machine busy: measure anew with another --out, on a quiet machine or with larger --sizes."
        )
    return Line(float(fixed), float(per_view))


def keras_points(ledger: Ledger, sizes: Sequence[int], epochs: int) -> dict[int, tuple[int, float]]:
    """Views and seconds of the reference by size."""
    return {size: (views(ledger, size, epochs), ledger.steps[f"{size} Keras"]["seconds"]) for size in sizes}


def views(ledger: Ledger, size: int, epochs: int) -> int:
    """Pictures that go through the reference's network: all but the test pictures once an epoch."""
    pictures = ledger.steps[f"{size} ours cold"]["pictures"]
    return int(epochs * (pictures["train"] + pictures["validation"]) + pictures["test"])


def affordable(plan: Plan, ledger: Ledger) -> int | None:
    """Largest size for which Keras needs no more than the minutes given; None if that would add little.

    By the line through the given sizes alone, so that a run that goes on decides as the one that was killed.
    """
    if not plan.minutes:
        return None
    tests = ledger.steps[f"{plan.sizes[0]} ours cold"]["pictures"]["test"]
    seen = fit(keras_points(ledger, plan.sizes, plan.epochs)).views(60 * plan.minutes)
    size = min(plan.full, int((seen - tests) / plan.epochs) // 100 * 100)
    if size >= 1.2 * plan.sizes[-1]:
        return size
    say(f"{plan.minutes:g} minutes are enough for {max(size, 0):,} pictures: no larger run of Keras")
    return None


# ------------------------------------------------------------------------------------------------- engines and ceilings


def alone(work: Callable[[Argument], Result], argument: Argument) -> Result:
    """Result of a function in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, argument).result()


def measure_engines(plan: Plan) -> Results:
    """Rates of every engine on the same ready-made pictures, in turn with the ceilings."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(plan.work / "inductor")
    from fingerspell.archive import open_archive
    from fingerspell.graphs import agreement

    backbone = backbone_of(plan)
    with open_archive(plan.archive) as archive:
        pictures = ready_made(archive, letters(plan, archive), backbone, READY)
    runs, failures = opened(contenders(backbone, plan.work / "engines"), pictures)
    outputs = {name: run(pictures) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    products: dict[str, list[float]] = {}
    for number in range(plan.rounds):
        say(f"  round {number + 1} of {plan.rounds}")
        for precision, rate in matrix_products().items():
            products.setdefault(precision, []).append(rate)
        for name, run in runs.items():
            time.sleep(0.2)  # threads of the last one may spin a little before they sleep
            start = time.perf_counter()
            run(pictures)
            seconds[name].append(time.perf_counter() - start)
    gflop = flops(backbone) / 1e9
    found = ceilings({name: max(rates) for name, rates in products.items()})
    rows = {}
    for name in runs:
        rate = len(pictures) / statistics.median(seconds[name])
        precision = precision_of(name)
        rows[name] = {
            "precision": precision,
            "pictures_per_second": rate,
            "range": [len(pictures) / worst for worst in (max(seconds[name]), min(seconds[name]))],
            "gflop_per_second": rate * gflop,
            "share": rate * gflop / found[precision]["gflop_per_second"],
        } | asdict(agreement(outputs[name], outputs["torch float32"]))
    return {"gflop": gflop, "pictures": len(pictures), "ceilings": found, "engines": rows, "failures": failures}


def contenders(backbone: Backbone, folder: Path) -> dict[str, Callable[[], Callable[[Pictures], Vectors]]]:
    """What can run the backbone, by name; the last word is its precision."""
    from fingerspell import graphs

    return {
        "torch float32": lambda: by_torch(backbone.network),
        "torch, channels first, float32": lambda: by_torch(channels_first(backbone)),
        "torch.compile float32": lambda: by_torch(compiled(backbone)),
        "ONNX Runtime float32": lambda: by_onnxruntime(graphs.backbone_graph(backbone, folder)),
        "OpenVINO float32": lambda: by_engine(backbone, folder, "float32"),
        "OpenVINO bfloat16": lambda: by_engine(backbone, folder, "bfloat16"),
        "ONNX Runtime int8": lambda: by_onnxruntime(graphs.int8_graph(backbone, folder)),
        "OpenVINO int8": lambda: by_engine(backbone, folder, "int8"),
    }


def opened(
    makers: dict[str, Callable[[], Callable[[Pictures], Vectors]]], pictures: Pictures
) -> tuple[dict[str, Callable[[Pictures], Vectors]], dict[str, str]]:
    """Contenders that have run once, and why the others do not run here."""
    runs, failures = {}, {}
    for name, make in makers.items():
        say(f"  opening {name}")
        try:
            run = make()
            run(pictures[:64])  # compiles, and fills the caches
        except Exception as error:  # noqa: BLE001 - whatever a library raises where it does not fit the machine
            failures[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        else:
            runs[name] = run
    return runs, failures


def by_torch(network: Callable[..., Any]) -> Callable[[Pictures], Vectors]:
    import numpy as np
    import torch

    def run(pictures: Pictures) -> Vectors:
        with torch.inference_mode():
            return np.concatenate([network(torch.from_numpy(batch)).numpy() for batch in batches(pictures, 64)])

    return run


def channels_first(backbone: Backbone) -> Network:
    import torch

    plain = copy.deepcopy(backbone.network)
    plain.layers.to(memory_format=torch.contiguous_format)
    plain.layers.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return plain


def compiled(backbone: Backbone) -> Callable[..., Any]:
    import torch

    faster: Callable[..., Any] = torch.compile(copy.deepcopy(backbone.network))
    return faster


def by_onnxruntime(graph: Path) -> Callable[[Pictures], Vectors]:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pictures: np.concatenate([session.run(None, {name: batch})[0] for batch in batches(pictures, 16)])


def by_engine(backbone: Backbone, folder: Path, precision: Any) -> Callable[[Pictures], Vectors]:
    from fingerspell.engines import open_engine

    engine = open_engine(backbone, folder, engine="openvino", precision=precision)
    return lambda pictures: stream(engine, pictures)


def stream(engine: NetworkEngine, pictures: Pictures) -> Vectors:
    import numpy as np

    return np.concatenate([vectors for _, vectors in engine.stream(enumerate(pictures))])


def batches(pictures: Pictures, size: int) -> Iterator[Pictures]:
    return (pictures[start : start + size] for start in range(0, len(pictures), size))


def matrix_products() -> dict[str, float]:
    """GFLOP/s of the best of some large products in each precision, by torch."""
    import torch

    one, other = torch.randn(2, MATRIX, MATRIX).unbind()
    small, little = (torch.randint(-127, 128, (MATRIX, MATRIX), dtype=torch.int8) for _ in range(2))
    short, brief = one.bfloat16(), other.bfloat16()
    products: dict[str, Callable[[], object]] = {
        "float32": lambda: one @ other,
        "bfloat16": lambda: short @ brief,
        "int8": lambda: torch._int_mm(small, little),  # noqa: SLF001 - the one way to torch's 8-bit product
    }
    return {name: 2 * MATRIX**3 / best_of(product) / 1e9 for name, product in products.items()}


def best_of(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ceilings(products: dict[str, float]) -> Results:
    """Ceiling of each precision, and what it stands on."""
    flags = set(re.search(r"flags\s*:(.*)|$", _text("/proc/cpuinfo")).group().split())  # type: ignore[union-attr]
    by = dict.fromkeys(products, "measured, torch")
    if not flags & {"avx512_bf16", "amx_bf16"}:
        by["bfloat16"] += "; this processor has no bfloat16 instructions"
    if flags & {"avx512_vnni", "avx_vnni"} and products["int8"] < 1.5 * products["float32"]:
        products["int8"] = 4 * products["float32"]  # the product at hand does not reach the instructions
        by["int8"] = "not measured: 4 x float32, by the width of the instructions"
    return {name: {"gflop_per_second": rate, "by": by[name]} for name, rate in products.items()}


def flops(backbone: Backbone) -> int:
    """Floating-point operations of a picture: two for each multiply-add of the convolutions and dense layers."""
    import torch

    counts: list[int] = []

    def count(module: Any, _: object, output: torch.Tensor) -> None:
        counts.append(2 * output.numel() * module.weight[0].numel())

    layers = [layer for layer in backbone.network.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    size = backbone.preprocessing.size
    with torch.inference_mode():
        backbone.network(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def precision_of(contender: str) -> str:
    return contender.rpartition(" ")[2]


# ------------------------------------------------------------------------------------- the network inside an extraction


def measure_extraction(plan: Plan) -> Results:
    """Rate of the default engine inside a cold extraction, and alone just before and just after."""
    from fingerspell.archive import open_archive
    from fingerspell.engines import open_engine
    from fingerspell.features import extract, open_store
    from fingerspell.images import VIEWS

    backbone = backbone_of(plan)
    engine = open_engine(backbone, plan.work / "engines")
    store_folder = plan.work / "extraction"
    shutil.rmtree(store_folder, ignore_errors=True)
    with open_archive(plan.archive) as archive:
        every = letters(plan, archive)
        pictures = spread(every, EXTRACTED)
        ready = ready_made(archive, every, backbone, READY)
        stream(engine, ready)
        before = rate_alone(engine, ready)
        with open_store(store_folder, engine) as store:
            watched = watch(engine)
            start, cpu = time.perf_counter(), time.process_time()
            extraction = extract(archive, pictures, watched, store, views=VIEWS)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        after = rate_alone(engine, ready)
    inside, mean = extraction.vectors_computed / seconds, (before + after) / 2
    return {
        "engine": f"{engine.name} {engine.precision}",
        "views": extraction.vectors_computed,
        "views_per_second": inside,
        "alone_before": before,
        "alone_after": after,
        "share_of_alone": inside / mean,
        "share_waiting": watched.waited / seconds,
        "processors_busy": cpu / seconds,
    }


def watch(engine: NetworkEngine) -> Any:
    """Engine that counts the seconds in which it waits for pictures, in ``waited``."""
    from fingerspell import engines

    class Watched(engines.NetworkEngine):
        name = engine.name
        waited = 0.0

        def stream(self, pictures: Iterable[Any]) -> Iterator[Any]:
            return engine.stream(self._timed(iter(pictures)))

        def _timed(self, pictures: Iterator[Any]) -> Iterator[Any]:
            while True:
                start = time.perf_counter()
                picture = next(pictures, None)
                self.waited += time.perf_counter() - start
                if picture is None:
                    return
                yield picture

    return Watched(engine.backbone, engine.precision, engine.batch)


def rate_alone(engine: NetworkEngine, pictures: Pictures) -> float:
    """Pictures a second on ready-made ones, over as many as take some seconds."""
    import numpy as np

    many = np.concatenate([pictures] * 3)
    start = time.perf_counter()
    stream(engine, many)
    return len(many) / (time.perf_counter() - start)


def backbone_of(plan: Plan) -> Backbone:
    from fingerspell.backbones import load_backbone

    return load_backbone("vgg16", weights=plan.weights, size=90, interpolation="nearest")


def letters(plan: Plan, archive: Archive) -> Sequence[Picture]:
    from fingerspell.dataset import scan

    return scan(archive, memory=plan.work / "scans").letters()


def ready_made(archive: Archive, every: Sequence[Picture], backbone: Backbone, count: int) -> Pictures:
    """Decoded and resized pictures from all over the archive (count, size, size, 3)."""
    import numpy as np

    from fingerspell import images

    size, interpolation = backbone.preprocessing.size, backbone.preprocessing.interpolation
    chosen = itertools.islice(itertools.cycle(spread(every, count)), count)
    return np.stack([images.resize(images.decode(archive.read(p.id)).pixels, size, interpolation) for p in chosen])


def spread(pictures: Sequence[Picture], count: int) -> Sequence[Picture]:
    """So many of the pictures, at equal distances."""
    return pictures[:: max(1, len(pictures) // count)][:count]


# ------------------------------------------------------------------------------------------------------------- summary


def summarise(plan: Plan, ledger: Ledger, sizes: Sequence[int]) -> Results:
    """What follows from the steps: Keras's line, ratios, accuracies."""
    points = keras_points(ledger, sizes, plan.epochs)
    line = fit(points)
    costs = [cost(plan, ledger, line, size, plan.epochs) for size in sorted({*points, plan.full})]
    costs.append(cost(plan, ledger, line, plan.full, 2 * plan.epochs))
    return {
        "full": plan.full,
        "line": asdict(line),
        "points": [
            {"size": size, "views": seen, "seconds": seconds, "residual": seconds - line.seconds(seen)}
            for size, (seen, seconds) in points.items()
        ],
        "costs": costs,
        "accuracies": [accuracies(plan, size) for size in points],
    }


def cost(plan: Plan, ledger: Ledger, line: Line, size: int, epochs: int) -> Results:
    """Seconds of both sides for so many pictures and epochs, and Keras's over ours."""
    warm = [ledger.steps[warm_name(size, epochs, run)]["seconds"] for run in range(WARM_RUNS)]
    cold: float = ledger.steps[f"{size} ours cold"]["seconds"]
    if epochs != plan.epochs:  # the extraction does not hang on the epochs
        cold += statistics.median(warm) - cost(plan, ledger, line, size, plan.epochs)["warm"]
    measured = f"{size} Keras" in ledger.steps and epochs == plan.epochs
    seconds = ledger.steps[f"{size} Keras"]["seconds"] if measured else line.seconds(views(ledger, size, epochs))
    pictures = ledger.steps[f"{size} ours cold"]["pictures"]
    return {
        "pictures": pictures["train"] + pictures["validation"],
        "epochs": epochs,
        "keras": seconds,
        "keras_measured": measured,
        "cold": cold,
        "cold_measured": epochs == plan.epochs,
        "warm": statistics.median(warm),
        "warm_range": [min(warm), max(warm)],
        "cold_ratio": seconds / cold,
        "warm_ratio": seconds / statistics.median(warm),
    }


def accuracies(plan: Plan, size: int) -> Results:
    """Scores of both on the same test pictures, and whether these can tell them apart."""
    import numpy as np

    from fingerspell.metrics import paired_difference, scores

    folder = plan.work / str(size)
    rows = read_rows(folder / f"run-{plan.epochs}-epochs" / "predictions.csv")
    answers = {row["id"]: row["predicted"] for row in read_rows(folder / "keras" / "predictions.csv")}
    if answers.keys() != {row["id"] for row in rows}:
        raise SystemExit(f"{folder}: the two sides were tested on different pictures")
    true = np.array([row["label"] for row in rows])
    sides = {
        "ours": np.array([row["predicted"] for row in rows]),
        "keras": np.array([answers[row["id"]] for row in rows]),
    }
    scored = {name: scores(true, predicted, np.arange(len(true))) for name, predicted in sides.items()}
    low, high = paired_difference(sides["ours"] == true, sides["keras"] == true, np.arange(len(true)))
    return {"size": size, "difference": [low, high]} | scored


# -------------------------------------------------------------------------------------------------------------- report


def report(results: Results) -> str:
    """All tables as Markdown."""
    steps, summary = results["steps"], results["summary"]
    sections = [
        facts_text(results["facts"], next(step["facts"]["versions"] for step in steps.values() if "facts" in step)),
        costs_table(summary),
        line_table(summary),
        accuracy_table(summary),
        commands_table(steps),
        ceilings_table(steps["engines"]),
        engines_table(steps["engines"]),
        extraction_text(steps["extraction"]),
    ]
    return "\n\n".join(sections) + "\n"


def table(header: str, rows: Iterable[Sequence[object]]) -> str:
    columns = header.count("|") + 1
    lines = [f"| {header} |", "|" + "---|" * columns, *(f"| {' | '.join(map(str, row))} |" for row in rows)]
    return "\n".join(lines)


def facts_text(facts: Results, reference: str) -> str:
    return (
        f"{facts['processor']}, {facts['cores']} cores; {facts['versions']}; {reference}. Archive: {facts['archive']}; "
        f"{facts['test_per_class']} test pictures a letter. Every command is a fresh process, timed from outside."
    )


def costs_table(summary: Results) -> str:
    rows = [
        (
            f"{row['pictures']:,}",
            row["epochs"],
            f"{row['keras']:,.1f}{'' if row['keras_measured'] else ' (line)'}",
            f"{row['cold']:,.1f}{'' if row['cold_measured'] else ' (*)'}",
            f"**{row['cold_ratio']:.1f}**",
            f"{row['warm']:,.1f} ({row['warm_range'][0]:,.1f} to {row['warm_range'][1]:,.1f})",
            f"**{row['warm_ratio']:.1f}**",
        )
        for row in summary["costs"]
    ]
    header = "pictures | epochs | Keras, s | ours cold, s | Keras / cold | ours warm, s (median of 3) | Keras / warm"
    notes = "(line): predicted by the line below. (*): measured cold, less measured warm, plus warm with these epochs."
    return f"{table(header, rows)}\n\n{notes}"


def line_table(summary: Results) -> str:
    line, points = summary["line"], summary["points"]
    text = (
        f"Keras: seconds = {line['fixed']:.1f} + {1000 * line['per_view']:.2f} ms x views, "
        f"{1 / line['per_view']:.1f} views a second; views = epochs x (training + validation) + test pictures."
    )
    if len(points) == 2:
        text += " Two points: a line goes through both, and the residuals say nothing."
    rows = [
        (
            f"{point['size']:,}",
            f"{point['views']:,}",
            f"{point['seconds']:,.1f}",
            f"{point['seconds'] - point['residual']:,.1f}",
            f"{point['residual']:+.1f}",
        )
        for point in points
    ]
    return f"{text}\n\n{table('pictures | views | measured, s | line, s | residual, s', rows)}"


def accuracy_table(summary: Results) -> str:
    rows = []
    for row in summary["accuracies"]:
        for name, letters in (("letters", "26"), ("static_letters", "24, held still")):
            ours, theirs = row["ours"][name], row["keras"][name]
            inside = [
                "yes" if one["accuracy_interval"][0] <= other["accuracy"] <= one["accuracy_interval"][1] else "no"
                for one, other in ((theirs, ours), (ours, theirs))
            ]
            paired = "{:+.3f} to {:+.3f}".format(*row["difference"]) if name == "letters" else ""
            rows.append((f"{row['size']:,}", letters, ours["pictures"], score(ours), score(theirs), *inside, paired))
    header = "pictures | letters | test pictures | ours | Keras | ours in Keras's | Keras in ours | ours less Keras"
    return f"{table(header, rows)}\n\nAccuracies with 95% Wilson intervals; the last column is the paired bootstrap's."


def score(scored: Results) -> str:
    low, high = scored["accuracy_interval"]
    return f"{scored['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def commands_table(steps: Results) -> str:
    rows = [
        (
            name,
            f"{step['seconds']:,.1f}",
            f"{step['cpu_seconds']:,.1f}",
            f"{step['peak_mib']:,.0f}",
            f"{step['others']:.2f}",
        )
        for name, step in steps.items()
        if "peak_mib" in step
    ]
    header = "command | seconds | processor seconds | peak memory, MiB | others"
    return f"{table(header, rows)}\n\nothers: processors that anything else kept busy meanwhile; 0 on a quiet machine."


def ceilings_table(engines: Results) -> str:
    rows = [(name, f"{found['gflop_per_second']:,.0f}", found["by"]) for name, found in engines["ceilings"].items()]
    return table(f"ceiling: product of two {MATRIX} x {MATRIX} matrices | GFLOP/s | how", rows)


def engines_table(engines: Results) -> str:
    rows: list[Sequence[object]] = [
        (
            name,
            "{:.1f} ({:.1f} to {:.1f})".format(row["pictures_per_second"], *row["range"]),
            f"{row['gflop_per_second']:,.0f}",
            f"{row['share']:.0%}",
            f"{row['relative_difference']:.1e}",
            f"{row['mean_cosine']:.6f}",
            f"{row['largest_difference']:.1e}",
        )
        for name, row in engines["engines"].items()
    ]
    rows += [(name, f"does not run: {reason}", *[""] * 5) for name, reason in engines["failures"].items()]
    header = "engine | pictures/s | GFLOP/s | of the ceiling | relative difference | mean cosine | largest difference"
    note = f"{engines['pictures']} ready-made pictures of {engines['gflop']:.2f} GFLOP each; median of rounds in turn."
    return (
        f"{table(header, rows)}\n\n{note} Differences: of the features from torch float32's, "
        "the largest as a share of the largest feature."
    )


def extraction_text(found: Results) -> str:
    return (
        f"Inside a cold extraction of {found['views']:,} views {found['engine']} does {found['views_per_second']:.1f} "
        f"a second; alone on ready-made pictures {found['alone_before']:.1f} just before and "
        f"{found['alone_after']:.1f} just after: {found['share_of_alone']:.0%}. It spent {found['share_waiting']:.0%} "
        "of the time drawing pictures (batches in flight go on meanwhile); "
        f"{found['processors_busy']:.2f} processors were busy."
    )


# -------------------------------------------------------------------------------------------------------------- figure

_KERAS, _COLD, _WARM = "#c44e52", "#2b5c8a", "#58a4b0"
_BARS = {"float32": "#2b5c8a", "bfloat16": "#8a6fb0", "int8": "#58a4b0"}


def draw(results: Results, path: Path) -> None:
    """Cost of a run on the left, engines and their ceilings on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    draw_costs(left, results["summary"])
    draw_engines(right, results["steps"]["engines"])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    figure.savefig(path, dpi=200)


def draw_costs(axes: Axes, summary: Results) -> None:
    import numpy as np

    epochs = summary["costs"][0]["epochs"]
    costs = [row for row in summary["costs"] if row["epochs"] == epochs]
    sizes = np.array([row["pictures"] for row in costs])
    point, line = summary["points"][0], summary["line"]
    tests = point["views"] - epochs * costs[0]["pictures"]
    along = np.geomspace(sizes.min(), sizes.max(), 100)
    seconds = line["fixed"] + line["per_view"] * (epochs * along + tests)
    axes.plot(along, seconds, color=_KERAS, linewidth=1.2)
    measured = np.array([row["keras_measured"] for row in costs])
    keras = np.array([row["keras"] for row in costs])
    axes.plot(sizes[measured], keras[measured], "o", color=_KERAS)
    axes.plot(sizes[~measured], keras[~measured], "o", color=_KERAS, markerfacecolor="white")
    for key, color in (("cold", _COLD), ("warm", _WARM)):
        axes.plot(sizes, [row[key] for row in costs], "o-", color=color, linewidth=1.2)
    last = costs[-1]
    names = {"keras": ("Keras", _KERAS), "cold": ("first run", _COLD), "warm": ("next runs", _WARM)}
    for key, (name, color) in names.items():
        axes.annotate(
            f"{name}\n{duration(last[key])}",
            (last["pictures"], last[key]),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
        )
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("pictures to train on", fontsize=9)
    axes.set_title(f"a run of {epochs} epochs: ● measured, ○ predicted", loc="left", fontsize=9)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    low, high = axes.get_ylim()
    ticks = {10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h", 36000: "10 h"}
    axes.set_yticks([seconds for seconds in ticks if low < seconds < high])
    axes.set_yticklabels([name for seconds, name in ticks.items() if low < seconds < high])
    axes.set_yticks([], minor=True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)


def draw_engines(axes: Axes, engines: Results) -> None:
    rows = dict(reversed(engines["engines"].items()))
    colors = [_BARS[row["precision"]] for row in rows.values()]
    bars = axes.barh(list(rows), [row["gflop_per_second"] for row in rows.values()], color=colors, height=0.65)
    labels = [f"{row['pictures_per_second']:.0f}/s, {row['share']:.0%}" for row in rows.values()]
    for text in axes.bar_label(bars, labels, padding=3, fontsize=8):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})  # a ceiling's line may pass behind
    used = {row["precision"] for row in rows.values()}
    for precision in used:
        rate = engines["ceilings"][precision]["gflop_per_second"]
        axes.axvline(rate, color=_BARS[precision], linestyle="--", linewidth=1)
        axes.annotate(
            f"{precision}\nceiling",
            (rate, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            color=_BARS[precision],
            fontsize=9,
        )
    axes.set_xlabel("GFLOP/s (pictures a second, share of the ceiling)", loc="right", fontsize=9)
    axes.set_xlim(0, 1.15 * max(engines["ceilings"][precision]["gflop_per_second"] for precision in used))
    axes.tick_params(axis="y", length=0)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


# --------------------------------------------------------------------------------------------------------------- files


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def as_json(results: Results) -> str:
    return json.dumps(results, indent=1) + "\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _text(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


if __name__ == "__main__":
    main()
