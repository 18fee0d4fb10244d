"""Command lines from dataclasses, all in one style.

A verb declares its options as a frozen dataclass and calls `parse`, or `parse_method` when it takes a method's name:

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        scene: Positional[str]
        \"""Scene folder, or builtin:still.\"""
        run: Path
        \"""Run folder to write.\"""

    def main(argv: list[str]) -> None:
        arguments = parse(argv, Arguments, prog="lumigraph eval")

The class docstring is the first line of --help and each field's docstring its entry. Usage errors print one message
and exit 2; --help exits 0. Nothing here imports torch.
"""

import contextlib
import dataclasses
import difflib
import inspect
import sys
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from lumigraph.configs import registry

A = TypeVar("A")

Positional = tyro.conf.Positional
"""Marks a field as an argument without a flag: `scene: Positional[str]`."""

FlatOptions = tyro.conf.OmitArgPrefixes
"""Marks a nested dataclass whose options carry no prefix: `options: FlatOptions[TrainOptions]` gives --max-steps."""

_STYLE = (tyro.conf.PositionalMetavarFromFieldName,)


def parse(argv: list[str], dataclass_type: type[A], prog: str, default: A | None = None) -> A:
    """An instance of `dataclass_type` from `argv` (without the program's name); defaults from `default` if given."""
    # tyro takes the help's first lines from the docstring; a dataclass without one has an ugly generated signature.
    description = inspect.getdoc(dataclass_type) or ""
    if description.startswith(dataclass_type.__name__ + "("):
        description = ""
    start = tyro.MISSING_NONPROP if default is None else default
    return tyro.cli(
        dataclass_type, prog=prog, description=description, args=argv, config=_STYLE, default=start
    )


def parse_method(
    argv: list[str], kind: registry.Kind, arguments_type: type[A], prog: str
) -> tuple[str, Any, A]:
    """(method name, its config, the verb's arguments) from `METHOD [--preset NAME] ...` with all options flat.

    `--preset` picks the config that the method's other options then change.
    """
    names = {name: entry for name, entry in registry.methods().items() if entry.kind == kind}
    if not argv or argv[0] in ("-h", "--help"):
        listing = method_help(kind, prog, inspect.getdoc(arguments_type) or "")
        if argv:
            sys.stdout.write(listing)
            raise SystemExit(0)
        usage_error(f"which method? There are: {', '.join(names)}", prog)
    name, rest = argv[0], argv[1:]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        usage_error(f"there is no {kind} {name!r}", prog, close or list(names))
    chosen, rest = _take_preset(rest, name, f"{prog} {name}")
    config_class = registry.load_config_class(name)
    with_both = _joined(arguments_type, config_class, name, chosen)
    both = tyro.cli(
        with_both,
        prog=f"{prog} {name}",
        args=rest,
        config=_STYLE,
        description=_describe(name, arguments_type),
    )
    return name, both.config, both.arguments


def method_help(kind: registry.Kind, prog: str, summary: str) -> str:
    """The --help of a verb that takes a method: the methods and their presets."""
    lines = [f"usage: {prog} METHOD [OPTIONS]", "", *summary.splitlines(), "", "methods:"]
    for name, entry in registry.methods().items():
        if entry.kind == kind:
            lines.append(f"  {name:10s} {entry.summary}")
            presets = registry.load_presets(name)
            if presets:
                lines.append(f"  {'':10s} presets: {', '.join(presets)}")
    return "\n".join([*lines, "", f"{prog} METHOD --help lists a method's options.", ""])


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
            ("arguments", Annotated[flat[arguments_type], tyro.conf.arg(name="")]),  # type: ignore[valid-type]
            ("config", Annotated[flat[config_class], tyro.conf.arg(name="method")], config_field),  # type: ignore[valid-type]
        ],
        frozen=True,
        kw_only=True,
    )


def _describe(name: str, arguments_type: type) -> str:
    presets = registry.load_presets(name)
    lines = [inspect.getdoc(arguments_type) or "", registry.method_entry(name).summary + "."]
    if presets:
        lines.append(f"--preset NAME starts from one of: {', '.join(presets)}; other options change it.")
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
