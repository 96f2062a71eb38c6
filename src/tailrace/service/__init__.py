"""What users write: a `Service`, and the functions it offers. Here are the names; each is told in its own file."""

from __future__ import annotations

from tailrace.service.definitions import Definition, Tool, ToolOptions
from tailrace.service.hooks import Hooks
from tailrace.service.interceptors import Interceptor, Next
from tailrace.service.methods import Method, RpcOptions
from tailrace.service.middleware import Invocation, Middleware
from tailrace.service.prompts import Completion, Prompt, PromptOptions
from tailrace.service.resources import Resource, ResourceOptions
from tailrace.service.running import RunningServer
from tailrace.service.service import Service
from tailrace.service.viewing import Offered, Viewer

__all__ = [
    "Completion",
    "Definition",
    "Hooks",
    "Interceptor",
    "Invocation",
    "Method",
    "Middleware",
    "Next",
    "Offered",
    "Prompt",
    "PromptOptions",
    "Resource",
    "ResourceOptions",
    "RpcOptions",
    "RunningServer",
    "Service",
    "Tool",
    "ToolOptions",
    "Viewer",
]
