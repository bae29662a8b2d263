"""Federated learning on the forest: the SDK, the role machines, the strategies.

``import fl`` gives what an application's author needs and imports neither numpy nor torch.
"""

from .data.binding import Binding
from .sdk import App, Context, Metrics, Update, load
from .spec import Field, Stop

__all__ = ["App", "Binding", "Context", "Field", "Metrics", "Stop", "Update", "load"]
