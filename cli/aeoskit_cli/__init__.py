"""The command line: it parses, calls one function, prints; it decides nothing."""

from aeoskit_cli._main import main as main
