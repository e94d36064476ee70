"""Training a whole network: a backbone and training pictures in, a better backbone out.

``fit`` trains any network on any examples; ``fine_tune`` does so with a backbone and letters, and test pictures never
come here. ``tuned`` remembers what came out, for ``fine_tune`` and ``teaching.teach`` alike. All of it goes through
Accelerate: one processor, one graphics card, several of them and several machines run the same lines (``torchrun``).
Killed at any moment, the training goes on from its last checkpoint, and ends with the weights of one that was not.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from fingerspell.alphabet import LETTERS
from fingerspell.augmentation import augment
from fingerspell.backbones import Backbone, Network
from fingerspell.cache import remember, stem
from fingerspell.errors import CacheError, TuningError
from fingerspell.features import network_inputs
from fingerspell.files import is_temporary, write_file
from fingerspell.images import VIEWS
from fingerspell.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch.utils.data import Dataset

    from fingerspell.archive import Archive
    from fingerspell.dataset import Picture
    from fingerspell.engines import NetworkEngine
    from fingerspell.features import FeatureStore
    from fingerspell.images import Pixels
    from fingerspell.progress import Progress
    from fingerspell.recipes import FineTuningOptions

_WEIGHTS, _CHECKPOINT, _PICTURES = "weights.safetensors", "training.safetensors", "pictures.uint8"
# Part of the key under which weights are remembered: raise it whenever a training would end with others.
VERSION = 2

_CHECKPOINT_S = 300.0  # between checkpoints, of which one of a large network takes seconds to write

# Learning rates at their height. Without batch norm a network falls apart at the higher one (VGG16 does, measured).
_RATE, _RATE_WITHOUT_BATCH_NORM = 5e-4, 1e-4
_WEIGHT_DECAY = 0.01  # AdamW's usual one
_WARM_UP = 0.1  # share of the steps in which the learning rate rises
_SMOOTHING = 0.1  # of the labels: answers stay unsure enough for pictures of other people
_MAX_NORM = 1.0  # of the gradient: networks without batch norm take a wild first step otherwise
# The mean weights forget as slowly as the training is old (timm's warm-up with this power): no length to choose.
_MEAN_DECAY, _MEAN_POWER = 0.9998, 0.75
_PATIENCE_S = 24 * 3600  # for the process that reads the pictures; Accelerate's own half hour is less than a large set


def fine_tune(  # noqa: PLR0913 - what a backbone is trained with
    engine: NetworkEngine,
    archive: Archive,
    pictures: Sequence[Picture],
    options: FineTuningOptions,
    folder: Path,
    *,
    hands: FeatureStore | None = None,
    groups: Mapping[str, str] | None = None,
    seed: int = 0,
    on_progress: Progress = silent,
) -> Backbone:
    """Train a backbone to tell the letters of training pictures apart, under a small head that is then left out.

    The weights are remembered in ``folder`` by everything that they depend on. Of few pictures of a letter and group
    each is shown more often, by the square root of their number.

    Parameters
    ----------
    engine
        Its backbone is where the training starts, and is not changed; it prepares the pictures as for features.
    archive
        Where the pictures are.
    pictures
        Training pictures and no others.
    options
        How to train.
    folder
        Of the remembered weights; the same for every process.
    hands
        Rows of the hands, where the engine looks for them.
    groups
        Who is on each picture, by its id; who has no group is in one.
    seed
        Of the small head's start, the order and the augmentation.
    on_progress
        Told of every step.

    Raises
    ------
    TuningError, CacheError
        As ``fit``.
    DatasetError
        If a picture's bytes are no longer those that the scan saw.
    """
    backbone = engine.backbone
    kinds = [(picture.label, (groups or {}).get(picture.id, "")) for picture in pictures]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}  # whatever groups are called
    counts = Counter(kinds)
    shares = np.array([counts[kind] ** -0.5 for kind in kinds])

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        changed = augment(batch[0], rotation=options.rotation, mirrored=options.mirrored)
        return nn.functional.cross_entropy(network(changed), batch[1], label_smoothing=_SMOOTHING)

    def train(network: Network, own: Path) -> nn.Module:
        examples = _letters(archive, pictures, engine, hands, own, on_progress)
        torch.manual_seed(seed)
        network.requires_grad_(requires_grad=True)
        classes, width = int(examples.targets.max()) + 1, backbone.dimension
        # Features of some networks are numbers in the tens: without the norm, the first steps would go anywhere.
        classifier = nn.Sequential(network, nn.LayerNorm(width), nn.Linear(width, classes))
        trained = fit(classifier, examples, loss, options, own, seed=seed, shares=shares, on_progress=on_progress)
        return cast("Network", trained.get_submodule("0")).layers

    facts = [engine.identity, [numbers[kind] for kind in kinds], VERSION]
    return tuned(backbone, pictures, facts, options, folder, seed, train)


def tuned(
    backbone: Backbone,
    pictures: Sequence[Picture],
    facts: object,
    options: FineTuningOptions,
    folder: Path,
    seed: int,
    train: Callable[[Network, Path], nn.Module],
) -> Backbone:
    """Backbone with trained weights: remembered ones, or those of a training that is then remembered.

    Parameters
    ----------
    backbone
        Where the training starts; it is not changed.
    pictures, options, seed
        What it is trained on, and how.
    facts
        Everything else that the weights depend on, as JSON has it.
    folder
        Of the remembered weights; the same for every process.
    train
        Called with a copy of the network and a folder of this training's own, for ``fit`` and ``kept_pixels``; gives
        the trained layers.

    Raises
    ------
    CacheError
        If the weights cannot be written.
    """
    shown = hashlib.sha256("".join(f"{p.sha256} {p.label}\n" for p in pictures).encode()).hexdigest()
    key = json.dumps([backbone.identity, shown, facts, asdict(options), seed])
    own = folder / stem(backbone.name, key)
    if remembered := _remembered(backbone, own / _WEIGHTS):
        return remembered
    layers = train(copy.deepcopy(backbone.network), own)
    made = Backbone.of(backbone.name, Network(layers, backbone.preprocessing))
    if _accelerator().is_main_process:
        tensors = {key: value.contiguous() for key, value in layers.state_dict().items()}
        remember(own / _WEIGHTS, save(tensors, {"weights_sha256": made.weights_sha256}))
        for path in own.iterdir():
            if path.name in (_CHECKPOINT, _PICTURES) or is_temporary(path):
                path.unlink(missing_ok=True)
    return made


def fit(  # noqa: PLR0913 - what a network is trained with
    network: nn.Module,
    examples: Examples,
    loss: Callable[[nn.Module, Any], Tensor],
    options: FineTuningOptions,
    folder: Path,
    *,
    seed: int = 0,
    shares: NDArray[np.float64] | None = None,
    on_progress: Progress = silent,
) -> nn.Module:
    """Train all parameters of a network that ask for a gradient; return a copy with the mean weights of the way.

    AdamW under a cosine schedule with a warm-up. Parts that are timm networks learn the slower the nearer a layer is to
    the pictures (``options.layer_decay``); everything else, such as heads, learns at the full rate. Of several
    processes each takes its part of every batch, and all return the same weights.

    Parameters
    ----------
    network
        Trained in place, on the graphics card if there is one.
    examples
        Give a batch of tensors for a list of rows, and draw nothing at random.
    loss
        Called with the network and a batch on its device; gives a scalar. What it draws from torch's generator (as for
        augmentation) is seeded by step and process, and so is the same after a kill.
    options
        ``epochs``, ``batch_size`` (of all processes together), ``learning_rate``, ``layer_decay`` and ``precision``.
    folder
        Where the checkpoint lies meanwhile: one for each network, examples and loss, the same for every process. A
        checkpoint of other options is not gone on with.
    seed
        Of the order and of everything that ``loss`` draws.
    shares
        Positive weight of each example (N,): it is seen so often an epoch, in relation; None: each once.
    on_progress
        Told of every step, in the first process alone.

    Raises
    ------
    TuningError
        If the loss stops being a number, or there are fewer examples than processes.
    CacheError
        If a checkpoint cannot be written.
    """
    from timm.scheduler.cosine_lr import CosineLRScheduler
    from timm.utils.model_ema import ModelEmaV3

    accelerator = _accelerator()
    batches = _Batches(len(examples), options, accelerator.num_processes, seed, shares)
    total = options.epochs * batches.an_epoch
    network.to(accelerator.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    mean = ModelEmaV3(network, _MEAN_DECAY, use_warmup=True, warmup_power=_MEAN_POWER)
    rate = options.learning_rate or _own_rate(network)
    optimizer = torch.optim.AdamW(_groups(network, options.layer_decay), lr=rate)
    schedule = CosineLRScheduler(
        optimizer, max(2, total), warmup_t=max(1, round(_WARM_UP * total)), warmup_prefix=True, t_in_epochs=False
    )
    path = folder / _CHECKPOINT
    facts = json.dumps([asdict(options), seed, len(examples), batches.batch_size])
    batches.start = _resume(path, facts, {"network": network, "mean": mean.module}, optimizer)
    trained = accelerator.prepare_model(network)
    dataset = cast("Dataset[Any]", examples)
    loader = accelerator.prepare(DataLoader(dataset, batch_sampler=batches, collate_fn=_as_it_comes))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved_at = time.monotonic()
    for step, batch in enumerate(loader, start=batches.start):
        torch.manual_seed(_number([seed, step, accelerator.process_index]))
        schedule.step_update(step + 1)
        with _autocast(accelerator.device, options.precision):
            value = loss(trained, batch)
        if not math.isfinite(value.item()):
            raise TuningError(
                f"step {step + 1} of {total}: the loss became {value.item()}. Give a lower learning rate than "
                f"{rate} (--tune-rate)."
            )
        accelerator.backward(value)
        accelerator.clip_grad_norm_(parameters, _MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        mean.update(network, step + 1)
        if accelerator.is_main_process:
            on_progress("Fine-tuning", step + 1, total)
            if time.monotonic() - saved_at >= _CHECKPOINT_S:
                _save(path, facts, step + 1, {"network": network, "mean": mean.module}, optimizer)
                saved_at = time.monotonic()
    return _shared(mean.module)


class Examples(Protocol):
    """What a network is trained on: a map-style dataset that gives a whole batch at once."""

    def __len__(self) -> int:
        """Number of examples."""

    def __getitems__(self, rows: list[int]) -> Any:
        """Tensors of a batch, in a tuple or a dictionary."""


@dataclass(frozen=True)
class _Letters:
    """Pictures (N, size, size, 3) as the network takes them, and the indices (N,) of their letters."""

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.pixels[rows]), torch.from_numpy(self.targets[rows])


def _letters(
    archive: Archive,
    pictures: Sequence[Picture],
    engine: NetworkEngine,
    hands: FeatureStore | None,
    folder: Path,
    on_progress: Progress,
) -> _Letters:
    """Pictures decoded and resized once, with their letters."""
    work = [(picture, VIEWS[:1]) for picture in pictures]
    stream = (pixels for _, pixels in network_inputs(archive, work, engine, hands))
    kept = kept_pixels(folder, stream, len(pictures), engine.backbone.preprocessing.size, on_progress)
    labels = [letter for letter in LETTERS if any(picture.label == letter for picture in pictures)]
    return _Letters(kept, np.array([labels.index(picture.label) for picture in pictures], np.int64))


def kept_pixels(
    folder: Path, stream: Iterable[Pixels], count: int, side: int, on_progress: Progress
) -> NDArray[np.uint8]:
    """Pictures (count, side, side, 3) of a stream, in a file that the system keeps in memory as far as it has room.

    So they may be more than the memory holds, several processes share them, and a training that goes on finds them; the
    stream is then not begun.

    Parameters
    ----------
    folder
        Of this training (``tuned``).
    stream
        Pictures (side, side, 3), ``count`` of them.
    count, side
        Their number, and their pixels a side.
    on_progress
        Told of every picture.

    Raises
    ------
    CacheError
        If the file cannot be written.
    """
    path = folder / _PICTURES
    with one_after_the_other():
        if not path.exists():
            _write(path, stream, count, side, on_progress)
    return np.memmap(path, np.uint8, "r", shape=(count, side, side, 3))


def _write(path: Path, stream: Iterable[Pixels], count: int, side: int, on_progress: Progress) -> None:
    try:
        with write_file(path) as file:
            for done, pixels in enumerate(stream, start=1):
                file.write(pixels.tobytes())
                on_progress("Reading pictures", done, count)
    except OSError as error:
        raise CacheError(
            f"{path}: the pictures cannot be written ({error.strerror or error}). Expected "
            f"{count * side * side * 3 / 2**20:,.0f} MiB of free disk space; free some, or point "
            "FINGERSPELL_CACHE at another folder."
        ) from error


def _remembered(backbone: Backbone, path: Path) -> Backbone | None:
    """Backbone with the weights of a file; None if it is not there, or damaged from outside."""

    def load() -> Network:
        layers = copy.deepcopy(backbone.network.layers)
        layers.load_state_dict(load_file(path))
        return Network(layers, backbone.preprocessing)

    with suppress(SafetensorError, OSError, LookupError, TypeError), safe_open(path, "pt") as file:
        digest = file.metadata()["weights_sha256"]
        return Backbone(backbone.name, backbone.preprocessing, digest, backbone.dimension, load)
    return None


class _Batches(Sampler[list[int]]):
    """Rows of every batch of a training, from the step ``start`` on: a function of the seed and the step alone."""

    drop_last = True

    def __init__(
        self, count: int, options: FineTuningOptions, processes: int, seed: int, shares: NDArray[np.float64] | None
    ) -> None:
        self.batch_size = min(options.batch_size, count) // processes * processes
        if not self.batch_size:
            raise TuningError(
                f"found {count} examples in batches of {options.batch_size}, expected at least one for each of "
                f"{processes} processes. Start fewer processes."
            )
        self.an_epoch, self.start = count // self.batch_size, 0
        self._count, self._epochs, self._seed, self._shares = count, options.epochs, seed, shares

    def __len__(self) -> int:
        return self._epochs * self.an_epoch - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in range(self.start // self.an_epoch, self._epochs):
            order = _order(self._count, self._shares, [self._seed, epoch])
            for step in range(self.an_epoch):
                if epoch * self.an_epoch + step >= self.start:
                    yield order[step * self.batch_size : (step + 1) * self.batch_size].tolist()


def _order(count: int, shares: NDArray[np.float64] | None, seed: list[int]) -> NDArray[np.int64]:
    """Rows of an epoch: each once, or in proportion to its share and as evenly as whole numbers allow."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    if shares is None:
        return order
    until = np.floor(np.cumsum(shares[order]) * (count / shares.sum()) + rng.random())  # systematic sampling
    return rng.permutation(np.repeat(order, np.diff(until, prepend=0.0).astype(int)))


def _groups(network: nn.Module, layer_decay: float) -> list[dict[str, Any]]:
    """Parameters with their share of the learning rate (``lr_scale``) and their weight decay."""
    from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay

    groups: list[dict[str, Any]] = []
    rest = nn.Module()
    deep = [part for part in network.modules() if hasattr(part, "group_matcher")]
    for part in deep:
        groups += param_groups_layer_decay(part, _WEIGHT_DECAY, layer_decay=layer_decay)
    known = {id(parameter) for group in groups for parameter in group["params"]}
    others = ((n, p) for n, p in network.named_parameters() if id(p) not in known)
    for name, parameter in others:
        rest.register_parameter(name.replace(".", "_"), parameter)
    return [*groups, *param_groups_weight_decay(rest, _WEIGHT_DECAY)]


def _own_rate(network: nn.Module) -> float:
    return _RATE if any(isinstance(part, nn.BatchNorm2d) for part in network.modules()) else _RATE_WITHOUT_BATCH_NORM


def one_after_the_other() -> AbstractContextManager[None]:
    """Block that the first of several processes runs alone, and the others then, who find done what is remembered."""
    manager: AbstractContextManager[None] = _accelerator().main_process_first()
    return manager


def _accelerator() -> Accelerator:
    from datetime import timedelta

    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.utils import InitProcessGroupKwargs

    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, several processes on processors would not meet
        mixed_precision="no",  # ours is said by each call; Accelerate takes one for the whole process
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=_PATIENCE_S))],
    )


def _autocast(device: torch.device, precision: str | None) -> torch.autocast:
    """Bfloat16 where asked for, or on a card that has it. Processors that do are no faster with it (measured)."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16" or (precision is None and fast))


def _number(parts: list[int]) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _as_it_comes(batch: Any) -> Any:
    return batch


def _shared(network: nn.Module) -> nn.Module:
    """Network with the first process's weights, on the processor and at rest."""
    from accelerate.utils import broadcast

    state = broadcast(network.state_dict())
    network.load_state_dict(state)
    return network.cpu().eval()


def _save(
    path: Path, facts: str, step: int, networks: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Write all that the rest of a training depends on, as one file."""
    tensors = {f"{name}.{key}": value for name, part in networks.items() for key, value in part.state_dict().items()}
    for row, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{row}.{key}": value for key, value in moments.items()}
    plain = {key: value.contiguous().cpu() for key, value in tensors.items()}
    remember(path, save(plain, {"facts": facts, "step": str(step)}))


def _resume(path: Path, facts: str, networks: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Put back what a checkpoint holds and return its step; 0 if there is none, or one of another training."""
    if not path.exists():
        return 0
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["facts"] == facts:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            for name, part in networks.items():
                part.load_state_dict(_below(tensors, f"{name}."))
            _restore(optimizer, _below(tensors, "optimizer."))
            return int(metadata["step"])
    return 0


def _restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        row, _, name = key.partition(".")
        like = parameters[int(row)]
        # In the parameter's order in memory, by which kernels, and so last bits, are chosen.
        ordered = torch.empty_like(like).copy_(value) if value.shape == like.shape and value.ndim else value
        state.setdefault(int(row), {})[name] = ordered
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
