"""Errors as one line on stderr, as JSON on stdout where JSON was asked for, and as exit codes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import traceback
from typing import Any, NoReturn

import click

from bitcompress.errors import BitcompressError

WORDS = "bitcompress.words"
"""Where the context keeps what was typed: options may be wrong, but --json and -v still count."""
STDOUT = "bitcompress.stdout"
"""Where the context keeps the stream for JSON."""
INTERRUPTED = 130


class Commands(click.Group):
    """A group of commands in which no error ends in a traceback, unless -v asks for it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words as they were typed."""
        ctx.meta[WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; give errors their exit codes.

        Under --json what the user's own code prints goes to stderr: stdout is for the JSON alone.
        """
        ctx.meta[STDOUT] = sys.stdout
        own = contextlib.redirect_stdout(sys.stderr) if _json(ctx) else contextlib.nullcontext()
        try:
            with own:
                return super().invoke(ctx)
        except BitcompressError as error:
            _fail(ctx, str(error), error.exit_code, type(error).__name__)
        except click.exceptions.Exit:
            raise
        except click.ClickException as error:
            _as_json(ctx, error.format_message(), error.exit_code, "UsageError")
            raise
        except (KeyboardInterrupt, click.Abort):
            resumable = ctx.invoked_subcommand in ("quantize", "binarize")
            go_on = "; run the same command with --resume to go on" if resumable else ""
            _fail(ctx, f"interrupted{go_on}", INTERRUPTED, "Interrupted")
        except BrokenPipeError:
            raise  # the reader of stdout has seen enough; click ends quietly
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
                _let_go(ctx.meta[STDOUT])
                _fail(ctx, f"stdout cannot be written: {error.strerror}", 2, "OutputError")
            kind = type(error).__name__
            seen = "" if _verbose(ctx) else "-v shows where; "
            _fail(ctx, f"unexpected {kind}: {error} ({seen}please report it)", 1, kind)


def _let_go(stream: Any) -> None:
    """What a full stdout still holds goes nowhere: Python would try again when it ends."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file has nothing to let go
        place = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, place)
        os.close(nowhere)


def _verbose(ctx: click.Context) -> bool:
    return bool({"-v", "--verbose"} & set(ctx.meta.get(WORDS, ())))


def _json(ctx: click.Context) -> bool:
    return "--json" in ctx.meta.get(WORDS, ())


def real_stdout() -> Any:
    """The stream that JSON goes to; None, which is stdout, outside of a command."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(STDOUT)


def _as_json(ctx: click.Context, message: str, code: int, kind: str) -> None:
    if _json(ctx):
        error = {"type": kind, "message": message, "exit_code": code}
        with contextlib.suppress(OSError):  # stdout may be what failed; stderr tells it, too
            click.echo(json.dumps({"error": error}))


def _fail(ctx: click.Context, message: str, code: int, kind: str) -> NoReturn:
    """One line each mistake, and the end."""
    _as_json(ctx, message, code, kind)
    if _verbose(ctx):
        click.echo(traceback.format_exc(), err=True, nl=False)
    for line in message.splitlines() or [""]:
        click.echo(f"error: {line}", err=True)
    ctx.exit(code)
