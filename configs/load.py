"""Read a configuration: a preset or a YAML file, changed by `key=value` overrides, checked against the schema.

All problems are reported at once, each with its dotted key, the value that was given and what would be right. YAML
is read by the rules of YAML 1.2 where 1.1 surprises: `1e-6` is a number, `no` and `12:30` are text, and a key that
stands twice is an error. A file with `base: NAME_OR_PATH` changes another one, key by key; a path is relative to it.

A configuration has levels: the base, the file on top of it, the overrides on top of both. Where a level names another
algorithm than those below it, what they say of the keys that the name stands for no longer counts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from configs.algorithms import GRPO
from configs.keys import Key, keys_by_name, section_names
from configs.schema import Config, Prompt

_NUMBER_STARTS = list("-+.0123456789")
_RESOLVERS = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), _NUMBER_STARTS),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)$"
        ),
        _NUMBER_STARTS,
    ),
    ("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"]),
)
_FOLDER = Path(__file__).parent

STUDY = "study.yaml"
"""Lies beside the presets and is none: `configs.study` reads it."""

_DIRECTORY_NAME = re.compile(r"^[^/\\\0]+$")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message lists every problem."""

    def __init__(self, origin: str, problems: Sequence[str]) -> None:
        self.origin = origin
        self.problems = tuple(problems)
        super().__init__("\n".join([f"configuration {origin}:", *(f"  {problem}" for problem in self.problems)]))


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of `_RESOLVERS`, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value != "<<":
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key_node.value!r} stands twice; remove one", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either `_Loader` or a YAML 1.1 reader would take for something else."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _starts in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _starts)
    _Dumper.add_implicit_resolver(_tag, _pattern, _starts)


def presets() -> tuple[str, ...]:
    """Names of the presets that come with the package, such as `tiny` or `recipes/sft`."""
    files = (file.relative_to(_FOLDER) for file in _FOLDER.rglob("*.yaml"))
    return tuple(sorted(file.with_suffix("").as_posix() for file in files if file.name != STUDY))


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> Config:
    """Load a preset by its bare name or a YAML file by its path, and apply `key=value` overrides.

    The values of overrides are YAML: `learner.learning_rate=1e-6`, `rewards=[{use: accuracy}]`. `run.name` defaults
    to the stem of the file. Raises `ConfigError` with all problems.
    """
    tree, stem = _tree(name_or_path)
    own: dict[Any, Any] = {}
    for override in overrides:
        _apply(own, override)
    tree = _under(tree, own)
    problems = [problem for override in overrides if (problem := _apply(tree, override)) is not None]
    run = tree.setdefault("run", {})
    if isinstance(run, dict) and run.get("name") in (None, ""):
        run["name"] = stem
    problems += _booleans_for_numbers(tree)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += [_explain(details) for details in error.errors()]
    else:
        problems += _beyond_the_schema(config)
    if problems:
        raise ConfigError(name_or_path, problems)
    return config


def load_prompt(name_or_path: str) -> Prompt:
    """The prompt of that name, or of a YAML file that holds the keys of `data.prompt`; raises `ConfigError`."""
    is_file = name_or_path.endswith((".yaml", ".yml"))
    written = _parsed(_file_text(Path(name_or_path)), name_or_path) if is_file else name_or_path
    try:
        return Prompt.model_validate(written)
    except ValidationError as error:
        found = [ErrorDetails(**{**details, "loc": ("data", "prompt", *details["loc"])}) for details in error.errors()]
        raise ConfigError(name_or_path, [_explain(details) for details in found]) from error


def dump_config(config: Config) -> str:
    """The whole configuration as YAML that `load_config` reads back unchanged."""
    text: str = yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, width=120)
    return text


def read_yaml(path: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds, read by the rules above; raises `ConfigError`."""
    return _mapping(_read(path)[0], path)


def _tree(name_or_path: str, above: tuple[str, ...] = ()) -> tuple[dict[Any, Any], str]:
    """The keys of the preset or file on top of those of its base, and its stem."""
    text, stem = _read(name_or_path)
    tree = _mapping(text, name_or_path)
    tree = {key: {} if value is None and key in section_names() else value for key, value in tree.items()}
    base = tree.pop("base", None)
    if base is None:
        return tree, stem
    if not isinstance(base, str):
        raise ConfigError(name_or_path, [f"base: {_shown(base)} is not the name of a preset or the path of a file"])
    if name_or_path not in presets() and base not in presets():
        base = str(Path(name_or_path).parent / base)
    if _is_any_of(base, (*above, name_or_path)):
        raise ConfigError(name_or_path, [f"base: {' -> '.join((*above, name_or_path, base))} comes back to itself"])
    return merged(_under(_tree(base, (*above, name_or_path))[0], tree), tree), stem


def _is_any_of(base: str, names: Sequence[str]) -> bool:
    """Whether it is one of these presets or files, by whatever way its path goes."""
    if base in presets():
        return base in names
    return Path(base).resolve() in [Path(name).resolve() for name in names if name not in presets()]


def _mapping(text: str, origin: str) -> dict[Any, Any]:
    tree = _parsed(text, origin)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(origin, [f"holds {_shown(tree)}, not sections such as `model:` and `data:`"])
    return tree


def merged(base: dict[Any, Any], tree: dict[Any, Any]) -> dict[Any, Any]:
    """The base with the keys of the tree in place of its own, section by section."""
    both = {key: merged(base[key], value) for key, value in tree.items() if _sections_both(base.get(key), value)}
    return base | tree | both


def flat(values: Mapping[str, Any], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """The values by dotted key, or with another separator."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}{separator}", separator)
        elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                found |= flat(item, f"{prefix}{key}[{number}]{separator}", separator)
        else:
            found[f"{prefix}{key}"] = value
    return found


def _under(lower: dict[Any, Any], higher: dict[Any, Any]) -> dict[Any, Any]:
    """What stays of a level below another: where that names another algorithm, not the keys that a name stands for."""
    section, above = lower.get("algorithm"), higher.get("algorithm")
    if not isinstance(section, dict) or not isinstance(above, dict):
        return lower
    name = above.get("name")
    if name is None or name == section.get("name", "grpo"):
        return lower
    return lower | {"algorithm": {key: value for key, value in section.items() if key not in GRPO}}


def _sections_both(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _read(name_or_path: str) -> tuple[str, str]:
    """Text and stem of the preset or file."""
    path = _FOLDER / f"{name_or_path}.yaml" if name_or_path in presets() else Path(name_or_path)
    if not path.is_file():
        near = _nearest(name_or_path.removesuffix(".yaml").removesuffix(".yml"), presets())
        known = f"did you mean the preset {near}?" if near else f"presets: {', '.join(presets()) or 'none'}"
        raise ConfigError(name_or_path, [f"is neither a file nor a preset; {known}"])
    return _file_text(path), path.stem


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"is not UTF-8 text (byte {error.start}); save it as UTF-8"]) from error
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error


def _parsed(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(origin, [f"is not YAML: {_one_line(error)}"]) from error


def _apply(tree: dict[Any, Any], override: str) -> str | None:
    """Set one override in the tree; what is wrong with it, if anything."""
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        return f"override {override!r} is not KEY=VALUE, for example run.max_steps=200"
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return f"{name}: {text!r} is not YAML: {_one_line(error)}"
    key = keys_by_name().get(name)
    if key is not None and key.text and not isinstance(value, str | list | dict):
        value = text
    section: Any = tree
    *parents, leaf = name.split(".")
    for depth, parent in enumerate(parents, start=1):
        above = ".".join(parents[:depth])
        if above not in keys_by_name() or above in section_names():
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
        else:
            section = None
        if not isinstance(section, dict):
            example = f"{above}=[{{use: accuracy}}]" if above == "rewards" else f"{above}=VALUE"
            return f"{name}: {above} is not a section; set it whole, for example {example}"
    section[leaf] = value
    return None


def _explain(details: ErrorDetails) -> str:
    """One problem that the schema found, in words of its keys."""
    location, kind, value = details["loc"], details["type"], details["input"]
    name = _dotted(location)
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind == "extra_forbidden":
        return f"{name}: unknown key (value {_shown(value)}); {_suggestion(location)}"
    key = _key_at(location)
    if kind == "finite_number" and key is not None:
        return f"{name}: {_shown(value)} is not finite; give {key.type}"
    if kind == "missing":
        what = f" ({key.doc[0].lower()}{key.doc[1:].rstrip('.')})" if key is not None and key.doc else ""
        return f"{name}: missing; set it{what}"
    if key is None:
        return f"{name}: {_shown(value)} is not a section of keys"
    problem = f"{name}: {_shown(value)} is not {key.type}"
    near = _nearest(str(value), key.literals)
    if near:
        return f"{problem}; did you mean {near}?"
    if key.type.startswith("text") and isinstance(value, bool | int | float):
        return f'{problem}; write it in quotes: "{value}"'
    return problem


def _booleans_for_numbers(tree: dict[Any, Any]) -> list[str]:
    """`true` counts as 1 in Python; nobody means it."""
    keys = ((location, value, _key_at(location)) for location, value in _booleans(tree))
    return [
        f"{_dotted(location)}: {_shown(value)} is not {key.type}"
        for location, value, key in keys
        if key is not None and key.numeric
    ]


def _booleans(value: Any, location: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], bool]]:
    """Every `true` and `false` of a tree, and where it is."""
    if isinstance(value, bool):
        yield location, value
    elif isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _booleans(item, (*location, name))


def _beyond_the_schema(config: Config) -> list[str]:
    """Problems of a configuration that fits the schema's types: a name that is no folder's."""
    if not _DIRECTORY_NAME.match(config.run.name) or config.run.name in (".", ".."):
        return [f"run.name: {config.run.name!r} is not the name of a directory; the place goes into run.dir"]
    return []


def _suggestion(location: Sequence[int | str]) -> str:
    """The nearest key to an unknown one: in its section first, then anywhere."""
    parent, leaf = _schema_name(location[:-1]), str(location[-1])
    prefix = f"{parent}." if parent else ""
    if parent:
        siblings = [name[len(prefix) :] for name in keys_by_name() if name.startswith(prefix)]
    else:
        siblings = [*(name for name in section_names() if name != "rewards[]"), "rewards"]
    near = _nearest(leaf, siblings)
    if near:
        return f"did you mean {_dotted((*location[:-1], near))}?"
    elsewhere = {name.rpartition(".")[2]: name for name in keys_by_name()}
    near = _nearest(leaf, tuple(elsewhere), cutoff=0.8)
    if near:
        return f"did you mean {elsewhere[near]}?"
    return f"{parent or 'a configuration'} has {', '.join(siblings)}"


def _key_at(location: Sequence[int | str]) -> Key | None:
    """The key that the location is, or lies in."""
    for length in range(len(location), 0, -1):
        name = _schema_name(location[:length])
        if name in keys_by_name():
            return keys_by_name()[name]
        if name in section_names():
            return None
    return None


def _schema_name(location: Sequence[int | str]) -> str:
    """`rewards[].use` for ("rewards", 1, "use")."""
    return re.sub(r"\[\d+\]", "[]", _dotted(location))


def _dotted(location: Sequence[int | str]) -> str:
    """`rewards[1].use` for ("rewards", 1, "use")."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _nearest(name: str, candidates: Sequence[str], cutoff: float = 0.6) -> str | None:
    return next(iter(difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)), None)


def _shown(value: Any) -> str:
    """The value as a user wrote it, at most 80 characters."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    if isinstance(value, Mapping | list | tuple):
        text = f"{'a mapping' if isinstance(value, Mapping) else 'a list'} {text}"
    return text if len(text) <= 80 else text[:77] + "..."


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
