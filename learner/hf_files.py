"""Files of a Hugging Face checkpoint directory: where they lie, its safetensors, its tokenizer and processor.

Names of tensors are those of the files; `learner.released` gives them their meaning.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from data.prompts import END_OF_TURN
from data.remote import Remote, copied, is_url

if TYPE_CHECKING:  # the processor alone takes eight seconds of a CPU to import, and is often not needed
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

INDEX_FILE = "model.safetensors.index.json"
DOWNLOADED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "model.bin"]
"""Files of a hub repository that are fetched: no pickled weights."""

TEMPLATE = "chat_template.jinja"

PROCESSOR_FILES = (
    "added_tokens.json",
    TEMPLATE,
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""What an export copies from the directory that it takes its processor from, where present."""

PLAIN_TOKENIZERS = ("Qwen2Tokenizer", "TokenizersBackend")
"""Classes of a tokenizer_config.json that are loaded as they are named."""


class ModelError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the mend."""


@dataclass(frozen=True)
class Processor:
    """What turns text and waveforms into a model's inputs, and back."""

    directory: Path
    tokenizer: PreTrainedTokenizerBase
    chat_template: str
    audio_token_id: int
    """Of `<|AUDIO|>`, the placeholder of a clip."""
    stop_token_ids: tuple[int, ...]
    """Tokens that end a completion: those of generation_config.json, else the tokenizer's end of sequence, and the end
    of the turn, which base checkpoints do not name."""

    @cached_property
    def feature_extractor(self) -> WhisperFeatureExtractor:
        """Makes a waveform the tower's input; loaded when it is first asked for."""
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor.from_pretrained(self.directory)


def load_processor(path_or_id: str) -> Processor:
    """Tokenizer, feature extractor and chat template of a checkpoint, as transformers' `Qwen2AudioProcessor` has them.

    Raises:
        ModelError: a file is missing or broken, or tokenizer and model do not belong together.
    """
    directory = resolve(path_or_id)
    needed = {
        "configuration": ("config.json",),
        "tokenizer": ("tokenizer.json", "vocab.json"),
        "tokenizer configuration": ("tokenizer_config.json",),
        "feature extractor": ("preprocessor_config.json", "processor_config.json"),
    }
    for part, files in needed.items():
        if not any((directory / file).is_file() for file in files):
            raise ModelError(f"{directory} has no {part} ({' or '.join(files)}); copy it from the base checkpoint")
    for file in needed["feature extractor"]:  # which is loaded later, and elsewhere
        if (directory / file).is_file():
            read_json(directory / file)
    tokenizer, template, audio_token = _plain(directory) or _by_processor(directory)
    audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
    expected = read_json(directory / "config.json").get("audio_token_index")
    if audio_token_id != expected:
        raise ModelError(
            f"{directory}: the tokenizer gives {audio_token} the id {audio_token_id}, config.json says "
            f"audio_token_index {expected}; tokenizer and model do not belong together"
        )
    return Processor(
        directory=directory,
        tokenizer=tokenizer,
        chat_template=template,
        audio_token_id=audio_token_id,
        stop_token_ids=_stop_token_ids(directory, tokenizer),
    )


def _plain(directory: Path) -> tuple[PreTrainedTokenizerBase, str, str] | None:
    """Tokenizer, template and audio token of a directory of today's form; None where its files leave more open."""
    kind = read_json(directory / "tokenizer_config.json").get("tokenizer_class")
    files = [directory / name for name in ("processor_config.json", TEMPLATE)]
    if kind not in PLAIN_TOKENIZERS or not all(file.is_file() for file in files):
        return None
    stated = read_json(files[0])
    if "audio_token" not in stated or "chat_template" in stated or (directory / "additional_chat_templates").exists():
        return None
    import transformers

    tokenizer = getattr(transformers, kind).from_pretrained(directory)
    return tokenizer, files[1].read_text(), getattr(tokenizer, "audio_token", stated["audio_token"])


def _by_processor(directory: Path) -> tuple[PreTrainedTokenizerBase, str, str]:
    """The same of any directory."""
    from transformers import Qwen2AudioProcessor

    loaded = Qwen2AudioProcessor.from_pretrained(directory)
    return loaded.tokenizer, loaded.chat_template, loaded.audio_token


def _stop_token_ids(directory: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    generation = directory / "generation_config.json"
    stops = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if stops is None:
        stops = tokenizer.eos_token_id
    end_of_turn = tokenizer.get_vocab().get(END_OF_TURN)
    named = [*(stops if isinstance(stops, list) else [stops]), end_of_turn]
    return tuple(dict.fromkeys(token for token in named if token is not None))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint."""
    try:
        content = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, not an object; copy it again")
    return content


def model_directory(path: str) -> str:
    """The model in a checkpoint or a model directory, absolute since actors start elsewhere; a hub id as it is."""
    if is_url(path):
        return f"{path.rstrip('/')}/hf" if Remote(path).exists("hf/config.json") else path.rstrip("/")
    inner = Path(path) / "hf"
    found = inner if inner.is_dir() else Path(path)
    return str(found.absolute()) if found.is_dir() else path


def resolve(path_or_id: str) -> Path:
    """The local directory of a checkpoint: the directory itself, or the copy of a URL or hub id, fetched if needed."""
    if is_url(path_or_id):
        return copied(path_or_id, DOWNLOADED)
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{path} is a file; name the checkpoint directory that holds it")
    if path.is_absolute() or path_or_id.startswith((".", "~")) or len(path.parts) > 2:
        raise ModelError(f"{path} does not exist; name a checkpoint directory or a hub id such as Qwen/Qwen2-Audio-7B")
    try:
        return Path(snapshot_download(path_or_id, allow_patterns=DOWNLOADED))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path_or_id!r} is no directory here, and fetching it from the hub failed ({type(error).__name__}: "
            f"{error}); check the name and the network, or name a local checkpoint directory"
        ) from error


def tensor_names(directory: Path) -> set[str]:
    """Names of every stored tensor; only headers are read."""
    return {name for file in weight_files(directory) for name in sorted(_open(file, "np").keys())}


def stored_shapes(directory: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Stored (name, shape) pairs; only headers are read."""
    for file in weight_files(directory):
        content = _open(file, "np")
        for name in sorted(content.keys()):
            yield name, tuple(content.get_slice(name).get_shape())


def stored_tensors(directory: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
    """Stored (name, tensor) pairs whose name is wanted, one in memory at a time."""
    for file in weight_files(directory):
        content = _open(file)
        for name in sorted(content.keys()):
            if wanted(name):
                yield name, content.get_tensor(name)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, single or sharded."""
    index_file = directory / INDEX_FILE
    if index_file.is_file():
        index = read_json(index_file)
        if not isinstance(index.get("weight_map"), dict):
            raise ModelError(f"{index_file} has no weight_map, so it is no index of shards; copy it again")
        shards = sorted(set(index["weight_map"].values()))
        missing = [shard for shard in shards if not (directory / shard).is_file()]
        if missing:
            raise ModelError(f"{directory} lacks {', '.join(missing)}, which {INDEX_FILE} names; copy them again")
        return [directory / shard for shard in shards]
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    if list(directory.glob("*.bin")):
        raise ModelError(f"{directory} holds pickled weights (*.bin) only; save them as safetensors")
    raise ModelError(f"{directory} holds no weights: neither model.safetensors nor {INDEX_FILE}")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to write to, which takes the name `path` when the block ends well.

    Raises:
        ModelError: something is at `path` already.
    """
    if is_taken(path):
        raise ModelError(f"{path} exists already; export to a new directory or move it away")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_taken(path: Path) -> bool:
    """Whether there is more at `path` than an empty directory."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def copy_processor(source: Path, target: Path) -> None:
    """Copy what a model directory has of tokenizer, processor and generation settings."""
    for name in PROCESSOR_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write one safetensors file, which those may read who may read other files that are made here.

    safetensors 0.8 makes it readable by its owner alone, whatever the umask.
    """
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata={"format": "pt"})
    if path.stat().st_mode != mode:
        path.chmod(mode)


def write_shards(directory: Path, tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int) -> None:
    """Write tensors as they come to model.safetensors, or to numbered shards with an index where they are larger.

    A shard is closed before it would pass `max_shard_bytes`; a single larger tensor still has a shard of its own.
    """
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}
    held_bytes = total_bytes = 0

    def close() -> None:
        save_tensors(held, directory / f"shard-{len(shards)}")
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        tensor = tensor.detach().cpu().contiguous()
        if held and held_bytes + tensor.nbytes > max_shard_bytes:
            close()
            held_bytes = 0
        held[name] = tensor
        held_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
    close()
    if len(shards) == 1:
        (directory / "shard-0").rename(directory / "model.safetensors")
        return
    weight_map = {}
    for number, names in enumerate(shards):
        shard = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (directory / f"shard-{number}").rename(directory / shard)
        weight_map |= dict.fromkeys(names, shard)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _open(file: Path, framework: str = "pt") -> safe_open:
    try:
        return safe_open(file, framework=framework)
    except SafetensorError as error:
        raise ModelError(f"{file} is cut short or damaged ({error}); copy or export it again") from error
