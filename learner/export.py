"""`python -m learner.export CHECKPOINT --out DIR`: a checkpoint as a model that transformers and vLLM load elsewhere.

CHECKPOINT is a run's directory (its newest checkpoint is taken), a checkpoint, or its hf/. Of a run with adapters
(`model.lora`) the adapter alone is written, in peft's format, or with --merge-lora the whole model. What was written is
read back, and every tensor has to be the one that was meant.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data.arguments import count
from data.checksums import changed_part
from data.command import command
from data.remote import WHOLE, Remote, RemoteError, copied, is_url
from data.step_files import checkpoint_name, checkpoint_step, checkpoints
from learner.hf import DTYPES, export_checkpoint, load_tensors
from learner.hf_files import (
    ModelError,
    copy_processor,
    load_processor,
    new_directory,
    read_json,
    save_tensors,
    stored_tensors,
    weight_files,
)
from learner.memory import SHARD_BYTES
from learner.released import check_model, load_config

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
EXAMPLES = """examples:
  python -m learner.export runs/mine --out mine                        the newest checkpoint
  python -m learner.export runs/mine/checkpoints/step_100 --out mine --dtype bfloat16
  python -m learner.export runs/adapted --out adapter                  the adapter alone, for peft
  python -m learner.export runs/adapted --out whole --merge-lora
"""


@dataclass(frozen=True, slots=True)
class Source:
    """What an export is made of."""

    model: Path
    """The whole model: a checkpoint's hf/, or any model directory."""
    adapter: Path | None
    """In peft's format, where the run trained one."""


@dataclass(slots=True)
class Digests:
    """SHA-256 of tensors by name: type, shape and bytes."""

    by_name: dict[str, str] = field(default_factory=dict)

    def noted(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The tensors, each noted as it passes."""
        for name, tensor in tensors:
            self.by_name[name] = digest(tensor)
            yield name, tensor


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = command("learner.export", __doc__, EXAMPLES)
    arguments.add_argument("checkpoint", help="path or URL of a run's directory, a checkpoint (step_N), or its hf/")
    arguments.add_argument("--out", required=True, type=Path, metavar="DIR", help="directory to write; a new one")
    arguments.add_argument("--merge-lora", action="store_true", help="of a run with adapters write the whole model")
    arguments.add_argument("--dtype", choices=DTYPES, help="type to cast the stored weights to; default as stored")
    arguments.add_argument(
        "--max-shard-bytes",
        type=count(1),
        default=SHARD_BYTES,
        metavar="N",
        help=f"of a file of weights ({SHARD_BYTES:,}), but for a tensor that is larger; a smaller model is one file",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(argv)
    try:
        source = find_source(options.checkpoint)
        if options.merge_lora and source.adapter is None:
            raise ModelError(f"{options.checkpoint} has no adapter to merge: leave --merge-lora out")
        dtype = DTYPES.get(options.dtype)
        if source.adapter is None or options.merge_lora:
            told = export_model(source.model, options.out, dtype, options.max_shard_bytes)
        else:
            told = export_adapter(source, options.out, dtype)
    except (ModelError, RemoteError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(told))
    return 0


def find_source(path: str) -> Source:
    """The model, and the adapter if there is one, that a path on the command line means."""
    if is_url(path):
        return _find_remote(path.rstrip("/"))
    given = Path(path).expanduser()
    if not given.is_dir():
        raise ModelError(f"{given} is no directory; name a run, a checkpoint (runs/NAME/checkpoints/step_N) or its hf/")
    given = given.resolve()  # `.` within hf/ has no name
    checkpoint = given
    if (given / "checkpoints").is_dir():
        checkpoint = _newest(given / "checkpoints")
    elif given.name == "hf":
        checkpoint = given.parent
    model = checkpoint / "hf" if (checkpoint / "hf").is_dir() else given
    if not (model / "config.json").is_file():
        raise ModelError(f"{given} holds neither a model (config.json) nor a checkpoint of one (hf/config.json)")
    adapter = checkpoint / "adapter"
    parts = [model, adapter] if adapter.is_dir() else [model]
    if changed := [what for part in parts for what in changed_part(part)]:
        raise ModelError(f"{checkpoint} is broken: {', '.join(changed[:3])}; take another checkpoint, or a copy of it")
    return Source(model, adapter if adapter.is_dir() else None)


def _find_remote(url: str) -> Source:
    """`find_source` of a URL; what is not exported is not copied."""
    remote = Remote(url)
    if remote.exists("checkpoints"):
        names = [name.split("/") for name in remote.files("checkpoints")]
        steps = [step for _, name, *rest in names if rest == [WHOLE] and (step := checkpoint_step(name)) is not None]
        if not steps:
            raise ModelError(f"{url}/checkpoints holds no complete checkpoint yet")
        return _find_remote(f"{url}/checkpoints/{checkpoint_name(max(steps))}")
    if url.endswith("/hf"):
        url = url.removesuffix("/hf")
    elif not remote.exists("hf"):
        return Source(copied(url), None)
    adapter = f"{url}/adapter"
    return Source(copied(f"{url}/hf"), copied(adapter) if Remote(adapter).exists() else None)


def export_model(source: Path, out: Path, dtype: torch.dtype | None, max_shard_bytes: int) -> list[str]:
    """Write the whole model, and read it back; gives what to tell.

    Raises:
        ModelError: the source is no model, `out` is there, or what was read back is not what was written.
    """
    load_processor(str(source))  # an export that cannot be asked anything is refused before it is written
    digests = Digests()
    tensors = digests.noted((name, tensor.to(dtype or tensor.dtype)) for name, tensor in load_tensors(str(source)))
    export_checkpoint(out, load_config(str(source)), tensors, str(source), max_shard_bytes)
    check_model(str(out))
    load_processor(str(out))
    _verify(out, digests.by_name, stored_tensors(out))
    files = weight_files(out)
    size = sum(file.stat().st_size for file in files)
    return [
        f"wrote {source} to {out}: {len(digests.by_name):,} tensors, {size / 1e9:,.3f} GB in {len(files)} file(s)",
        "verified: names and shapes are those of config.json, and every tensor read back has the SHA-256 that was "
        "written",
        f"load it with transformers, vLLM, or as model.path={out}",
    ]


def export_adapter(source: Source, out: Path, dtype: torch.dtype | None) -> list[str]:
    """Write the adapter alone with tokenizer and processor, and read it back; gives what to tell."""
    assert source.adapter is not None
    missing = [name for name in ADAPTER_FILES if not (source.adapter / name).is_file()]
    if missing:
        raise ModelError(
            f"{source.adapter} lacks {', '.join(missing)}; export with --merge-lora, or another checkpoint"
        )
    digests = Digests()
    with new_directory(out) as partial:
        stored = _adapter(source.adapter)
        tensors = dict(digests.noted((name, tensor.to(dtype or tensor.dtype)) for name, tensor in stored.items()))
        save_tensors(tensors, partial / "adapter_model.safetensors")
        shutil.copyfile(source.adapter / "adapter_config.json", partial / "adapter_config.json")
        copy_processor(source.model, partial)
    _verify(out, digests.by_name, _adapter(out).items())
    base = read_json(out / "adapter_config.json").get("base_model_name_or_path")
    here = "" if base is None or Path(str(base)).is_dir() or not os.path.isabs(str(base)) else ", which is not here"
    return [
        f"wrote the adapter of {source.adapter} to {out}: {len(tensors):,} tensors",
        "verified: every tensor read back has the SHA-256 that was written",
        f"it needs its base model, {base}{here}: peft.PeftModel.from_pretrained(base, {json.dumps(str(out))}); "
        f"--merge-lora writes a model that needs none",
    ]


def _adapter(directory: Path) -> dict[str, Tensor]:
    """An adapter's tensors by name."""
    file = directory / "adapter_model.safetensors"
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ModelError(
            f"{file} is cut short or damaged ({error}); export with --merge-lora, or another checkpoint"
        ) from error


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and bytes."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _verify(out: Path, written: Mapping[str, str], read: Iterable[tuple[str, Tensor]]) -> None:
    """Raise unless what is read are the tensors that were written, all of them; what is wrong is removed."""
    found = {name: digest(tensor) for name, tensor in read}
    differing = sorted(name for name in {*written, *found} if written.get(name) != found.get(name))
    if differing:
        shutil.rmtree(out)
        raise ModelError(
            f"{out}: {len(differing)} tensor(s) read back are not what was written, {differing[0]} first; the storage "
            f"or the memory of this machine is at fault, and the directory is removed"
        )


def _newest(folder: Path) -> Path:
    """The newest complete checkpoint."""
    complete = [path for path in checkpoints(folder) if (path / "hf" / "config.json").is_file()]
    if not complete:
        raise ModelError(f"{folder} holds no complete checkpoint yet")
    return complete[-1]


if __name__ == "__main__":
    sys.exit(main())
