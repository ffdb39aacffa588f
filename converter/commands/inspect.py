"""The inspection of a checkpoint, from its headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.architectures.expressions import is_number
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import FRAMEWORKS
from converter.checkpoint.opening import Checkpoint, open_files
from converter.checkpoint.weight_states import recognize_weights
from converter.display import Displayed
from converter.errors import ConverterError
from converter.models.likely_types import LikelyTypes, likely_types
from converter.models.model import Model
from converter.models.ties import resolve_as_used
from converter.options import InspectOptions
from converter.planning.manifest import find_manifest
from converter.progress import ProgressCounter, ProgressOption
from converter.python_calls import takes
from converter.recognition import Recognition
from converter.verification.manifest import is_initialized

if TYPE_CHECKING:
    from converter.verification.result import Statistics


@dataclass(frozen=True, repr=False)
class Inspection(Displayed):
    """The result of `inspect`."""

    checkpoint: Checkpoint
    """The files, closed."""
    model: Model | None
    """Its class, matched tensors and supported frameworks; ``None`` without a configuration."""
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    """On request: canonical name → minimum, maximum, mean and standard deviation."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """The manifest next to the weights; empty if there is none."""
    likely: LikelyTypes = field(default_factory=LikelyTypes)
    """Without a configuration: the architectures whose names the tensors have."""
    state: Recognition | None = None
    """Why the weights cannot be read as parameters, if they are quantized, partitioned or so."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles that a stand-alone model can take in an encoder-decoder model."""
        config = self.model.configs.get("") if self.model else None
        return tuple(config.architecture.roles) if config else ()

    @property
    def frameworks(self) -> tuple[str, ...]:
        """Return the frameworks that the model can be converted to; none if it does not fit."""
        if self.model is None or not self.fits:
            return ()
        return tuple(name for name in FRAMEWORKS if name not in self.model.unsupported_reasons)

    @property
    def fits(self) -> bool | None:
        """Return whether every tensor is accounted for; ``None`` without a configuration."""
        if self.model is None:
            return False if self.state else None
        return not self.model.key_match.problems(self.model.required)

    @property
    def parameters(self) -> int:
        """Return the number of parameters; of all values, if the tensors do not fit a model."""
        if self.model and self.fits:
            return self.model.parameters
        tensors = self.checkpoint.tensors.values()
        return sum({tensor.location: tensor.spec.size for tensor in tensors}.values())

    def origin(self, name: str) -> str:
        """Return where a tensor's values come from by the manifest, in few words."""
        entries = self.manifest.get("tensors")
        entry = entries.get(name) if isinstance(entries, dict) else None
        if not isinstance(entry, dict):
            return ""
        if not is_initialized(entry):
            return str(entry.get("source", ""))
        scale = entry.get("scale")
        argument = f"({scale:g})" if is_number(scale) else ""
        return f"initialized: {entry.get('rule')}{argument}"

    @property
    def provenance(self) -> dict[str, Any] | None:
        """Return what the manifest states: command, sources, seed, number of each origin."""
        if not self.manifest:
            return None
        tensors, sources = self.manifest.get("tensors"), self.manifest.get("sources")
        warnings = self.manifest.get("warnings")
        entries = tensors.values() if isinstance(tensors, dict) else ()
        origins = Counter(str(each.get("origin")) for each in entries if isinstance(each, dict))
        items = sources.items() if isinstance(sources, dict) else ()
        return {
            **{key: self.manifest.get(key) for key in ("command", "converter_version", "seed")},
            "sources": {label: each for label, each in items if isinstance(each, dict)},
            "origins": dict(origins),
            "warnings": warnings if isinstance(warnings, list) else [],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON representation."""
        checkpoint = self.checkpoint
        specs = [tensor.spec for tensor in checkpoint.tensors.values()]
        return {
            "source": checkpoint.reference,
            "files": {path.name: size for path, size in checkpoint.sizes.items()},
            "other_files": list(checkpoint.others),
            "format": checkpoint.file_format,
            "tensors": len(specs),
            "parameters": self.parameters,
            "bytes": sum(spec.nbytes for spec in specs),
            "dtypes": dict(Counter(spec.dtype for spec in specs)),
            "roles": list(self.roles),
            "frameworks": list(self.frameworks),
            "manifest": self.provenance,
            "state": self.state.what if self.state else None,
            **(self._describe_model(self.model) if self.model else self._describe_tensors()),
            "fits": self.fits,
        }

    def _describe_tensors(self) -> dict[str, Any]:
        """Return what is known of weights without a configuration."""
        return {
            "model_type": None,
            "likely_model_types": {key: [*names] for key, names in self.likely.model_types.items()},
            "dialect": self.likely.dialect or None,
            "stored": {
                name: {"dtype": tensor.spec.dtype, "shape": list(tensor.spec.shape)}
                for name, tensor in self.checkpoint.tensors.items()
            },
            "notes": [] if self.state else self.checkpoint.notes,
        }

    def _describe_model(self, model: Model) -> dict[str, Any]:
        report = model.key_match
        return {
            "model_type": self.checkpoint.architecture,
            "class": model.name,
            "submodels": {
                submodel: model.configs[submodel].architecture.name for submodel in model.submodels
            },
            "dialect": report.dialect,
            "prefix": report.prefix,
            "unsupported": dict(model.unsupported_reasons),
            "matched": {
                name: {
                    "key": stored.tensor.spec.name,
                    "dtype": stored.tensor.spec.dtype,
                    "shape": list(stored.tensor.spec.shape),
                    "bytes": stored.tensor.spec.nbytes,
                    **({"origin": origin} if (origin := self.origin(name)) else {}),
                    **(self.statistics[name].to_dict() if name in self.statistics else {}),
                }
                for name, stored in report.matched.items()
            },
            "missing": [param.name for param in model.required if param.name not in report.matched],
            "unmatched": [spec.name for spec in report.unmatched],
            "ignored": dict(report.ignored),
            "mismatched": {
                spec.name: {"expected": list(shape), "found": list(spec.shape)}
                for spec, _, shape in report.mismatched
            },
            "notes": list(model.notes),
        }


@takes(InspectOptions)
def inspect(options: InspectOptions) -> Inspection:
    """Describe a checkpoint, and how its tensors match the mapping table of its architecture.

    Only headers are read, unless statistics are asked for. Without a configuration, the result has
    no model, but the architectures whose names the tensors have.

    Raises:
        CheckpointError: if it cannot be opened.
        ConfigError: if its configuration cannot be used.
        UnsupportedError: if there is no table for it.

    """
    registry = ArchitectureRegistry.for_user(options.mapping)
    with open_files(
        options.source, options.config, headers=not options.stats, needs_config=False
    ) as checkpoint:
        if not checkpoint.has_config:
            specs = [tensor.spec for tensor in checkpoint.tensors.values()]
            state = recognize_weights(specs, len(specs), {}, {}, checkpoint.directory)
            likely = likely_types(checkpoint.tensors, registry)
            return Inspection(checkpoint, None, likely=likely, state=state)
        model = resolve_as_used(checkpoint, registry)
        statistics = _statistics(model, options.progress) if options.stats else {}
        manifest = _manifest(checkpoint.directory)
        state = model.key_match.state
        return Inspection(model.checkpoint, model, statistics, manifest, state=state)


def _manifest(home: Path) -> Mapping[str, Any]:
    """Return the manifest; empty if it cannot be read, which `verify` reports."""
    try:
        return find_manifest(home) or {}
    except ConverterError:
        return {}


def _statistics(model: Model, progress: ProgressOption) -> dict[str, Statistics]:
    from converter.verification.comparison import thread_map
    from converter.verification.value_report import measure

    matched = model.key_match.matched
    nbytes = {name: stored.tensor.spec.nbytes for name, stored in matched.items()}
    count = ProgressCounter(progress).start_step(nbytes)
    statistics = thread_map(
        lambda name: measure(matched[name]), list(matched), None, count, lambda n: [matched[n]]
    )
    return dict(zip(matched, statistics, strict=True))
