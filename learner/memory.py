"""What a learner rank holds in memory, line by line, from sizes and settings alone.

The lines follow the learner's own code and DeepSpeed 0.19.8 as `learner.engine` configures it. `bench.forecast` holds
them against what is allocated on CPUs. Bytes are of the device that the rank computes on, unless they are the host's;
on a CPU the two are one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from configs.schema import Config, Model
from data.audio import tower_positions
from learner.figure import Figure, figure, total
from learner.sizes import HEAD, POSITIONS, PROJECTOR, TOWER, Language, Sizes, Tower, engine_layer
from learner.work import CHUNK_LOGITS, Work

BYTES = {"float32": 4, "bfloat16": 2}
FULL = 4
"""Bytes of a number in float32, which optimizer and sums of gradients use whatever the weights' type."""

BUCKET_NUMBERS = 500_000_000
"""DeepSpeed's `reduce_bucket_size`: gradients that are reduced at a time."""
LIVE_NUMBERS = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`: weights that a rank keeps whole under ZeRO-3."""
SUB_GROUP_NUMBERS = 1_000_000_000
"""DeepSpeed's `sub_group_size`: what a rank steps on at a time under ZeRO-3."""
ON_THEIR_WAY = "gradients on their way to the ranks"
SHARD_BYTES = 5_000_000_000
"""Of an exported checkpoint, which rank 0 writes a shard at a time."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Numbers in the parts of a policy."""

    parameters: int
    """All that a rank holds of the policy, adapters and what peft copies among them."""
    trained: int
    largest: int
    """Of the largest tensor."""
    largest_trained: int
    tower: int
    projector: int
    stored: int
    """Of the model as it is exported: adapters are merged."""
    sent: int
    """What engines need after an update."""
    head_trained: bool


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Lines of one learner rank."""

    starting: tuple[Figure, ...]
    """Before the weights are sharded."""
    held: tuple[Figure, ...]
    """From the first update on, at every moment."""
    backward: tuple[Figure, ...]
    """At the backward's largest, beyond what is held."""
    sending: tuple[Figure, ...]
    """After the backward, where one bucket holds all gradients; several are sent while it goes on."""
    step: tuple[Figure, ...]
    """At the optimizer's step, beyond what is held."""
    host_starting: tuple[Figure, ...]
    """In the memory of the rank's machine, before anything is on a device."""
    host: tuple[Figure, ...]
    """There from the engine's start on, at every moment."""
    host_reference: tuple[Figure, ...]
    """There while the reference is read, beyond what is held."""

    @property
    def peak(self) -> float:
        """Most bytes on the device at any moment."""
        moments = (self.backward, self.sending, self.step)
        return max(total(self.starting), total(self.held) + max(map(total, moments)))


def parts_of(sizes: Sizes, model: Model) -> Parts:
    """The parts of a policy of these sizes, trained as `model` says."""
    shapes = sizes.shapes()
    numbers = {name: prod(shape) for name, shape in shapes.items()}
    projector = sizes.count(lambda name: name.startswith(PROJECTOR))
    trained, adapted = _trained_in_full(numbers, model), _adapted(numbers, model)
    rank = model.lora.rank if model.lora is not None else 0
    adapters = sum(rank * sum(shapes[name]) for name in adapted)
    layers = {engine_layer(name) for name in (*adapted, *trained)}
    copied = projector if model.lora is not None and model.projector == "trained" else 0
    return Parts(
        parameters=sum(numbers.values()) + adapters + copied,
        trained=adapters + sum(numbers[name] for name in trained),
        largest=max(numbers.values()),
        largest_trained=max((numbers[name] for name in trained), default=0),
        tower=sizes.count(lambda name: name.startswith(TOWER)),
        projector=projector,
        stored=sum(numbers.values()),
        sent=sizes.count(lambda name: engine_layer(name) in layers),
        head_trained=HEAD in trained,
    )


def rank_memory(config: Config, sizes: Sizes, work: Work, on_gpu: bool) -> RankMemory:
    """The lines of the rank that has most to do; the layers' activations are those of `work`.

    Every rank reads the model whole, and the reference too, before it is on a device or is sharded.
    """
    parts, learner = parts_of(sizes, config.model), config.learner
    held = [_weights(config, parts)] if learner.offload != "all" else []
    reference = [_reference(config, parts)] if config.algorithm.beta and config.model.lora is None else []
    held += reference
    states = _states(config, parts)
    offloaded = learner.offload != "none"
    if not offloaded:
        held += states
    held += _gradients(config, parts)
    bucket, sending = _bucket(config, parts, on_gpu), _sending(config, parts)
    if learner.zero_stage != 2:  # which gives it back when the backward ends
        held += bucket
        bucket = ()
    gathered, several = _gathered(config, parts), parts.trained > BUCKET_NUMBERS
    whole = figure("the whole model", "parameters * bytes", parameters=parts.stored, bytes=_width(config))
    host = [*states, *_gradients_on_the_host(config, parts)] if offloaded else []
    if learner.offload == "all":
        host.append(_weights(config, parts))
    return RankMemory(
        starting=(whole,),
        held=tuple(held),
        backward=(
            *activations(config, sizes, work, on_gpu),
            *_in_flight(config, sizes, work, parts),
            *gathered,
            *bucket,
            *(sending if several else ()),
        ),
        sending=() if several else (*bucket, *gathered, *sending),
        step=tuple(_step(config, parts, on_gpu)),
        host_starting=(replace(whole, what="reading the model"),),
        host=tuple(host),
        host_reference=tuple(replace(one, what="reading the reference") for one in reference),
    )


def checkpoint_parts(parts: Parts, config: Config) -> tuple[Figure, ...]:
    """What a checkpoint is made of."""
    width = _width(config)
    lines = [
        figure("hf/", "parameters * bytes", parameters=parts.stored, bytes=width),
        figure("trainer/: master weights and two moments", "trained * 12", trained=parts.trained),
    ]
    if config.model.lora is not None:
        lines.append(figure("adapter/", "trained * bytes", trained=parts.trained, bytes=width))
    return tuple(lines)


def checkpoint_memory(parts: Parts, config: Config) -> tuple[Figure, ...]:
    """What rank 0 holds on its machine while it writes a checkpoint: all of it, where training goes on meanwhile; else
    one part of the trainer's state, or one shard."""
    if config.checkpoint.in_background:
        return checkpoint_parts(parts, config)
    return (
        figure(
            "writing a checkpoint",
            "max(trained * 4, min(shard, parameters * bytes))",
            trained=parts.trained,
            shard=SHARD_BYTES,
            parameters=parts.stored,
            bytes=_width(config),
        ),
    )


def activations(config: Config, sizes: Sizes, work: Work, on_gpu: bool) -> tuple[Figure, ...]:
    """What the forward of a micro-batch saves for its backward, and what is computed again."""
    lines = _of_language(config, sizes.language, work, on_gpu)
    if config.model.audio_tower == "trained":
        lines += _of_tower(config, sizes.tower, work)
    return tuple(lines)


def _of_language(config: Config, language: Language, work: Work, on_gpu: bool) -> list[Figure]:
    """A layer saves, of a token: each norm its input and output before the gain (in float32, then in the weights'
    type), the inputs of five products of hidden width with queries and attention's output, keys and values, and four
    rows of the MLP."""
    again = config.learner.activation_checkpointing
    repeated = not on_gpu and language.heads > language.key_value_heads
    keys = (language.heads if repeated else language.key_value_heads) * language.head_size
    row = "((2 * (4 + bytes) + 5 * bytes) * hidden + 2 * bytes * keys + 4 * bytes * intermediate)"
    hidden = {"tokens": work.tokens, "hidden": language.hidden, "bytes": _width(config)}
    layer = hidden | {"keys": keys, "intermediate": language.intermediate}
    if again:
        lines = [
            figure("inputs of the language model's layers", "tokens * layers * hidden * bytes", **hidden,
                   layers=language.layers),
            figure("one of its layers, computed again", f"tokens * {row}", **layer),
        ]  # fmt: skip
    else:
        lines = [figure("the language model's layers", f"tokens * layers * {row}", **layer, layers=language.layers)]
    lines.append(
        figure("the last norm and the states that predict", "tokens * hidden * (4 + bytes) + targets * hidden * bytes",
               **hidden, targets=work.targets)
    )  # fmt: skip
    if not on_gpu:
        lines.append(
            figure(
                "attention masks",
                "groups * completions * group_tokens * 4 * layers",
                groups=work.groups_of_a_micro_batch,
                completions=work.group_tokens - work.lengths.prompt_tokens,
                group_tokens=work.group_tokens,
                layers=1 if again else language.layers,
            )
        )
    return lines


def _of_tower(config: Config, tower: Tower, work: Work) -> list[Figure]:
    """A layer saves nine rows of its width and two of its MLP."""
    clips, frames = work.groups_of_a_micro_batch, work.lengths.frames
    width = {"width": tower.width, "bytes": _width(config)}
    layers = width | {"positions": clips * tower_positions(frames), "layers": tower.layers}
    if config.learner.activation_checkpointing:
        kept = figure("inputs of the tower's layers", "positions * layers * width * bytes", **layers)
    else:
        kept = figure("the tower's layers", "positions * layers * (9 * width + 2 * intermediate) * bytes", **layers,
                      intermediate=tower.intermediate)  # fmt: skip
    convolutions = figure("its convolutions", "clips * frames * (3 * width + mel_bins) * bytes", **width,
                          clips=clips, frames=frames, mel_bins=tower.mel_bins)  # fmt: skip
    return [kept, convolutions]


def _in_flight(config: Config, sizes: Sizes, work: Work, parts: Parts) -> tuple[Figure, ...]:
    """What the backward makes and gives up again, counted as if all at one time."""
    language, width, learner = sizes.language, _width(config), config.learner
    logits = work.targets * language.vocabulary
    lines = [
        figure("two chunks of logits", "2 * min(targets * vocabulary, chunk) * 4", targets=work.targets,
               vocabulary=language.vocabulary, chunk=CHUNK_LOGITS),
        figure("gradients of an MLP's activations", "2 * tokens * intermediate * bytes", tokens=work.tokens,
               intermediate=language.intermediate, bytes=width),
    ]  # fmt: skip
    if parts.head_trained:
        copies = 2 if learner.zero_stage == 3 and logits > CHUNK_LOGITS else 1
        lines.append(
            figure("gradient of lm_head", "copies * vocabulary * hidden * bytes", copies=copies,
                   vocabulary=language.vocabulary, hidden=language.hidden, bytes=width)
        )  # fmt: skip
    return tuple(lines)


def _gathered(config: Config, parts: Parts) -> tuple[Figure, ...]:
    """Weights that are elsewhere, in shards or on the host, and whole here while they are used: from the forward until
    the gradients are sent."""
    if config.learner.zero_stage < 3 or (config.learner.ranks == 1 and config.learner.offload != "all"):
        return ()
    return (
        figure("weights that are whole for now", "min(parameters, live + largest) * bytes",
               parameters=parts.parameters, live=LIVE_NUMBERS, largest=parts.largest, bytes=_width(config)),
    )  # fmt: skip


def _sending(config: Config, parts: Parts) -> tuple[Figure, ...]:
    """Copies of the gradients that are sent at one time, and under ZeRO-3 the share that comes back."""
    learner = config.learner
    if learner.zero_stage == 3 and learner.ranks > 1:
        shares = {"ranks": learner.ranks}
        if parts.largest_trained > BUCKET_NUMBERS:  # goes alone, copied into float32 and then into shares
            return (figure(ON_THEIR_WAY, "largest * 4 * (2 + 1 / ranks)", largest=parts.largest_trained, **shares),)
        return (figure(ON_THEIR_WAY, "min(bucket, trained) * 4 * (1 + 1 / ranks)", bucket=BUCKET_NUMBERS,
                       trained=parts.trained, **shares),)  # fmt: skip
    if learner.zero_stage == 2 and _width(config) < FULL:
        return (figure(ON_THEIR_WAY, "min(bucket, trained) * 4", bucket=BUCKET_NUMBERS, trained=parts.trained),)
    return ()


def _weights(config: Config, parts: Parts) -> Figure:
    shards = config.learner.ranks if config.learner.zero_stage == 3 else 1
    return _shared("weights", "parameters * bytes", shards, parameters=parts.parameters, bytes=_width(config))


def _reference(config: Config, parts: Parts) -> Figure:
    """A copy of its own, whole on every rank; a frozen tower is the policy's."""
    if config.model.audio_tower == "frozen":
        return figure("reference policy, whole, without the frozen tower", "(parameters - tower) * bytes",
                      parameters=parts.stored, tower=parts.tower, bytes=_width(config))  # fmt: skip
    return figure("reference policy, whole", "parameters * bytes", parameters=parts.stored, bytes=_width(config))


def _states(config: Config, parts: Parts) -> list[Figure]:
    """AdamW's moments, and master weights unless the weights are their own."""
    stage = config.learner.zero_stage
    shards = config.learner.ranks if stage else 1
    lines = [_shared("AdamW's two moments", "trained * 8", shards, trained=parts.trained)]
    if stage or _width(config) < FULL:
        lines.insert(0, _shared("master weights", "trained * 4", shards, trained=parts.trained))
    return lines


def _gradients(config: Config, parts: Parts) -> list[Figure]:
    """Sums of gradients on the device: in the weights' type without ZeRO, else in float32."""
    learner, what = config.learner, "gradients"
    if learner.zero_stage == 0:
        return [figure(what, "trained * bytes", trained=parts.trained, bytes=_width(config))]
    if learner.zero_stage == 1:
        return [figure(f"{what}, whole", "trained * 4", trained=parts.trained)]
    on_the_host = learner.zero_stage == 3 or _width(config) == FULL
    if learner.offload != "none" and on_the_host:
        return []
    return [_shared(what, "trained * 4", config.learner.ranks, trained=parts.trained)]


def _gradients_on_the_host(config: Config, parts: Parts) -> list[Figure]:
    """With offloaded states: the optimizer's gradients, and beside them the sums or what is copied back."""
    ranks, stage, width = config.learner.ranks, config.learner.zero_stage, _width(config)
    lines = [_shared("the optimizer's gradients", "trained * 4", ranks, trained=parts.trained)]
    if stage == 3:
        return [*lines, _shared("sums of gradients", "trained * 4", ranks, trained=parts.trained)]
    lines.append(_shared("updated weights to copy back", "trained * bytes", ranks, trained=parts.trained, bytes=width))
    if stage == 2 and width == FULL:
        lines.append(_shared("sums of gradients", "trained * 4", ranks, trained=parts.trained))
    return lines


def _bucket(config: Config, parts: Parts, on_gpu: bool) -> tuple[Figure, ...]:
    """DeepSpeed's bucket: reserved whole on a GPU; on a CPU what is never written takes no memory."""
    learner, width = config.learner, _width(config)
    if learner.zero_stage == 0 or (learner.zero_stage == 1 and width < FULL and learner.offload == "none"):
        return ()
    numbers = BUCKET_NUMBERS if on_gpu else min(BUCKET_NUMBERS, parts.trained)
    bytes_of_each = width if learner.zero_stage == 2 else FULL
    return (figure("bucket of gradients", "numbers * bytes", numbers=numbers, bytes=bytes_of_each),)


def _step(config: Config, parts: Parts, on_gpu: bool) -> list[Figure]:
    """Gradients as the optimizer takes them, and on a GPU the roots of the second moments."""
    learner, width, trained, ranks = config.learner, _width(config), parts.trained, config.learner.ranks
    shards = ranks if learner.zero_stage else 1
    stepped = min(trained, SUB_GROUP_NUMBERS * ranks) if learner.zero_stage == 3 else trained
    lines: list[Figure] = []
    if learner.zero_stage == 0 and width == FULL:
        lines.append(figure(ON_THEIR_WAY, "min(bucket, trained) * 4", bucket=BUCKET_NUMBERS, trained=trained))
    elif learner.zero_stage == 0:
        lines.append(figure("gradients in float32", "trained * 4", trained=trained))
    elif learner.offload == "none" and (learner.zero_stage == 3 or width < FULL):
        lines.append(_shared("gradients, flat", "stepped * 4", shards, stepped=stepped))
    elif learner.offload == "none":
        lines.append(_shared("gradients, flat and copied", "stepped * 8", shards, stepped=stepped))
    elif learner.zero_stage == 1:
        lines.append(figure("gradients on their way to the host", "trained * (4 + 4 / ranks)", trained=trained,
                            ranks=ranks))  # fmt: skip
    if on_gpu and learner.offload == "none":
        lines.append(_shared("roots of the second moments", "stepped * 4", shards, stepped=stepped))
    return lines


def _trained_in_full(names: Iterable[str], model: Model) -> list[str]:
    """Released names of the weights that are trained themselves, not through adapters."""
    if model.lora is not None:
        return [name for name in names if name.startswith(PROJECTOR) and model.projector == "trained"]
    frozen = [TOWER] * (model.audio_tower == "frozen") + [PROJECTOR] * (model.projector == "frozen") + [POSITIONS]
    return [name for name in names if not name.startswith(tuple(frozen))]


def _adapted(names: Iterable[str], model: Model) -> list[str]:
    """Released names of the matrices that get an adapter."""
    lora = model.lora
    if lora is None:
        return []
    of_language, of_tower = lora.language_targets, lora.tower_targets
    found = []
    for name in names:
        *parents, layer, kind = name.split(".")
        if kind == "weight" and "layers" in parents and layer in (of_tower if name.startswith(TOWER) else of_language):
            found.append(name)
    return found


def _shared(what: str, expression: str, ranks: int, **terms: float) -> Figure:
    """A figure that is divided by the ranks, where there are several."""
    if ranks == 1:
        return figure(what, expression, **terms)
    return figure(what, f"{expression} / ranks", **terms, ranks=ranks)


def _width(config: Config) -> int:
    return BYTES[config.model.dtype]
