"""A verb as a command: its options in sections of the help, with examples; and options of all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from loratools.cli.layout import MAX_WIDTH, Context, write_examples, write_section
from loratools.cli.unknown import names_of_files, no_such_option, refuse_short_with_equals
from loratools.cli.verbosity import reporting, verbosity_options
from loratools.errors import EMPTY_PATH, NO_OUTPUT
from loratools.typed import running
from loratools.version import __version__

#: The function of a verb, to which decorators add options.
Command = TypeVar("Command", bound=Callable[..., Any])

#: A path; where it cannot be read, the error is that of the file that is.
PATH = click.Path(readable=False)
ADAPTER = "A LoRA or other adapter: a folder, a file, or hf://owner/name[@revision] on the Hub."
BASE = "A model: a folder, a safetensors file, or hf://owner/name[@revision] on the Hub."
#: Explanation of the patterns that options take; they point to it.
_PATTERNS = (
    "GLOB is compared with the whole name of a tensor, and with the name of its module. In it * "
    "stands for any characters, dots too, ? for one, and [0-9] for one of these. '*.q_proj' is "
    "each module q_proj, and 'model.layers.[0-9].*' all of layers 0 to 9. Put it between quotes: "
    "without them your shell may change it. `loratools inspect ADAPTER --modules` lists the names."
)
_GLOB = "GLOB"
#: The section of options that no verb has put into another.
_GENERAL = "Running and reporting"
#: Where the function of a verb keeps the section of each of its options, by the option's name.
_SECTIONS = "__sections__"

CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": MAX_WIDTH,
}


def section(title: str, *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds `options` to a verb, in this section of its help.

    Options in no section are in the last one, of running and reporting.
    """

    def add(function: Command) -> Command:
        before = len(_params(function))
        for option in reversed(options):
            function = option(function)
        added = {str(param.name): title for param in _params(function)[before:]}
        setattr(function, _SECTIONS, {**getattr(function, _SECTIONS, {}), **added})
        return function

    return add


def _params(function: Callable[..., Any]) -> list[click.Parameter]:
    """The options that decorators have given to a function so far."""
    found: list[click.Parameter] = getattr(function, "__click_params__", [])
    return found


class Verb(click.Command):
    """A verb: a command with its options in sections, with examples, and options of all verbs.

    `arguments` explains the arguments, and `examples` are pairs: what a command does, and the
    command.
    """

    context_class = Context

    def __init__(
        self,
        *arguments_: Any,
        arguments: Mapping[str, str] | None = None,
        examples: Sequence[tuple[str, str]] = (),
        **settings: Any,
    ) -> None:
        settings.setdefault("context_settings", CONTEXT_SETTINGS)
        super().__init__(*arguments_, **settings)
        self.arguments = arguments or {}
        self.examples = tuple(examples)
        self.params += common_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; an option that the verb does not have is answered by its own."""
        refuse_short_with_equals(args, ctx)
        given = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise names_of_files(given, ctx) or no_such_option(error, ctx) from error
        except click.BadOptionUsage as error:  # which the parser leaves without a context
            error.ctx = error.ctx or ctx
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb, and with -v say what it read and how long it took."""
        self._refuse_empty(ctx)
        with reporting(), running(str(self.name)):
            return super().invoke(ctx)

    def _refuse_empty(self, ctx: click.Context) -> None:
        """Refuse an empty value, such as the shell makes of a variable that is not set."""
        for param in self.params:
            given = ctx.params.get(str(param.name))
            texts = given if isinstance(given, tuple) else (given,)
            if any(isinstance(text, str) and not text.strip() for text in texts):
                raise click.BadParameter(_empty(param), ctx, param)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, and the options by section."""
        write_section(formatter, "Arguments", self.arguments.items())
        own: Mapping[str, str] = getattr(self.callback, _SECTIONS, {})
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            # Click gives arguments a row too, since 8.5.
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                title = own.get(str(param.name), _GENERAL)
                sections.setdefault(title, []).append(_marked(param, *record))
        general = sections.pop(_GENERAL, [])
        for title, rows in (*sections.items(), (_GENERAL, general)):
            self.format_section(formatter, title, rows)
        self._format_more(formatter)

    def format_section(
        self, formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]
    ) -> None:
        """Write one section of the options."""
        write_section(formatter, title, rows)

    def _format_more(self, formatter: click.HelpFormatter) -> None:
        """Write what follows the options: an explanation of patterns, and examples."""
        if any(_GLOB in (param.metavar or "") for param in self.params):
            with formatter.section("Patterns"):
                formatter.write_text(_PATTERNS)
        write_examples(formatter, self.examples)


def _empty(param: click.Parameter) -> str:
    """What is wrong with an empty value of an option or an argument."""
    if isinstance(param.type, click.Path):
        return EMPTY_PATH.removesuffix(NO_OUTPUT) if param.name == "output" else EMPTY_PATH
    if isinstance(param, click.Argument):
        return "an empty text; give a name on the Hub"
    return "an empty text; set the variable that it comes from, or leave the option out"


def common_options() -> list[click.Parameter]:
    """The options that the program and each verb have."""
    version = click.version_option(
        __version__, "-V", "--version", prog_name="loratools", help="Show the version and exit."
    )
    return [*verbosity_options(), *_params(version(lambda: None))]


def _marked(param: click.Parameter, names: str, text: str) -> tuple[str, str]:
    """A row of the help, which also says whether the option is repeatable or takes a pattern."""
    marks = ["repeatable"] if param.multiple else []
    marks += ["see Patterns"] if _GLOB in (param.metavar or "") else []
    text = "  ".join([text, *(f"[{mark}]" for mark in marks)])
    return names, text.replace("[x>=", "[at least ").replace("]  [", "; ")
