"""Command lines from dataclasses, all in one style.

A verb declares its options as a frozen dataclass and calls `parse`, or `parse_method` when it takes a method's name:

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        scene: Positional[str]
        \"""Scene folder, or builtin:still.\"""
        run: Path
        \"""Run folder to write.\"""
        splits: Annotated[FlatOptions[SplitOptions], headed("split")] = field(default_factory=SplitOptions)

    def main(argv: list[str]) -> None:
        arguments = parse(argv, Arguments, prog="lumigraph eval")

The class docstring is the first line of --help and each field's docstring its entry. Usage errors print one message
and exit 2; --help exits 0. Nothing here imports torch.
"""

import contextlib
import dataclasses
import difflib
import inspect
import io
import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lumigraph.configs import registry

A = TypeVar("A")

Positional = tyro.conf.Positional
"""Marks a field as an argument without a flag: `scene: Positional[str]`."""

UseAppendAction = tyro.conf.UseAppendAction
"""Marks a list whose option is given once for each entry: `name: UseAppendAction[list[str]]` gives --name A --name B.
"""

FlatOptions = tyro.conf.OmitArgPrefixes
"""Marks a nested dataclass whose options carry no prefix: `options: FlatOptions[TrainOptions]` gives --max-steps."""

_STYLE = (tyro.conf.PositionalMetavarFromFieldName,)
_NAMES = {int: ("N", "a whole number"), float: ("NUMBER", "a number"), str: ("TEXT", "a text")}
"""How --help and messages name a type."""
_TYPES = ConstructorRegistry()


def headed(name: str) -> Any:
    """Gives the options of a nested dataclass the heading "NAME options" in --help: Annotated[..., headed("split")]."""
    return tyro.conf.arg(name=name, prefix_name=False)


@_TYPES.primitive_rule
def _plain_types(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Numbers and texts, the same or None, and rows of them: in tyro's messages they have Python's names."""
    inner = get_args(info.type)
    if info.type in _NAMES:
        return _one(info.type)
    if get_origin(info.type) in (Union, UnionType):
        kind = next((kind for kind in inner if kind in _NAMES), None)
        return _one(kind, or_none=True) if kind and set(inner) == {kind, NoneType} else None
    if get_origin(info.type) is tuple and inner and inner[0] in _NAMES:
        return _row(inner) if set(inner) <= {inner[0], Ellipsis} else None
    return None


def _one(kind: type, *, or_none: bool = False) -> PrimitiveConstructorSpec:
    name, words = _NAMES[kind]

    def read(texts: list[str]) -> Any:
        if or_none and texts[0] == "None":
            return None
        try:
            return kind(texts[0])
        except ValueError:
            raise ValueError(f"{texts[0]!r} is not {words}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{None}}|{name}" if or_none else name,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, kind) or (or_none and value is None),
        str_from_instance=lambda value: [str(value)],
    )


def _row(inner: tuple[Any, ...]) -> PrimitiveConstructorSpec:
    """Of tuple[kind, ...] or tuple[kind, kind]."""
    one, name = _one(inner[0]), _NAMES[inner[0]][0]
    free = inner[-1] is Ellipsis
    return PrimitiveConstructorSpec(
        nargs="*" if free else len(inner),
        metavar=f"[{name} [{name} ...]]" if free else " ".join([name] * len(inner)),
        instance_from_str=lambda texts: tuple(one.instance_from_str([text]) for text in texts),
        is_instance=lambda value: isinstance(value, tuple) and all(map(one.is_instance, value)),
        str_from_instance=lambda values: [str(value) for value in values],
    )


def parse(argv: list[str], dataclass_type: type[A], prog: str, default: A | None = None) -> A:
    """An instance of `dataclass_type` from `argv` (without the program's name); defaults from `default` if given."""
    # tyro takes the help's first lines from the docstring; a dataclass without one has an ugly generated signature.
    description = inspect.getdoc(dataclass_type) or ""
    if description.startswith(dataclass_type.__name__ + "("):
        description = ""
    start = tyro.MISSING_NONPROP if default is None else default
    return _read(argv, dataclass_type, prog, description, start)


def _read(
    argv: list[str], wanted: type[A], prog: str, description: str, default: Any = tyro.MISSING_NONPROP
) -> A:
    if {"-h", "--help"} & set(argv):
        _tell_in_whole_paragraphs(wanted)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(
                wanted,
                prog=prog,
                description=description,
                args=argv,
                config=_STYLE,
                default=default,
                registry=_TYPES,
            )
    except SystemExit:
        # What a dataclass refuses, tyro tells with the names that its fields have inside.
        lines = [line.strip("│╭╰─╮╯|+ ") for line in said.getvalue().splitlines()]
        words = " ".join(line for line in lines if line.strip("-─"))
        refused = re.search(r"Error parsing (?!--)[\w.-]+: (.+?)\s+For full helptext", words)
        if refused:
            usage_error(refused[1], prog)
        sys.stderr.write(said.getvalue())
        raise
    sys.stderr.write(said.getvalue())
    return parsed


def _tell_in_whole_paragraphs(options: Any) -> None:
    """Gives each field its docstring as one line of help, which tyro breaks to fit; of itself tyro keeps the breaks
    that the source has."""
    for part in _dataclasses_in(options):
        _tell_fields_in_whole_paragraphs(part)


def _tell_fields_in_whole_paragraphs(options: type) -> None:
    told = {
        of.arg_name: of.description
        for base in options.__mro__
        if dataclasses.is_dataclass(base)
        for of in docstring_parser.parse_from_object(base).params
    }
    kinds = get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        text = " ".join((told.get(field.name) or "").split())
        if text:
            field.metadata = MappingProxyType({**field.metadata, "help": text})
        _tell_in_whole_paragraphs(kinds[field.name])


def parse_method(
    argv: list[str], kind: registry.Kind, arguments_type: type[A], prog: str
) -> tuple[str, Any, A]:
    """(method name, its config, the verb's arguments) from `METHOD [--preset NAME] ...` with all options flat.

    `--preset` picks the config that the method's other options then change.
    """
    names = {name: entry for name, entry in registry.methods().items() if entry.kind == kind}
    if not argv:
        usage_error(f"which method? There are: {', '.join(names)}", prog)
    if argv[0] in ("-h", "--help"):
        # The options that all methods share; --help ends here.
        _read(["--help"], arguments_type, f"{prog} METHOD", _describe_methods(kind, prog, arguments_type))
    name, rest = argv[0], argv[1:]
    if name not in names:
        _no_such_method(name, rest, kind, prog)
    chosen, rest = _take_preset(rest, name, f"{prog} {name}")
    config_class = registry.load_config_class(name)
    with_both = _joined(arguments_type, config_class, name, chosen)
    _check_options_of_others(rest, with_both, names, name, prog)
    both: Any = _read(rest, with_both, f"{prog} {name}", _describe(name, arguments_type))
    return name, both.config, both.arguments


def _no_such_method(name: str, rest: list[str], kind: registry.Kind, prog: str) -> NoReturn:
    """Says what was meant: another verb, another order, a name like it, or one of all."""
    known = registry.methods()
    if name in known:
        other = {"teacher": "train", "student": "distill"}[known[name].kind]
        usage_error(f"{name} is a {known[name].kind}: lumigraph {other} {name}", prog)
    names = [each for each, entry in known.items() if entry.kind == kind]
    if rest and rest[0] in names:
        usage_error(f"the method comes first: {prog} {rest[0]} {name}", prog)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    usage_error(
        f"there is no {kind} {name!r}" + ("" if close else f"; there are {', '.join(names)}"), prog, close
    )


def _check_options_of_others(
    argv: list[str], own: type, names: Iterable[str], method: str, prog: str
) -> None:
    """Ends with a message where an option is one that only other methods have."""
    given = {word.partition("=")[0] for word in itertools.takewhile(lambda word: word != "--", argv)}
    # Without the exception --help would read the options of all methods before it answers.
    foreign = sorted(word for word in given - _options(own) - {"--help"} if word.startswith("--"))
    for word in foreign:
        having = [each for each in names if word in _options(registry.load_config_class(each))]
        if having:
            usage_error(f"{method} has no {word}; it is an option of {', '.join(having)}", prog)


def _options(dataclass_type: Any) -> set[str]:
    """The options that a dataclass gives, those of dataclasses in it among them."""
    found, kinds = set(), get_type_hints(dataclass_type, include_extras=True)
    for field in dataclasses.fields(dataclass_type):
        option = field.name.replace("_", "-")
        found |= {f"--{option}", f"--no-{option}"}.union(*map(_options, _dataclasses_in(kinds[field.name])))
    return found


def _dataclasses_in(kind: Any) -> Iterator[type]:
    """A type, if it is a dataclass, and those that it is made of."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        yield kind
    for inner in get_args(kind):
        yield from _dataclasses_in(inner)


def _describe_methods(kind: registry.Kind, prog: str, arguments_type: type) -> str:
    """What --help of a verb that takes a method says first: the methods and their presets."""
    lines = [inspect.getdoc(arguments_type) or "", "", "methods:"]
    methods = {name: entry for name, entry in registry.methods().items() if entry.kind == kind}
    width = max(map(len, methods))
    for name, entry in methods.items():
        lines.append(f"  {name:{width}s} {entry.summary}")
        presets = registry.load_presets(name)
        if presets:
            lines.append(f"  {'':{width}s} presets: {', '.join(presets)}")
    hint = (
        f"{prog} METHOD --help lists the method's own options as well, and --preset NAME starts from one of its "
        "presets. The options below are common to all methods."
    )
    return "\n".join([*lines, "", hint])


def usage_error(what: str, prog: str, close: list[str] | None = None) -> NoReturn:
    """Print one message and exit 2, as for every mistake on the command line."""
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    sys.stderr.write(f"lumigraph: {what}.{hint} See {prog} --help\n")
    raise SystemExit(2)


def _joined(arguments_type: type, config_class: type, name: str, default_config: Any) -> type:
    """A dataclass of the verb's arguments and the method's config, both without prefixes on their options."""
    flat = tyro.conf.OmitArgPrefixes
    config_field = (
        dataclasses.field(default=default_config) if default_config is not None else dataclasses.field()
    )
    return dataclasses.make_dataclass(
        f"{name} arguments",
        [
            ("arguments", Annotated[flat[arguments_type], tyro.conf.arg(name="")]),
            ("config", Annotated[flat[config_class], tyro.conf.arg(name=name)], config_field),
        ],
        frozen=True,
        kw_only=True,
    )


def _describe(name: str, arguments_type: type) -> str:
    presets = registry.load_presets(name)
    lines = [inspect.getdoc(arguments_type) or "", registry.method_entry(name).summary + "."]
    if presets:
        lines.append(f"--preset NAME starts from one of: {', '.join(presets)}; other options change it.")
    sizes = {preset: config.about for preset, config in presets.items() if hasattr(config, "about")}
    if sizes:
        width = max(map(len, sizes))
        lines.append("\n".join(f"  {preset:{width}s} {about}" for preset, about in sizes.items()))
    return "\n\n".join(lines)


def _take_preset(argv: list[str], name: str, prog: str) -> tuple[Any, list[str]]:
    """(the preset's config or None, `argv` without `--preset NAME`)."""
    chosen, rest, words = None, [], iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--preset" or word.startswith("--preset="):
            value = word.partition("=")[2] if "=" in word else next(words, "")
            with contextlib.suppress(KeyError):
                chosen = registry.load_presets(name)[value]
                continue
            presets = registry.load_presets(name)
            close = difflib.get_close_matches(value, presets, n=3, cutoff=0.5) or list(presets)
            usage_error(f"{name} has no preset {value!r}" if value else "--preset needs a name", prog, close)
        else:
            rest.append(word)
    return chosen, rest
