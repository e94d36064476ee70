"""The command line: one thin function a verb. Heavy imports stand inside the verbs, so that --help is quick."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from functools import wraps
from inspect import Signature
from inspect import signature as inspect_signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fingerspell import console
from fingerspell.errors import FingerspellError, ModelError, TuningError, not_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fingerspell.model import Model
    from fingerspell.runs import Run

app = typer.Typer(
    help="From an archive of labelled hand pictures to a recogniser of the ASL manual alphabet (fingerspelling), "
    "with scores that say how far it can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Archive = Annotated[
    Path, typer.Argument(metavar="ARCHIVE", help="Zip file, tar file or folder with one folder a letter.")
]
Archives = Annotated[
    list[Path],
    typer.Argument(metavar="ARCHIVE...", help="Zip files, tar files or folders with one folder a letter; read as one."),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="real, synthetic, reader, fusion or a .toml file; chosen by the layout of the archive if left out.",
    ),
]
HandModel = Annotated[
    Path | None,
    typer.Option("--hand-model", metavar="FILE", help="MediaPipe's hand_landmarker.task; fetched once if left out."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace finished results in that folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)


def _values(
    sample: Annotated[
        int | None, typer.Option(help="Pictures to draw for training (and validation, if the split sets none aside).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times that the mlp head sees every training picture.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a lower validation loss; 0: never.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's input in pixels.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="A timm model name (vgg16, resnet50, ...), efficientnet-lite0, hand-landmarks or reader."),
    ] = None,
    crop: Annotated[
        str | None, typer.Option(help="hand: the backbone sees the hand alone, mirrored to a right one.")
    ] = None,
    hand_model: HandModel = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Local safetensors file with the backbone's weights.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="torch or openvino; the fastest on this machine if left out.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of the features: float32, bfloat16 or int8; the fastest as good as float32 if left out."),
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Train the whole backbone on the training pictures first.")
    ] = False,
    tune_epochs: Annotated[int | None, typer.Option(help="--fine-tune: times that each picture is seen.")] = None,
    tune_rate: Annotated[
        float | None, typer.Option(help="--fine-tune: learning rate of the last layers, at its height.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="mlp (the study's), linear (softmax regression), points (of hand-landmarks), own (of reader) or "
            "fusion (points and the backbone)."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="first-per-class, folders, random, blocks, bursts, groups, leave-one-group-out."),
    ] = None,
    test_per_class: Annotated[int | None, typer.Option(help="first-per-class: test pictures of each letter.")] = None,
    fold: Annotated[
        int | None, typer.Option(help="random, blocks, bursts, groups: which part is the test set.")
    ] = None,
    guard: Annotated[
        int | None, typer.Option(help="blocks: frames left out on each side of a cut; measured if left out.")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="CSV[:COLUMN]",
            help="groups: who signs which picture, on disk or inside; archives and their signers.csv if left out.",
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="leave-one-group-out: the archive or ARCHIVE/SIGNER to test on."),
    ] = None,
    per_group: Annotated[
        int | None,
        typer.Option(help="Training pictures of each letter and group, evenly spread; all if left out."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn at random.")] = None,
    interpolation: Annotated[str | None, typer.Option(help="nearest, bilinear, bicubic or lanczos.")] = None,
    input_scale: Annotated[
        str | None, typer.Option(help="native: what the weights were trained on; unit: RGB in 0-1, as the study.")
    ] = None,
    reference_leak: Annotated[
        bool, typer.Option("--reference-leak", help="Repeat the study's mistake: test pictures stay in the pool.")
    ] = False,
) -> dict[str, Any]:
    """Values of a recipe that are given as options, by their dotted names."""
    return {
        "seed": seed,
        "split.protocol": split,
        "split.test_per_class": test_per_class,
        "split.fold": fold,
        "split.guard": guard,
        "split.groups": groups,
        "split.held_out": held_out,
        "split.per_group": per_group,
        "split.sample": sample,
        "split.reference_leak": reference_leak or None,
        "features.backbone": backbone,
        "features.crop": crop,
        "features.hand_model": str(hand_model) if hand_model else None,
        "features.weights": str(weights) if weights else None,
        "features.size": size,
        "features.interpolation": interpolation,
        "features.input_scale": input_scale,
        "features.engine": engine,
        "features.precision": precision,
        "fine_tuning.enabled": fine_tune or None,
        "fine_tuning.epochs": tune_epochs,
        "fine_tuning.learning_rate": tune_rate,
        "head.kind": head,
        "head.mlp.epochs": epochs,
        "head.mlp.patience": patience,
    }


def _with_values(verb: Callable[..., None]) -> Callable[..., None]:
    """Verb that takes the options of ``_values`` after its own, and gets them as ``overrides``."""
    own, more = (inspect_signature(function, eval_str=True).parameters for function in (verb, _values))
    parameters = {name: parameter for name, parameter in own.items() if name != "overrides"} | more

    @wraps(verb)
    def command(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in more}
        verb(**given, overrides=_values(**chosen))

    command.__signature__ = Signature(list(parameters.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return command


@app.command(
    epilog=_examples(
        "fingerspell train archive.zip",
        "fingerspell train archive.zip --recipe real --sample 26000 --epochs 5",
        "fingerspell train archive.zip --backbone efficientnet-lite0 --size 224 --head linear",
        "fingerspell train archive.zip --backbone efficientnet-lite0 --size 128 --fine-tune",
        "fingerspell train people.zip --split groups --groups signers.csv:signer",
        "fingerspell train archive.zip --backbone hand-landmarks",
        "fingerspell train archive.zip --backbone efficientnet-lite0 --crop hand --head fusion",
        "fingerspell train one.zip other.zip --split leave-one-group-out --held-out other --per-group 40",
    )
)
@_with_values
def train(
    archives: Archives,
    recipe: RecipeName = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    *,
    overrides: dict[str, Any],
) -> None:
    """Train a recogniser on an archive, or several, and report how good it is.

    Archives are read in place. Features of pictures are computed once and remembered, so that a second run with
    another head or number of epochs takes seconds. A run that was killed goes on when started again. With --fine-tune
    several processes or machines share the training: torchrun --nproc-per-node 2 -m fingerspell train ... --fine-tune
    """
    from fingerspell import runs

    if runs.is_helper():  # one of the processes of torchrun, of which the first goes on alone
        runs.help_to_train(archives, recipe=recipe, overrides=overrides)
        return
    with console.progress() as on_progress:
        run = runs.train(
            archives, recipe=recipe, overrides=overrides, out=out, overwrite=overwrite, on_progress=on_progress
        )
    _tell(run, as_json=as_json)


@app.command(
    epilog=_examples(
        "fingerspell strangers one.zip other.zip third.zip",
        "fingerspell strangers one.zip other.zip third.zip --per-group 40 --head linear --final",
        "fingerspell strangers people.zip --by signer --groups signers.csv:signer",
    )
)
@_with_values
def strangers(
    archives: Archives,
    recipe: RecipeName = None,
    by: Annotated[
        Literal["archive", "signer"], typer.Option(help="What is held out: an archive, or a signer where known.")
    ] = "archive",
    final: Annotated[
        bool, typer.Option("--final", help="Train a model on all groups too, calibrated on strangers.")
    ] = False,
    final_epochs: Annotated[
        int | None, typer.Option(help="--final, whose fine-tuning sees each picture more often than a fold's.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("runs/strangers"),
    as_json: Json = False,
    *,
    overrides: dict[str, Any],
) -> None:
    """Say how good a recipe is on people it has not seen: train without each group in turn, and test on it.

    Every fold is a run with its own report. Finished folds are taken over when this is started again. Rendered sets
    teach in every fold and are never held out.
    """
    from fingerspell import runs
    from fingerspell import strangers as measuring

    if runs.is_helper():
        raise TuningError(
            f"strangers: found process {os.environ['RANK']} of several, expected one. Leave torchrun out."
        )
    with console.progress() as on_progress:
        result = measuring.strangers(
            archives,
            out,
            recipe=recipe,
            overrides=overrides,
            by=by,
            final={"fine_tuning.epochs": final_epochs} if final or final_epochs is not None else None,
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        console.show_strangers(result)
        typer.echo(f"Report: {out / 'strangers.html'}")


@app.command(
    epilog=_examples(
        "fingerspell evaluate strangers.zip",
        "fingerspell evaluate runs/real-1a2b3c4d strangers.zip",
        "fingerspell evaluate runs/real-1a2b3c4d strangers.zip --out results --json",
    )
)
def evaluate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] ARCHIVE",
            help="Folder of a run, or of its model; without it the model in the box. Zip file, tar file or folder.",
        ),
    ],
    hand_model: HandModel = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Score a trained model on any other data set: people, rooms and cameras it has never seen."""
    from fingerspell import runs
    from fingerspell.model import is_model

    if len(inputs) > 2:
        raise typer.BadParameter(f"found {len(inputs)} arguments, expected a model and an archive, or an archive alone")
    if len(inputs) == 1 and is_model(inputs[0]):
        raise typer.BadParameter(f"found the model {inputs[0]} alone, expected an archive behind it")
    model, archive = inputs[0] if len(inputs) == 2 else None, inputs[-1]
    loaded = _loaded(model, hand_model)
    with console.progress() as on_progress:
        run = runs.evaluate(loaded, archive, out=out, overwrite=overwrite, on_progress=on_progress)
    _tell(run, as_json=as_json)


@app.command(
    epilog=_examples(
        "fingerspell predict hand.jpg other.png",
        "fingerspell predict folder archive.zip --json",
        "cat hand.jpg | fingerspell predict -",
        "fingerspell predict runs/real-1a2b3c4d hand.jpg",
    )
)
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] INPUT...",
            help="Folder of a run, or of its model; without it the model in the box. Pictures, folders, archives; - is "
            "stdin.",
        ),
    ],
    hand_model: HandModel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a picture.")] = False,
) -> None:
    """Name the letter on pictures, or say "no letter"; then the likeliest letter and the runner-up, with probabilities.

    What cannot be read is named on the error stream, and the exit status is then 1; the other pictures go on. With
    --json the model in the box also says where the hand is.
    """
    model, pictures = _model_first(inputs)
    loaded = _loaded(model, hand_model)
    with _naming_unreadable() as on_unreadable:
        for best in loaded.predictions(_pictures(pictures, on_unreadable), on_unreadable):
            if as_json:
                typer.echo(json.dumps({name: value for name, value in asdict(best).items() if value is not None}))
            else:
                typer.echo(
                    f"{console.plain(best.id)}\t{best.answer}\t{best.letter} {best.probability:.3f}\t"
                    f"{best.runner_up} {best.runner_up_probability:.3f}"
                )


@app.command(
    epilog=_examples("fingerspell inspect archive.zip", "fingerspell inspect archive.zip --html findings.html")
)
def inspect(
    archive: Archive,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with contact sheets: it shows your pictures.")
    ] = None,
    groups: Annotated[
        str | None, typer.Option(metavar="CSV[:COLUMN]", help="Who signs which picture, on disk or inside.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table with one row a picture.")] = None,
    as_json: Json = False,
) -> None:
    """Say what is in an archive, and what of it to know before training.

    Pictures of each letter, problems, near-copies and bursts, light and backgrounds, and how many test pictures of each
    split would have a near-copy in training.
    """
    from fingerspell import cache, inspection, looks
    from fingerspell.alphabet import is_letter
    from fingerspell.archive import open_archive
    from fingerspell.dataset import scan
    from fingerspell.files import check_writable, write_text
    from fingerspell.groups import groups_of
    from fingerspell.images import decode

    with open_archive(archive) as opened, console.progress() as on_progress:
        for file in filter(None, (html, csv)):
            if file.is_dir():
                raise typer.BadParameter(f"{file} is a folder, expected a file to write to")
            check_writable(file.parent)
        dataset = scan(opened, memory=cache.scans_folder(), on_progress=on_progress)
        letters = [p for p in dataset.pictures if is_letter(p.label) and not p.problem]
        measured = looks.measure(opened, letters, memory=cache.scans_folder(), on_progress=on_progress)
        signers = groups_of(opened, [p.id for p in letters], groups)
        found = inspection.inspect(dataset, measured, signers)
        if html:
            from fingerspell.reporting import write_inspection

            write_inspection(html, found, lambda name: decode(opened.read(name)).pixels)
    if csv:
        write_text(csv, dataset.to_csv())
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        console.show_inspection(found)
    dataset.letters()  # says what would stop a run, and sets the exit status


@app.command(
    epilog=_examples(
        "fingerspell compare runs/one runs/other strangers.zip",
        "fingerspell compare runs/one runs/folds own.zip strangers.zip --out runs/matrix",
    )
)
def compare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="MODEL... ARCHIVE...", help="Folders of runs or models, and data sets.")
    ],
    hand_model: HandModel = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("runs/comparison"),
    as_json: Json = False,
) -> None:
    """Measure every model on every data set: a matrix with intervals, and paired tests.

    A folder of several runs is one row: folds of one recipe, whose answers are pooled. Of a data set that a model was
    trained on, the test pictures of its run are taken.
    """
    from fingerspell import compare as comparing

    entries = {path: comparing.entries_in(path) for path in inputs}
    models = [entry for entry in entries.values() if entry]
    with console.progress() as on_progress:
        result = comparing.compare(
            models,
            [path for path, entry in entries.items() if not entry],
            out,
            hand_model=hand_model,
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        console.show_comparison(result)
        typer.echo(f"{out / 'comparison.html'}")


@app.command(
    epilog=_examples(
        "fingerspell explain hand.jpg",
        "fingerspell explain runs/real-1a2b3c4d folder archive.zip",
        "fingerspell explain runs/demo demo/rendered-hands --boxes demo/rendered-hands/hands.csv --count 100",
    )
)
def explain(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] INPUT...",
            help="Folder of a run, or of its model; without it the model in the box. Pictures, folders, archives.",
        ),
    ],
    boxes: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Where the hands are: path, left, top, right, bottom.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, evenly spaced among the inputs.")] = 24,
    hand_model: HandModel = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("explanation"),
    as_json: Json = False,
) -> None:
    """Show what answers rest on: the hand or the wall.

    A patch is laid over one place after another; where the probability of the answer falls, the map is warm. The sheet
    shows your pictures: keep it where you keep them.
    """
    from fingerspell import explanation

    if "-" in inputs:
        raise typer.BadParameter("found -, stdin; expected files or folders, for pictures are read twice")
    model, pictures = _model_first(inputs)
    with _naming_unreadable() as on_unreadable:
        with console.progress() as on_progress:
            found = explanation.explain_files(
                _loaded(model, hand_model),
                lambda: _pictures(pictures, on_unreadable),
                out,
                on_unreadable,
                boxes=boxes,
                count=count,
                on_progress=on_progress,
            )
        if as_json:
            typer.echo(json.dumps(found))
        else:
            console.show_explanation(found)
            typer.echo(f"{out / 'explanation.png'}")


@app.command(
    epilog=_examples(
        "fingerspell render hands",
        "fingerspell render hands.zip --train 900 --test 100 --size 512 --seed 0",
        "fingerspell render hands --backgrounds ~/Pictures/rooms",
    )
)
def render(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder for the pictures (those already there stay), or a new zip."),
    ],
    train: Annotated[int, typer.Option(min=1, help="Training pictures of each letter.")] = 40,
    test: Annotated[int, typer.Option(min=0, help="Test pictures of each letter.")] = 10,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Side of a picture in pixels.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same pictures.")] = 0,
    backgrounds: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of pictures to stand behind the hands, instead of drawn ones."),
    ] = None,
) -> None:
    """Draw a data set of 3-D hands posed as letters, in the layout of the synthetic reference set.

    Beside the pictures stands hands.csv, the truth about each: the hand's box, side and 21 joints, and everything that
    was drawn at random. OUT.png shows one picture of each letter. A killed run goes on where it stopped.
    """
    from fingerspell.rendering import render_dataset
    from fingerspell.rendering.generate import sheet_of

    with console.progress() as on_progress:
        count = render_dataset(
            out,
            train_per_letter=train,
            test_per_letter=test,
            size=size,
            seed=seed,
            backgrounds=backgrounds,
            on_progress=on_progress,
        )
    typer.echo(f"{out}: {count:,} pictures drawn, one of each letter in {sheet_of(out)}")


@app.command(epilog=_examples("fingerspell cache", "fingerspell cache --clear"))
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete everything that is remembered.")] = False,
    as_json: Json = False,
) -> None:
    """Show or clear what is remembered between runs: scans of archives, features of pictures.

    The folder is that of FINGERSPELL_CACHE, or where caches belong on this system.
    """
    from fingerspell import cache as remembered

    if clear:
        freed = remembered.clear()
        typer.echo(json.dumps({"freed": freed}) if as_json else f"{freed / 2**20:,.1f} MiB freed")
        return
    entries = remembered.entries()
    if as_json:
        typer.echo(json.dumps([asdict(entry) | {"path": str(entry.path)} for entry in entries]))
        return
    for entry in entries:
        typer.echo(f"{entry.kind:<9} {entry.size / 2**20:>9,.1f} MiB  {entry.path.name}")
    typer.echo(f"{remembered.cache_folder()}: {sum(entry.size for entry in entries) / 2**20:,.1f} MiB")


@app.command(epilog=_examples("fingerspell demo", "fingerspell demo --out try-it"))
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for pictures and run.")] = Path("demo"),
    overwrite: Overwrite = False,
) -> None:
    """Draw hands, train the synthetic recipe on them with the embedded backbone, and report: minutes, no download."""
    from fingerspell import runs
    from fingerspell.rendering import render_dataset

    with console.progress() as on_progress:
        render_dataset(
            out / "rendered-hands",
            **_DEMO_PICTURES,
            on_progress=on_progress,
        )
        run = runs.train(
            out / "rendered-hands",
            recipe="synthetic",
            overrides=_DEMO_VALUES,
            out=out / "recogniser",
            overwrite=overwrite,
            on_progress=on_progress,
        )
    _tell(run, as_json=False)


_PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")  # what archives are called

# Small enough for minutes on two cores; what these numbers give is in the README.
_DEMO_PICTURES: dict[str, Any] = {"train_per_letter": 120, "test_per_letter": 30, "size": 128}
_DEMO_VALUES = {"features.backbone": "efficientnet-lite0", "features.size": 128, "head.mlp.epochs": 20}


def main() -> None:
    """Entry point: a failure the user can mend is one message and exit status 1."""
    import warnings

    warnings.filterwarnings("ignore", module="PIL")  # its remarks on damaged pictures: ours are in the table
    try:
        app()
    except FingerspellError as error:
        console.warn(f"Error: {error}")
        sys.exit(1)
    except ModuleNotFoundError as error:
        console.warn(f"Error: {not_installed(error)}")
        sys.exit(1)
    except OSError as error:  # a folder that may not be written, a full disk: the system's words name the place
        console.warn(f"Error: {error}")
        sys.exit(1)


def _tell(run: Run, *, as_json: bool) -> None:
    """Scores and, on the last line, the report."""
    report = run.folder / "report.html"
    if as_json:
        typer.echo(json.dumps({"folder": str(run.folder), "seconds": run.seconds} | run.metrics))
        return
    console.show_scores(run.metrics)
    typer.echo(f"Report: {report}")


def _loaded(path: str | None, hand_model: Path | None) -> Model:
    """Model of a folder, or the one in the box."""
    from fingerspell.model import load_model

    model = load_model(path, hand_model)
    if hand_model and not model.detector:
        raise typer.BadParameter(f"--hand-model has no effect: {model.card.name} looks for no hands. Leave it out.")
    return model


def _model_first(inputs: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """Folder of the model, or None for the model in the box, and where the pictures are."""
    from fingerspell.images import SUFFIXES
    from fingerspell.model import is_model

    first = Path(inputs[0])
    of_pictures = first.suffix.lower() in {*SUFFIXES, *_PACKED}
    if len(inputs) > 1 and inputs[0] != "-" and not first.exists() and not of_pictures:
        raise ModelError(  # and no other model's answers
            f"{first}: there is no such model, picture or archive. Expected the folder of a finished run (runs/<name>) "
            "or its model folder; check the path."
        )
    if not is_model(first):
        runs = sorted(first.glob("*/model/model.json")) if inputs[0] else []
        if runs:
            raise ModelError(f"{first}: a folder with runs in it, expected one, as {runs[0].parents[1]}, or pictures.")
        return None, inputs
    if len(inputs) == 1:
        raise typer.BadParameter(f"found the model {first} alone, expected pictures behind it")
    return inputs[0], inputs[1:]


@contextmanager
def _naming_unreadable() -> Iterator[Callable[[str, str], None]]:
    """What is told of a picture that cannot be read names it once on the error stream; the exit status is 1 then."""
    named: set[str] = set()

    def on_unreadable(name: str, reason: str) -> None:
        if name not in named:
            console.warn(f"{console.plain(name)}: {reason}")
        named.add(name)

    yield on_unreadable
    if named:
        raise typer.Exit(1)


def _pictures(inputs: Sequence[str], on_unreadable: Callable[[str, str], None]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every picture that the arguments of ``predict`` and ``explain`` mean."""
    from fingerspell.archive import open_archive, packed_as
    from fingerspell.dataset import sort_out
    from fingerspell.errors import ArchiveError, UnreadableError
    from fingerspell.images import SUFFIXES
    from fingerspell.model import is_model

    for text in inputs:
        path = Path(text)
        if text == "-" and sys.stdin:
            yield "stdin", sys.stdin.buffer.read()
            continue
        if not text or text == "-":
            on_unreadable(text or "''", "nothing is there: an empty name, or a closed stdin; expected pictures")
            continue
        if is_model(path):
            on_unreadable(text, "a model or another result, expected pictures; the model that reads them stands first")
            continue
        try:
            if path.is_file() and (path.suffix.lower() in SUFFIXES or not packed_as(path)):
                yield text, path.read_bytes()
                continue
            with open_archive(path) as archive:
                members = sort_out(archive.members)[0]
                if not members:
                    on_unreadable(text, f"no pictures in it, expected files that end in {', '.join(sorted(SUFFIXES))}")
                for member in members:
                    name = f"{path}/{member.name}"
                    try:
                        yield name, archive.read(member.name)
                    except UnreadableError as error:
                        on_unreadable(name, str(error))
        except (ArchiveError, OSError) as error:
            on_unreadable(text, str(error).removeprefix(f"{path}: "))
