"""What a typed function looks like from outside: its arguments and its result as JSON Schema 2020-12.

A function's type hints are read once, when it is defined. From then on `Arguments.decode` turns
JSON into keyword arguments and `Result.encode` turns the value returned into JSON, both checked
against the schemas that clients were shown. msgspec does the work; pydantic only where the hints
come from it. What a call is, and how the function is run, is left to the layers above.
"""

from __future__ import annotations

from tailrace.schema.arguments import Arguments, InvalidArguments, arguments_of
from tailrace.schema.docstrings import Docstring, parse_docstring
from tailrace.schema.hints import MISSING, Parameter, Signature, place_of, read_signature
from tailrace.schema.results import InvalidResult, Result, encode_value, result_of
from tailrace.schema.strings import choices_of, decode_strings

__all__ = [
    "MISSING",
    "Arguments",
    "Docstring",
    "InvalidArguments",
    "InvalidResult",
    "Parameter",
    "Result",
    "Signature",
    "arguments_of",
    "choices_of",
    "decode_strings",
    "encode_value",
    "parse_docstring",
    "place_of",
    "read_signature",
    "result_of",
]
