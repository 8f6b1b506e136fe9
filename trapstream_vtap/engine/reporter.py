# SPDX-License-Identifier: Apache-2.0
"""Sentences for the person at the terminal."""

from __future__ import annotations

import sys
import threading

from trapstream_vtap.engine import events
from trapstream_vtap.errors import printable
from trapstream_vtap.words import amount, nearest

_speaking = threading.Lock()


def report(event: events.Event) -> None:
    """Say EVENT on standard error; from any thread, each sentence a line of its own."""
    if isinstance(event, events.Progress) and not event.asked:
        return
    with _speaking:
        sys.stderr.write(f"vtap-stream: {printable(sentence(event))}\n")
        sys.stderr.flush()


def sentence(event: events.Event) -> str:  # noqa: C901, PLR0911, PLR0912 - one for each kind
    """What EVENT is in words."""
    match event:
        case events.Note(words):
            return words
        case events.Measuring(what, form, sinks):
            streaming = f", streaming {form} to {', '.join(sinks)}" if sinks else ""
            return f"measuring {what}{streaming}"
        case events.Serving(what, urls):
            return f"{what} at {' and '.join(urls)}"
        case events.InterfaceMissing(name, present):
            when = f"it is measured when it is (there are {', '.join(present)})"
            return f"{name} is not there yet; {when}.{nearest(name, present)}".removesuffix(".")
        case events.NothingFits((), present):
            return f"no interface is up yet (there are {', '.join(present)})"
        case events.NothingFits(chosen, present):
            return f"no interface fits {','.join(chosen)} yet (there are {', '.join(present)})"
        case events.InterfaceGone(name):
            return f"{name} is gone; it is measured again when it is back"
        case events.InterfaceThere(name, again):
            return f"{name} is {'back, and measured again' if again else 'there, and measured'}"
        case events.InterfaceLeft(name):
            return f"{name} is not chosen any more, and not measured"
        case events.InterfaceRefused(why):
            return f"an interface that has come is not measured yet: {why}"
        case events.ClockSet():
            return "the clock was set; the grid of intervals follows it"
        case events.Reloaded(told):
            return ", ".join(("the configuration was read again", *told))
        case events.ReloadRefused(why):
            return f"the configuration stays as it was: {why}"
        case events.Progress():
            return progress(event)
        case events.Ended(told):
            return "; ".join(told)
    raise TypeError(event)


def progress(event: events.Progress) -> str:
    """How far a run is."""
    seen = " and ".join(amount(number, noun) for noun, number in event.seen)
    return "; ".join(filter(None, (f"{seen} seen", event.delivered)))
