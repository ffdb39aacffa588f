"""Options of every command, each declared once.

A command has one frozen dataclass here: the fields before ``KW_ONLY`` are its arguments, the others
its options. All else is made from it: the Python function's signature and documentation (`takes`),
the command-line options and their help (`converter.cli.options`), the fields of a recipe and its
JSON Schema (`converter.recipes.schema`), and the reference pages of the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from converter.errors import UsageError
from converter.option_declaration import (
    COMPOSITION,
    EXECUTION,
    HUB,
    OUTPUT,
    SOURCES,
    TOKENS,
    CheckedOptions,
    argument,
    option,
    parse_size,
)
from converter.progress import ProgressOption

Reference: TypeAlias = str | Path
Framework = Literal["pytorch", "tensorflow", "flax"]
Submodel = Literal["encoder", "decoder"]
PytorchFormat = Literal["safetensors", "bin", "both"]
Dtype = Literal["keep", "float32", "float16", "bfloat16"]
InitRule = Literal["normal", "truncated-normal", "xavier", "zero-output", "copy-self-attention"]
ResizeRule = Literal["mean", "normal"]
TokenizerChoice = Literal["encoder", "decoder", "both", "none"]

FRAMEWORKS: tuple[str, ...] = get_args(Framework)
INIT_RULES: tuple[InitRule, ...] = get_args(InitRule)
SUBMODELS: tuple[str, ...] = get_args(Submodel)
MAX_JOBS = 1024


def _jobs() -> int | None:
    return option(
        None,
        "Number of threads.",
        group=EXECUTION,
        metavar="N",
        minimum=1,
        maximum=MAX_JOBS,
        envvar="CONVERTER_JOBS",
        absent="one per CPU, at most 4",
    )


def _progress(help: str) -> ProgressOption:
    bar = "True shows a bar, as notebooks do by default; False shows none."
    return option(None, help, bar, kind="callback")


@dataclass(frozen=True, kw_only=True)
class OutputOptions(CheckedOptions):
    """Options of every command that writes a checkpoint."""

    to: Sequence[Framework] | None = option(
        None,
        "Frameworks to write for.",
        group=OUTPUT,
        metavar="FRAMEWORK[,...]",
        kind="list",
        absent="every framework that has a class for the model",
    )
    pytorch_format: PytorchFormat = option(
        "safetensors", "File format for PyTorch; bin is pytorch_model.bin.", group=OUTPUT
    )
    dtype: Dtype = option("keep", "Cast floating-point tensors to this dtype.", group=OUTPUT)
    max_shard_size: int | str | None = option(
        None,
        "Write larger weight files in shards of at most this size.",
        group=OUTPUT,
        kind="size",
        metavar="SIZE",
        absent="no shards",
    )
    overwrite: bool = option(
        False, "Replace an existing checkpoint at OUTPUT.", group=EXECUTION, recipe=False
    )
    dry_run: bool = option(
        False, "Print the complete plan and write nothing.", group=EXECUTION, recipe=False
    )
    jobs: int | None = _jobs()
    memory: int | str = option(
        "512MB",
        "Largest total size of the working buffers.",
        group=EXECUTION,
        kind="size",
        metavar="SIZE",
        envvar="CONVERTER_MEMORY",
    )
    checksums: bool = option(
        False, "Put the SHA-256 of every file in the manifest.", group=EXECUTION
    )
    no_hash: bool = option(
        False,
        "Hash no tensors, which takes half of the processor time of PyTorch output.",
        "The manifest states no hashes then, and verify cannot compare the values with it.",
        group=EXECUTION,
    )
    resume: bool = option(
        False,
        "Keep partial output if interrupted, and continue from the output of such a run.",
        group=EXECUTION,
    )
    sync: bool = option(
        False,
        "Write everything through to the disk before success is reported.",
        "So the output is complete also after a power failure.",
        group=EXECUTION,
    )
    unchanged_sources: bool = option(
        False,
        "Fail, rather than warn, if a source holds other values than its own manifest states.",
        group=EXECUTION,
        cli=False,
        recipe=False,
    )
    progress: ProgressOption = _progress(
        "Called at most ten times a second with the bytes written so far, the total, and the "
        "tensor; an exception raised in it cancels."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to is not None and not self.to:
            raise UsageError("to: names no framework", remedy="One of: " + ", ".join(FRAMEWORKS))

    @property
    def memory_bytes(self) -> int:
        """The memory budget in bytes."""
        return parse_size(self.memory)

    @property
    def shard_bytes(self) -> int | None:
        """The largest shard in bytes."""
        return None if self.max_shard_size is None else parse_size(self.max_shard_size)


@dataclass(frozen=True, kw_only=True)
class CardOptions(OutputOptions):
    """Options of the commands that write a model card."""

    card: Reference | None = option(
        None,
        "Your own model card (README.md), written instead of the generated one.",
        group=OUTPUT,
        kind="file",
    )
    title: str | None = option(
        None,
        "Title of the generated model card.",
        group=OUTPUT,
        metavar="TEXT",
        absent="the names of the sources",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.title is not None and not self.title.strip():
            raise UsageError("title: is empty")
        if self.title is not None and self.card is not None:
            raise UsageError("title: a card of your own has its own title")


def _mapping() -> Sequence[Reference]:
    return option((), "Mapping table of your own.", group=SOURCES, kind="file")


def _config(of: str = "") -> Reference | None:
    text = f"config.json of {of}, if it is not in the same directory."
    return option(None, text, group=SOURCES, kind="file")


def _ignore(metavar: str = "PATTERN", more: str = "") -> Sequence[str]:
    return option(
        (),
        "Ignore the tensors in the source whose stored names match this pattern, with * and ?.",
        f"For what is not part of the model, such as a loss.{more}",
        group=SOURCES,
        metavar=metavar,
    )


def _set() -> Sequence[str]:
    return option(
        (),
        "Set a field of config.json.",
        "SUBMODEL is encoder or decoder. VALUE is JSON, or else a string; null removes the field.",
        group=SOURCES,
        metavar="[SUBMODEL.]KEY=VALUE",
    )


def _token(help: str) -> str | int | None:
    return option(None, help, group=TOKENS, metavar="ID|TOKEN")


def _checkpoint(help: str, metavar: str | None = None) -> Mapping[str, Any]:
    text = f"{help} Directory, weight file, Hub id org/name[@revision] or URL."
    return argument(text, kind="checkpoint", metavar=metavar)


_OUTPUT = argument("Directory to write, a path or a URL.", kind="output")


@dataclass(frozen=True)
class ComposeOptions(CardOptions):
    """Arguments and options of `converter.compose`."""

    encoder: Reference = field(metadata=_checkpoint("Checkpoint of the encoder."))
    decoder: Reference = field(metadata=_checkpoint("Checkpoint of the decoder."))
    output: Reference = field(metadata=_OUTPUT)
    _: KW_ONLY
    preset: str | None = option(
        None,
        "A published setup, such as bert2bert or bertshare (Rothe et al. 2020).",
        "It sets random, share and configuration fields; `converter families` lists all.",
        group=COMPOSITION,
        metavar="NAME",
        kind="preset",
    )
    model_type: str | None = option(
        None,
        "Composite to write, if not an encoder-decoder model: vision-text-dual-encoder.",
        "ENCODER is its image encoder then, and DECODER its text encoder.",
        metavar="NAME",
        group=COMPOSITION,
        absent="the encoder-decoder model of the two",
    )
    random: Sequence[Literal["encoder", "decoder", "both"]] = option(
        (),
        "Initialize all weights of the encoder, the decoder or both, from the configuration alone.",
        group=COMPOSITION,
    )
    share: bool = option(
        False,
        "Tie the weights of encoder and decoder; both must be the same checkpoint.",
        group=COMPOSITION,
    )
    layers: Sequence[str] = option(
        (),
        "Take some layers only: 0,2,4 or first:6, last:6, even:6.",
        group=COMPOSITION,
        metavar="SUBMODEL=LAYERS",
    )
    seed: int = option(0, "Seed of newly initialized weights.", group=COMPOSITION)
    init: InitRule | None = option(
        None,
        "Initialization of new cross-attention; the default is the decoder's.",
        "copy-self-attention copies the decoder's self-attention where shapes allow, the default "
        "if the decoder's mapping table says so; normal begins as in transformers, the default of "
        "the others and of presets. truncated-normal has the same scale, cut at two standard "
        "deviations; xavier is Glorot's uniform rule; zero-output makes cross-attention add "
        "nothing at first.",
        metavar="RULE",
        group=COMPOSITION,
    )
    force: bool = option(
        False, "Write the model even if transformers can load it but not run it.", group=COMPOSITION
    )
    tokenizer: TokenizerChoice = option(
        "both",
        "Whose tokenizer files to copy.",
        "With both, those of the decoder go to decoder_tokenizer/ unless they are the same.",
        group=TOKENS,
    )
    resize_embeddings: bool = option(
        False, "Resize embeddings and heads to the tokenizer's vocabulary.", group=TOKENS
    )
    resize_with: ResizeRule = option(
        "mean",
        "How to initialize added rows: mean of the other rows, or normal, the model's default.",
        group=TOKENS,
    )
    decoder_start_token: str | int | None = _token("Token that generation starts with.")
    eos_token: str | int | None = _token("Token that ends a sequence.")
    pad_token: str | int | None = _token("Padding token.")
    set: Sequence[str] = _set()
    ignore: Sequence[str] = _ignore(
        "[SUBMODEL=]PATTERN", " With encoder= or decoder= in one of the two checkpoints only."
    )
    mapping: Sequence[Reference] = _mapping()
    encoder_config: Reference | None = _config("the encoder")
    decoder_config: Reference | None = _config("the decoder")


@dataclass(frozen=True)
class _SourceOptions:
    """Arguments of the commands that make a checkpoint from another."""

    source: Reference = field(metadata=_checkpoint("Checkpoint."))
    output: Reference = field(metadata=_OUTPUT)
    _: KW_ONLY
    set: Sequence[str] = _set()
    ignore: Sequence[str] = _ignore()
    mapping: Sequence[Reference] = _mapping()
    config: Reference | None = _config("the source")


@dataclass(frozen=True)
class ConvertOptions(_SourceOptions, CardOptions):
    """Arguments and options of `converter.convert`."""

    _: KW_ONLY
    seed: int = option(
        0,
        "Seed of newly initialized weights.",
        "Weights that the model's class has and the checkpoint lacks, such as a pooler.",
        group=SOURCES,
    )


@dataclass(frozen=True)
class SplitOptions(_SourceOptions, OutputOptions):
    """Arguments and options of `converter.split`."""


@dataclass(frozen=True)
class InspectOptions(CheckedOptions):
    """Arguments and options of `converter.inspect`."""

    source: Reference = field(metadata=_checkpoint("Checkpoint."))
    _: KW_ONLY
    stats: bool = option(
        False, "Read all values for their statistics: minimum, maximum, mean, standard deviation."
    )
    config: Reference | None = _config("the source")
    mapping: Sequence[Reference] = _mapping()
    progress: ProgressOption = _progress(
        "Called with the bytes read so far, the total, and the tensor."
    )


@dataclass(frozen=True)
class VerifyOptions(CheckedOptions):
    """Arguments and options of `converter.verify`."""

    directory: Reference = field(
        metadata=_checkpoint("Checkpoint to verify, or the output of split.", "DIR")
    )
    _: KW_ONLY
    against: Sequence[Reference] = option(
        (),
        "Checkpoint that it was made from; every tensor copied from it must be equal.",
        "If both sources have the same architecture, list the encoder first.",
        metavar="SOURCE",
        kind="checkpoint",
    )
    native: bool = option(False, "Also read each file with its framework's own library.")
    run: bool = option(False, "Also load and run it with transformers.")
    python: Reference | None = option(
        None,
        "Interpreter for --run, one that has transformers.",
        metavar="INTERPRETER",
        absent="this one",
    )
    value_report: bool = option(
        False, "Compute the distributions of values that the HTML report shows.", cli=False
    )
    mapping: Sequence[Reference] = _mapping()
    jobs: int | None = _jobs()
    progress: ProgressOption = _progress(
        "Called with the bytes read so far, the total, and the tensor; further steps add to the "
        "total. What the frameworks read themselves is not counted."
    )


@dataclass(frozen=True)
class DiffOptions(CheckedOptions):
    """Arguments and options of `converter.diff`."""

    first: Reference = field(metadata=_checkpoint("First checkpoint.", "A"))
    second: Reference = field(metadata=_checkpoint("Second checkpoint.", "B"))
    _: KW_ONLY
    tolerance: float = option(
        0.0, "Largest absolute difference that counts as equal.", metavar="X", minimum=0
    )
    first_config: Reference | None = _config("A")
    second_config: Reference | None = _config("B")
    mapping: Sequence[Reference] = _mapping()
    jobs: int | None = _jobs()
    progress: ProgressOption = _progress(
        "Called with the bytes compared so far, the total, and the tensor."
    )


@dataclass(frozen=True)
class PushOptions(CheckedOptions):
    """Arguments and options of `converter.push`."""

    directory: Reference = field(
        metadata=argument("Finished checkpoint.", metavar="DIR", kind="directory", recipe=False)
    )
    repo_id: str = field(metadata=argument("Hub repository, org/name."))
    _: KW_ONLY
    private: bool = option(
        False,
        "Create the repository as private.",
        "An existing public repository is refused then.",
        group=HUB,
    )
    revision: str | None = option(
        None,
        "Commit to this branch.",
        "It is created from the main branch if it does not exist.",
        group=HUB,
        metavar="BRANCH",
    )
    create_pr: bool = option(
        False, "Open a pull request, or continue your open one with the same title.", group=HUB
    )
    commit_message: str | None = option(
        None, "Message of the commit, and title of the pull request.", group=HUB, metavar="TEXT"
    )
    description: str | None = option(
        None, "Description of the commit and of a new pull request.", group=HUB, cli=False
    )
    token: str | None = option(
        None,
        "Hub access token.",
        group=HUB,
        metavar="TOKEN",
        absent="your login or HF_TOKEN",
        recipe=False,
    )
    only: Sequence[str] = option(
        (), "Push only the files that match this pattern.", group=HUB, metavar="PATTERN"
    )


@dataclass(frozen=True)
class RunOptions(CheckedOptions):
    """Arguments and options of `converter.run`."""

    recipes: Reference | Sequence[Reference] = field(
        metadata=argument("Recipe files, YAML or JSON.", kind="file", metavar="RECIPE")
    )
    _: KW_ONLY
    variables: Mapping[str, str] | None = option(
        None,
        "Set a variable; takes precedence over the recipes' own.",
        metavar="NAME=VALUE",
        flag="--var",
    )
    dry_run: bool = option(False, "Print what each job would make or skip, and write nothing.")
    jobs: int | None = option(
        None,
        "Number of jobs that run at once.",
        metavar="N",
        minimum=1,
        maximum=MAX_JOBS,
        absent="1; with dask, one per CPU",
    )
    keep_going: bool = option(False, "Run the other jobs if some fail.")
    only: Sequence[str] = option(
        (),
        "Run only the jobs whose names match this pattern, and those whose output they need.",
        metavar="JOB",
    )
    force: Sequence[str] = option(
        (),
        "Run these jobs although their output is up to date; without JOB, all, or those of only.",
        "A name may have * and ?, so that '*' forces all.",
        metavar="[JOB]",
    )
    engine: Literal["local", "dask"] = option(
        "local", "Run jobs in threads of this process, or in processes of a dask cluster."
    )
    scheduler: str | None = option(
        None,
        "Address of the dask scheduler, such as tcp://10.0.0.5:8786.",
        metavar="ADDRESS",
        absent="a cluster of processes on this machine",
    )
    stopped: Callable[[], bool] | None = option(
        None,
        "Called several times a second; the run is interrupted once it returns true.",
        kind="callback",
    )
    progress: ProgressOption = _progress(
        "Called when a job starts or ends, with the number of ended jobs, the total, and the names "
        "of running jobs."
    )
    on_result: Callable[[Any], None] | None = option(
        None, "Called with the `JobResult` of each job that ends.", kind="callback"
    )

    @property
    def paths(self) -> tuple[Path, ...]:
        """The recipe files."""
        given = self.recipes
        each = (given,) if isinstance(given, str | Path) else given
        return tuple(map(Path, each))


@dataclass(frozen=True)
class FamiliesOptions(CheckedOptions):
    """Arguments and options of `converter.families`."""

    name: str | None = field(
        default=None,
        metadata=argument(
            "Architecture (model_type in config.json) or composite; the first letters of some, or "
            "a pattern with * and ?, list those.",
            kind="table",
        ),
    )
    _: KW_ONLY
    role: Submodel | None = option(None, "List what can take this role.")
    framework: Framework | None = option(
        None, "List what this framework has; with --role, in that role."
    )
    mapping: Sequence[Reference] = _mapping()
    rows: bool = option(
        False, "Print the parameters of every row, inherited ones included, in each dialect."
    )


@dataclass(frozen=True)
class EnvOptions(CheckedOptions):
    """Arguments and options of `converter.env`: none."""


@dataclass(frozen=True)
class CheckTableOptions(CheckedOptions):
    """Arguments and options of `converter.check_table`."""

    files: Reference | Sequence[Reference] = field(
        default=(), metadata=argument("Mapping tables.", kind="file", metavar="FILE")
    )
    _: KW_ONLY
    draft: Reference | None = option(
        None,
        "Print a first draft of a table for this checkpoint, with the decisions to make.",
        metavar="CHECKPOINT",
        kind="checkpoint",
    )
    output: Reference | None = option(
        None,
        "Write the draft to this new file instead, once it is complete.",
        metavar="FILE",
        kind="output",
    )
    config: Reference | None = _config("the checkpoint")


@dataclass(frozen=True)
class AppOptions(CheckedOptions):
    """Options of ``converter app``."""

    _: KW_ONLY
    port: int | None = option(
        None,
        "Port of the page; 0 for any free one.",
        metavar="PORT",
        minimum=0,
        maximum=65535,
        absent="7860",
    )
    closed: bool = option(
        False,
        "Open no paths of this machine and do nothing with its login: only Hub ids and uploads, as "
        "in a Space.",
    )
    no_browser: bool = option(False, "Do not open a browser.")


COMMAND_OPTIONS: Mapping[str, type[CheckedOptions]] = {
    "compose": ComposeOptions,
    "convert": ConvertOptions,
    "split": SplitOptions,
    "inspect": InspectOptions,
    "verify": VerifyOptions,
    "diff": DiffOptions,
    "push": PushOptions,
    "run": RunOptions,
    "families": FamiliesOptions,
    "check_table": CheckTableOptions,
}
"""Public function → its arguments and options."""
