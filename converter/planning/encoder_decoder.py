"""Two sources joined: the composite's tensors, and where the values of each lie."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from converter.architectures.model_spec import BODY, ModelSpec, ModelSpecBuilder, ParamSpec
from converter.architectures.registry import ArchitectureRegistry
from converter.architectures.schema import CROSS_ATTENTION, Composite, ModelClass, Role
from converter.errors import UnsupportedError
from converter.models.framework_support import role_unsupported_reasons
from converter.models.key_matching import dominant_dtype
from converter.models.source_model import SourceModel, required
from converter.models.unknown_heads import leave_out_foreign_heads
from converter.planning.tensor_plan import SourceMatch


@dataclass(frozen=True)
class Submodel:
    """A source in its role."""

    name: str
    """``encoder`` or ``decoder``: the role, the prefix of names, the field of the configuration."""
    source: SourceModel
    takes_cross_attention: bool
    random: bool = False
    """Whether all its weights are drawn anew."""

    @property
    def role(self) -> Role:
        """What the table says of the role.

        Raises:
            UnsupportedError: if the family does not have it.

        """
        role_unsupported_reasons(self.source.config, self.name)
        return self.source.architecture.roles[self.name]

    @property
    def model(self) -> ModelClass:
        """The class of the half."""
        return self.source.architecture.models[self.role.model]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the half has."""
        extra = [CROSS_ATTENTION] if self.takes_cross_attention else []
        return tuple(dict.fromkeys((*self.model.parts, *extra)))

    @cached_property
    def dtype(self) -> str:
        """The floating-point dtype that most of its values have."""
        return dominant_dtype(self.source.report.matched)

    def model_spec(self, builder: ModelSpecBuilder) -> ModelSpec:
        """All tensors of the half, under its prefix."""
        return builder.model(self.source.config, self.parts, self.model.heads, self.name)


@dataclass(frozen=True)
class EncoderDecoderPair:
    """An encoder and a decoder on their way to one model."""

    composite: Composite
    submodels: tuple[Submodel, Submodel]
    target: ModelSpec

    @classmethod
    def of(
        cls,
        encoder: SourceModel,
        decoder: SourceModel,
        registry: ArchitectureRegistry,
        random: Collection[str] = (),
    ) -> EncoderDecoderPair:
        """Join two sources by the composite that the encoder's family calls for.

        Args:
            encoder: the source of the encoder.
            decoder: the source of the decoder.
            registry: the mapping tables.
            random: the halves whose weights are all drawn anew.

        Raises:
            UnsupportedError: if a family does not have the role, or the decoder's configuration
                forbids that its states be widened.

        """
        submodels = (
            Submodel("encoder", encoder, False, "encoder" in random),
            Submodel("decoder", decoder, True, "decoder" in random),
        )
        for submodel in submodels:
            leave_out_foreign_heads(submodel.source, registry.conventions)
        composite = registry.composite(submodels[0].role.composite)
        _refuse_other_width(encoder, decoder)
        builder = ModelSpecBuilder(registry.conventions)
        target = builder.composite(
            composite,
            {submodel.name: submodel.source.config for submodel in submodels},
            {submodel.name: submodel.model_spec(builder) for submodel in submodels},
        )
        return cls(composite, submodels, target)

    def dtype(self, param: ParamSpec) -> str:
        """The dtype in which a tensor that no source has is drawn: that of its half."""
        encoder, decoder = self.submodels
        return encoder.dtype if param.name.startswith(f"{encoder.name}.") else decoder.dtype

    @cached_property
    def findings(self) -> Mapping[str, SourceMatch]:
        """Where the values of the target's tensors lie; what is not used is given its reason.

        Raises:
            MatchError: if a source does not fit its table and configuration.

        """
        findings: dict[str, SourceMatch] = {}
        for submodel in self.submodels:
            if submodel.random:
                continue
            report, own = submodel.source.report, self._own(submodel)
            may_lack = (*submodel.parts, *submodel.model.heads)
            submodel.source.move_tied_values(own)
            known = [
                replace(param, tied_to=own[param.name].tied_to)
                for param in submodel.source.known.params
                if param.name in own
            ]
            submodel.source.drop(own, submodel.model.name, heads_of_any_shape=True)
            report.require(required(known, report.matched, may_lack))
            for name, stored in report.matched.items():
                copies = [
                    copy for claimed_by, copy in report.copies.get(name, ()) if claimed_by in own
                ]
                findings[own[name].name] = SourceMatch(stored, tuple(copies))
        return findings

    @property
    def reasons(self) -> dict[str, str]:
        """Part of the target → why its tensors are drawn anew."""
        reasons = {
            CROSS_ATTENTION: "connects the decoder with the encoder; no source has it",
            self.composite.name: "leads from the encoder's width to the decoder's",
        }
        for submodel in self.submodels:
            if submodel.random:
                reasons[BODY] = "is drawn anew, as asked for"
            for part in (*submodel.parts, *submodel.model.heads):
                reasons.setdefault(part, f"the {submodel.name}'s checkpoint has no {part}")
        return reasons

    @property
    def notes(self) -> list[str]:
        """What the user should know: parts that a model of the class has and the source lacks,
        cross-attention that a decoder brings along, and what its table says of its role.
        """
        notes = []
        for submodel in self.submodels:
            if submodel.role.note:
                notes.append(f"{submodel.name}: {submodel.role.note}")
            if submodel.random:
                notes.append(f"{submodel.name}: all weights are drawn anew, as asked for")
                continue
            if submodel.takes_cross_attention and submodel.source.has(CROSS_ATTENTION):
                notes.append(f"{submodel.name}: its own cross-attention is kept")
            drawn = {
                param.part
                for param in self._own(submodel).values()
                if param.name not in self.findings and not param.tied_to
            }
            notes += [
                f"{submodel.name}: the checkpoint has no {part}, which is drawn anew"
                for part in (*submodel.model.parts, *submodel.model.heads)
                if part in drawn
            ]
        return notes

    @property
    def own_slots(self) -> list[ParamSpec]:
        """The target's slots that belong to neither half."""
        leads = tuple(f"{submodel.name}." for submodel in self.submodels)
        return [param for param in self.target.params if not param.name.startswith(leads)]

    def _own(self, submodel: Submodel) -> dict[str, ParamSpec]:
        """The target's slots of one half by their names in the half."""
        lead = f"{submodel.name}."
        return {
            param.name.removeprefix(lead): param
            for param in self.target.params
            if param.name.startswith(lead)
        }


def _refuse_other_width(encoder: SourceModel, decoder: SourceModel) -> None:
    """The frameworks accept this field and fail at the first forward pass, unless the decoder is
    of a family that makes its cross-attention as wide.
    """
    field = "cross_attention_hidden_size"
    width = decoder.config.raw.get(field)
    heeded = field in decoder.architecture.config and width == encoder.config.attribute("width")
    if width is not None and not heeded:
        raise UnsupportedError(
            f"{decoder.config.file}: cross_attention_hidden_size is {width!r}, which keeps the "
            "frameworks from joining the two widths",
            remedy="Clear it: --set decoder.cross_attention_hidden_size=null.",
        )
